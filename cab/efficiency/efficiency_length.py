"""Statistics of measurements: summaries, paired ratios, efficiency lengths and growth exponents.

The samples of two subjects at one length are paired by round, so all statistics are of the log ratio within a round,
and its centre is the median over rounds. Its interval is exact for every distribution and every number of rounds n: the
k-th smallest of n samples is above the median with the probability that fewer than k of n tosses of a coin are heads.

    error(n, k) = P(Binomial(n, 1/2) < k)      at most 2.5% at either end: 6 rounds or more

With fewer rounds there is no interval, not even the whole range (of 5 rounds it has 94%), and the verdict is a tie.

Efficiency length: the shortest length from which the family is cheaper than the baseline at every longer measured
length. Both curves are taken as straight lines in log-log between the last measured length at which the family is not
cheaper and the next one. A crossing outside the measured lengths is a bound ("<= 128", "> 2,048"), never an
extrapolation. The family counts as not cheaper at a length where it failed and the baseline did not.

The crossing moves to longer lengths with every ratio. So its interval goes from the crossing of the ratios' lower ends
to that of their upper ends, with at most 2.5% at either end in all: the upper end can be wrong only if one of the two
lengths around the crossing is, so that each has half of that; the lower end if any length is, and each has its part.
An end without enough rounds is unbounded. The interval of a growth exponent is that of a weighted sum of medians.

`cab_fit` is the efficiency length of the original CAB: the larger root of a quadratic fit minus a linear fit. The
longest length dominates it, and it may be far from where the measured curves cross.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, inf
from typing import Any, Literal

import numpy as np

MIN_SAMPLES_FOR_QUARTILES = 5
TAIL = 0.025
"""The error at either end of an interval."""
ROUNDS = 8
"""Enough for every interval over up to six lengths to be bounded."""
FAILED = ("out_of_memory", "error")
"""Statuses of a row whose length the subject could not run."""

Row = Mapping[str, Any]
Samples = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Summary:
    """With fewer than five samples only the minimum and the maximum are given."""

    n: int
    minimum: float
    maximum: float
    median: float | None = None
    low_quartile: float | None = None
    high_quartile: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Time of the family over time of the baseline at one length, with its 95% interval if there are enough rounds."""

    length: int
    batch: int
    ratio: float
    low: float | None
    high: float | None
    n: int
    verdict: str
    """ "cheaper" or "slower" if the interval excludes 1, else "tie"."""


@dataclass(frozen=True)
class EfficiencyLength:
    """A value with its interval. Where `censored` is "<=" or ">", the number beside it is a bound, not an estimate."""

    value: float | None
    censored: str = ""
    low: float | None = None
    low_censored: str = ""
    high: float | None = None
    high_censored: str = ""

    @property
    def verdict(self) -> Literal["cheaper", "not cheaper", "tie"]:
        """At the longest lengths, as far as the interval carries it; without an interval the value is exact."""
        low, high = (self.low_censored, self.high_censored) if self.low is not None else (self.censored, self.censored)
        if high != ">":
            return "cheaper"
        return "not cheaper" if low == ">" else "tie"

    @property
    def text(self) -> str:
        """A tie has no value, only the interval in which it lies."""
        if self.value is None:
            return "not measured"
        value = _bound_text(self.value, self.censored)
        if self.low is None or self.high is None:
            return value
        low, high = _bound_text(self.low, self.low_censored), _bound_text(self.high, self.high_censored)
        if self.verdict == "tie":
            return f"tie ({low} to {high})"
        return value if value == low == high else f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Growth:
    """The exponent p of cost ~ length^p over the longest `points` measured lengths."""

    exponent: float
    low: float | None
    high: float | None
    points: int

    @property
    def text(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.exponent:.2f} (no interval)"
        return f"{self.exponent:.2f} ({self.low:.2f} to {self.high:.2f})"


