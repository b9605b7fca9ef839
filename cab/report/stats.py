"""Estimates with 95% intervals: means (Student's t), differences of means (Welch), correlations (Fisher)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A value, with its interval where one is known."""

    value: float
    interval: Interval | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)

    def divided(self, unit: float) -> "Estimate":
        """By a positive number."""
        interval = Interval(self.interval.low / unit, self.interval.high / unit) if self.interval else None
        return Estimate(self.value / unit, interval)


def mean(values: Sequence[float]) -> Estimate:
    return Estimate(statistics.fmean(values), t_interval(values))


def t_interval(values: Sequence[float]) -> Interval | None:
    """Of the mean; None for fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return None
    center, deviation = statistics.fmean(values), statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Interval(center - half, center + half)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    return Estimate(statistics.fmean(first) - statistics.fmean(second), welch_interval(first, second))


def welch_interval(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Of mean(first) - mean(second); None where either has fewer than two values."""
    from scipy import stats

    if min(len(first), len(second)) < 2:
        return None
    gap = statistics.fmean(first) - statistics.fmean(second)
    one, two = statistics.variance(first) / len(first), statistics.variance(second) / len(second)
    if one + two == 0:
        return Interval(gap, gap)
    freedom = (one + two) ** 2 / (one**2 / (len(first) - 1) + two**2 / (len(second) - 1))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(one + two)
    return Interval(gap - half, gap + half)


def pearson(x: Sequence[float], y: Sequence[float]) -> Estimate | None:
    """Pearson's r, with Fisher's interval; None where x or y does not vary."""
    from scipy import stats

    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    result = stats.pearsonr(x, y)
    low, high = result.confidence_interval()
    return Estimate(float(result.statistic), Interval(float(low), float(high)))


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rho; None where x or y does not vary."""
    from scipy import stats

    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(stats.spearmanr(x, y).statistic)
