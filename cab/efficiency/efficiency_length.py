"""Statistics of measurements: summaries, paired ratios, efficiency lengths and growth exponents.

The samples of two subjects at one length are paired by round, so all statistics are of the log ratio within a round.
The centre and its uncertainty depend on the number of rounds:

    5 or more   the median, with a bootstrap over rounds
    2 to 4      the mean, with Student's t: a bootstrap of so few samples cannot reach 95% coverage
    1           no interval, and the verdict "tie"

Efficiency length: the shortest length from which the family is cheaper than the baseline at every longer measured
length. Both curves are taken as straight lines in log-log between the last measured length at which the family is not
cheaper and the next one. A crossing outside the measured lengths is a bound ("<= 128", "> 2,048"), never an
extrapolation. The family counts as not cheaper at a length where it failed and the baseline did not. The interval is
the 2.5% and 97.5% quantile over resampled rounds, bounds included.

`cab_fit` is the efficiency length of the original CAB: the larger root of a quadratic fit minus a linear fit. The
longest length dominates it, and it may be far from where the measured curves cross.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

MIN_SAMPLES_FOR_MEDIAN = 5
DRAWS = 2000
QUANTILES = (0.025, 0.975)
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
    """Time of the family over time of the baseline at one length, with its 95% interval."""

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
    def text(self) -> str:
        if self.value is None:
            return "not measured"
        value = _bound_text(self.value, self.censored)
        if self.low is None or self.high is None:
            return value
        low, high = _bound_text(self.low, self.low_censored), _bound_text(self.high, self.high_censored)
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
            return f"{self.exponent:.2f}"
        return f"{self.exponent:.2f} ({self.low:.2f} to {self.high:.2f})"


def summary(samples: Samples) -> Summary:
    """Median, quartiles, minimum, maximum and number of at least one sample."""
    n, minimum, maximum = len(samples), float(np.min(samples)), float(np.max(samples))
    if n < MIN_SAMPLES_FOR_MEDIAN:
        return Summary(n, minimum, maximum)
    low, median, high = (float(x) for x in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Summary(n, minimum, maximum, median, low, high)


def middle(seconds: Samples) -> float:
    """The median; with fewer than five samples the geometric mean."""
    return float(np.exp(_centre(np.log(np.asarray(seconds, dtype=float)))))


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
        ratio = float(np.exp(_centre(logs)))
        if len(logs) < 2:
            found.append(Ratio(length, size, ratio, None, None, len(logs), "tie"))
            continue
        low, high = (float(np.exp(end)) for end in _interval(_resampled(logs)))
        if high < 1:
            verdict = "cheaper"
        elif low > 1:
            verdict = "slower"
        else:
            verdict = "tie"
        found.append(Ratio(length, size, ratio, low, high, len(logs), verdict))
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
    """`efficiency_length` of the peak memory in rows. Each length has one exact figure, so there is no interval."""
    longest_failure, pairs = _pairs_after_failure(rows, family, baseline, phase, batch, "peak_bytes")
    if longest_failure and not pairs:
        return EfficiencyLength(float(longest_failure), ">")
    return efficiency_length([pair[0] for pair in pairs], [[pair[2]] for pair in pairs], [[pair[3]] for pair in pairs])


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
    """The efficiency length from paired samples, one list per length.

    Lengths with a single sample give no interval. Raises ValueError if lengths do not ascend or samples do not pair.
    """
    if not lengths:
        return EfficiencyLength(None)
    _check_ascending(lengths)
    logs = [_log_ratio(*samples) for samples in zip(family_samples, baseline_samples, strict=True)]
    log_lengths = np.log(np.asarray(lengths, dtype=float))
    centres = np.array([[_centre(samples) for samples in logs]])
    value, censored = _bounded(_crossings(log_lengths, centres)[0], lengths)
    if min(len(samples) for samples in logs) < 2:
        return EfficiencyLength(value, censored)
    low, high = _interval(_crossings(log_lengths, _resampled_each(logs)))
    return EfficiencyLength(value, censored, *_bounded(low, lengths), *_bounded(high, lengths))


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
    exponent = float(weights @ np.array([_centre(each) for each in logs]))
    if min(len(each) for each in logs) < 2:
        return Growth(exponent, None, None, points)
    low, high = _interval(_resampled_each(logs) @ weights)
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


def _crossings(log_lengths: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """The log length of the last crossing in each row of log ratios (draws, lengths); -inf or inf if outside."""
    last_length = logs.shape[1] - 1
    slower = logs >= 0
    last_slower = last_length - np.argmax(slower[:, ::-1], axis=1)
    crosses = slower.any(axis=1) & (last_slower < last_length)
    found = np.where(slower.any(axis=1), np.inf, -np.inf)
    rows, left = np.flatnonzero(crosses), last_slower[crosses]
    above, below = logs[rows, left], logs[rows, left + 1]
    found[rows] = log_lengths[left] + (log_lengths[left + 1] - log_lengths[left]) * above / (above - below)
    return found


def _bounded(log_length: float, lengths: Sequence[int]) -> tuple[float, str]:
    """A length and "", or the shortest or longest length as a bound."""
    if log_length == -np.inf:
        return float(lengths[0]), "<="
    if log_length == np.inf:
        return float(lengths[-1]), ">"
    return float(np.exp(log_length)), ""


def _bound_text(value: float, censored: str) -> str:
    return f"{censored} {value:,.0f}".strip()


def _log_ratio(family_samples: Samples, baseline_samples: Samples) -> np.ndarray:
    if len(family_samples) != len(baseline_samples) or not len(family_samples):
        raise ValueError(f"{len(family_samples)} and {len(baseline_samples)} samples do not pair")
    return np.log(np.asarray(family_samples, dtype=float)) - np.log(np.asarray(baseline_samples, dtype=float))


def _centre(samples: np.ndarray) -> float:
    return float(np.median(samples) if len(samples) >= MIN_SAMPLES_FOR_MEDIAN else samples.mean())


def _resampled_each(samples: Sequence[np.ndarray]) -> np.ndarray:
    """(draws, len(samples)): independent draws of every centre."""
    return np.stack([_resampled(each, seed) for seed, each in enumerate(samples)], axis=1)


def _resampled(samples: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws of the centre of two or more samples."""
    n = len(samples)
    if n >= MIN_SAMPLES_FOR_MEDIAN:
        low, high = _median_ranks(n, seed)
        ordered = np.sort(samples)
        return (ordered[low] + ordered[high]) / 2
    standard_error = samples.std(ddof=1) / np.sqrt(n)
    return samples.mean() + standard_error * np.random.default_rng(seed).standard_t(n - 1, size=DRAWS)


@cache
def _median_ranks(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each draw of n from n, the two ranks around its median: the same for all samples of this size."""
    drawn = np.sort(np.random.default_rng((n, seed)).integers(n, size=(DRAWS, n)), axis=1)
    return drawn[:, (n - 1) // 2], drawn[:, n // 2]


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, QUANTILES, method="inverted_cdf")  # no interpolation: draws may be infinite
    return float(low), float(high)


def _check_ascending(lengths: Sequence[int]) -> None:
    if list(lengths) != sorted(set(lengths)):
        raise ValueError(f"lengths must ascend, each once: {list(lengths)}")