def summary(samples: Samples) -> Summary:
    """Median, quartiles, minimum, maximum and number of at least one sample."""
    n, minimum, maximum = len(samples), float(np.min(samples)), float(np.max(samples))
    if n < MIN_SAMPLES_FOR_QUARTILES:
        return Summary(n, minimum, maximum)
    low, median, high = (float(x) for x in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Summary(n, minimum, maximum, median, low, high)


def paired(
    rows: Iterable[Row], family: str, baseline: str, phase: str, batch: int | None = None, figure: str = "seconds"
) -> list[tuple[int, int, Any, Any]]:
    """(length, batch, family's figure, baseline's figure) wherever both were measured, lengths ascending."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        selected = row["phase"] == phase and row["subject"] in (family, baseline) and batch in (None, row["batch"])
        if selected and row["status"] == "ok" and row[figure]:
            found.setdefault((row["length"], row["batch"]), {})[row["subject"]] = row[figure]
    return [
        (*key, both[family], both[baseline])
        for key, both in sorted(found.items())
        if family in both and baseline in both
    ]


def ratios(rows: Iterable[Row], family: str, baseline: str, phase: str, batch: int | None = None) -> list[Ratio]:
    """The paired ratio of times at every length and batch size at which both were measured."""
    found = []
    for length, size, family_seconds, baseline_seconds in paired(rows, family, baseline, phase, batch):
        logs = _log_ratio(family_seconds, baseline_seconds)
        (low, high), verdict = interval(logs), "tie"
        if high < 0:
            verdict = "cheaper"
        elif low > 0:
            verdict = "slower"
        ratio, low, high = (float(np.exp(each)) for each in (np.median(logs), low, high))
        bounded = high < inf
        found.append(
            Ratio(length, size, ratio, low if bounded else None, high if bounded else None, len(logs), verdict)
        )
    return found


def time_efficiency_length(
    rows: Sequence[Row], family: str, baseline: str, phase: str, batch: int | None = None
) -> EfficiencyLength:
    """`efficiency_length` of the seconds in rows."""
    longest_failure, pairs = _pairs_after_failure(rows, family, baseline, phase, batch, "seconds")
    if longest_failure and not pairs:
        return EfficiencyLength(float(longest_failure), ">")
    return efficiency_length([pair[0] for pair in pairs], [pair[2] for pair in pairs], [pair[3] for pair in pairs])


def memory_efficiency_length(
    rows: Sequence[Row], family: str, baseline: str, phase: str, batch: int | None = None
) -> EfficiencyLength:
    """The efficiency length of the peak memory in rows. Each length has one exact figure, so there is no interval."""
    longest_failure, pairs = _pairs_after_failure(rows, family, baseline, phase, batch, "peak_bytes")
    if longest_failure and not pairs:
        return EfficiencyLength(float(longest_failure), ">")
    if not pairs:
        return EfficiencyLength(None)
    at = [pair[0] for pair in pairs]
    return EfficiencyLength(*_crossing(at, [float(_log_ratio([pair[2]], [pair[3]])[0]) for pair in pairs]))


def _pairs_after_failure(
    rows: Sequence[Row], family: str, baseline: str, phase: str, batch: int | None, figure: str
) -> tuple[int, list[tuple[int, int, Any, Any]]]:
    """The longest length at which the family failed and the baseline did not (0 if none), and the pairs above it."""
    of_phase = [row for row in rows if row["phase"] == phase and batch in (None, row["batch"])]
    succeeded = {row["length"] for row in of_phase if row["subject"] == baseline and row["status"] == "ok"}
    failed = {row["length"] for row in of_phase if row["subject"] == family and row["status"] in FAILED}
    longest = max(succeeded & failed, default=0)
    return longest, [pair for pair in paired(rows, family, baseline, phase, batch, figure) if pair[0] > longest]


def efficiency_length(
    lengths: Sequence[int], family_samples: Sequence[Samples], baseline_samples: Sequence[Samples]
) -> EfficiencyLength:
    """The efficiency length with its interval from paired samples, one list per length.

    Raises ValueError if lengths do not ascend or samples do not pair.
    """
    if not lengths:
        return EfficiencyLength(None)
    _check_ascending(lengths)
    logs = [_log_ratio(*samples) for samples in zip(family_samples, baseline_samples, strict=True)]
    value = _crossing(lengths, [float(np.median(each)) for each in logs])
    low = _crossing(lengths, [interval(each, TAIL / len(logs))[0] for each in logs])
    high = _crossing(lengths, [interval(each, TAIL / 2)[1] for each in logs])
    return EfficiencyLength(*value, *low, *high)


def growth(lengths: Sequence[int], samples: Sequence[Samples], points: int = 0) -> Growth | None:
    """The growth exponent over the longest `points` lengths; None where fewer were measured.

    By default `points` is half of the lengths, rounded up, and at least three.
    """
    points = points or max(3, (len(lengths) + 1) // 2)
    if len(lengths) < points:
        return None
    _check_ascending(lengths)
    log_lengths = np.log(np.asarray(lengths[-points:], dtype=float))
    centred = log_lengths - log_lengths.mean()
    weights = centred / (centred**2).sum()  # the least-squares slope as a weighted sum of log costs
    logs = [np.log(np.asarray(each, dtype=float)) for each in samples[-points:]]
    exponent = float(weights @ np.array([np.median(each) for each in logs]))
    ends = np.array([interval(each, TAIL / points) for each in logs])  # (points, 2)
    if np.isinf(ends).any():
        return Growth(exponent, None, None, points)
    falls = np.array([each < 0 for each in weights])  # the exponent falls where the cost at a short length rises
    low = float(weights @ np.where(falls, ends[:, 1], ends[:, 0]))
    high = float(weights @ np.where(falls, ends[:, 0], ends[:, 1]))
    return Growth(exponent, low, high, points)


def cab_fit(
    lengths: Sequence[int], family_costs: Sequence[float], baseline_costs: Sequence[float], kind: str = "time"
) -> float | None:
    """CAB's efficiency length: the larger root of a L^2 + b L + c (baseline) minus d L + e (family), least squares.

    As in CAB, the family's fit leaves out the shortest length for kind "time" and keeps it for "memory". None where
    the curves do not cross at a positive length.
    """
    first = {"time": 1, "memory": 0}[kind]
    if len(lengths) < 3:
        return None
    at = np.asarray(lengths, dtype=float)
    difference = np.polyfit(at, np.asarray(baseline_costs, dtype=float), 2)
    difference[1:] -= np.polyfit(at[first:], np.asarray(family_costs, dtype=float)[first:], 1)
    roots = np.roots(difference)
    real = roots[np.isreal(roots)].real
    largest = float(real.max()) if real.size else 0.0
    return largest if largest > 0 else None


def interval(samples: np.ndarray, tail: float = TAIL) -> tuple[float, float]:
    """Of the median, with an error of at most `tail` at either end; -inf and inf with too few samples."""
    k = rank(len(samples), tail)
    if k == 0:
        return -inf, inf
    ordered = np.sort(samples)
    return float(ordered[k - 1]), float(ordered[-k])


@cache
def rank(n: int, tail: float) -> int:
    """The greatest k such that the k-th smallest of n samples is above the median with probability at most `tail`."""
    k, error = 0, 0.5**n
    while error <= tail:
        k += 1
        error += comb(n, k) * 0.5**n
    return k


def _crossing(lengths: Sequence[int], logs: Sequence[float]) -> tuple[float, str]:
    """The last crossing of log ratios, as a length and "", or the shortest or longest length as a bound."""
    slower = [place for place, log in enumerate(logs) if log >= 0]
    if not slower:
        return float(lengths[0]), "<="
    left = slower[-1]
    if left == len(lengths) - 1:
        return float(lengths[-1]), ">"
    above, below = logs[left], logs[left + 1]
    if above == inf:
        return float(lengths[left + 1]), ""
    part = above / (above - below)  # 0 where the ratio below is unbounded
    return float(lengths[left] * (lengths[left + 1] / lengths[left]) ** part), ""


def _bound_text(value: float, censored: str) -> str:
    return f"{censored} {value:,.0f}".strip()


def _log_ratio(family_samples: Samples, baseline_samples: Samples) -> np.ndarray:
    if len(family_samples) != len(baseline_samples) or not len(family_samples):
        raise ValueError(f"{len(family_samples)} and {len(baseline_samples)} samples do not pair")
    return np.log(np.asarray(family_samples, dtype=float)) - np.log(np.asarray(baseline_samples, dtype=float))


def _check_ascending(lengths: Sequence[int]) -> None:
    if list(lengths) != sorted(set(lengths)):
        raise ValueError(f"lengths must ascend, each once: {list(lengths)}")
