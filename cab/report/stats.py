"""95% intervals of means and of differences of means, by Student's t; the second is Welch's, for unequal spreads."""

import math
import statistics
from collections.abc import Sequence

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, 97.5th percentile, for 1 to 30 degrees of freedom."""


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def welch_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Of mean(first) - mean(second); None where either has fewer than two values."""
    if min(len(first), len(second)) < 2:
        return None
    difference = statistics.fmean(first) - statistics.fmean(second)
    one, two = (statistics.variance(values) / len(values) for values in (first, second))
    if one + two == 0:
        return difference, difference
    freedom = (one + two) ** 2 / (one**2 / (len(first) - 1) + two**2 / (len(second) - 1))
    half = _quantile(math.floor(freedom)) * math.sqrt(one + two)
    return difference - half, difference + half


def _quantile(freedom: int) -> float:
    """Beyond the table by its expansion in 1 / freedom; rounding `freedom` down makes an interval wider."""
    return T_975[freedom - 1] if freedom <= len(T_975) else 1.95996 + 2.3722 / freedom + 2.82 / freedom**2
