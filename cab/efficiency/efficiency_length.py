"""What the measurements say: summaries, paired ratios, efficiency lengths, growth.

Samples of two subjects at the same length pair by round, so everything here works on the log ratio of a round. Its
centre and the uncertainty of the centre come from

    5 rounds or more    the median; bootstrap over rounds
    2 to 4 rounds       the mean; Student's t. A bootstrap of so few cannot reach 95%: of three rounds of two equal
                        subjects, one set in four lies wholly on one side
    1 round             no uncertainty can be had: no interval, and a verdict of "tie"

Efficiency length: the shortest length from which the family stays cheaper than the baseline at every longer measured
length. Between the last measured length at which it is not cheaper and the next one, both curves are taken as straight
in log-log. A crossing outside of the measured lengths is reported as a bound ("<= 128", "> 2,048"), never extrapolated.
A length at which the family failed (its memory ran out) and the baseline did not is one at which it is not cheaper.
Its interval is the 2.5% and 97.5% quantile over resampled rounds, bounds included.

`cab_fit` is the original CAB's efficiency length (the larger root of a quadratic minus a linear fit), under its own
name: it is dominated by the longest length and may lie far from where the measured curves cross.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

FEW = 5
DRAWS = 2000
TAILS = (0.025, 0.975)
FAILED = ("out_of_memory", "error")
"""Statuses of a row whose length the subject could not do."""

Row = Mapping[str, Any]
Samples = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Summary:
    """Under five samples there are only the minimum and the maximum."""

    n: int
    minimum: float
    maximum: float
    median: float | None = None
    low_quartile: float | None = None
    high_quartile: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Family over baseline at one length; under 1 the family is cheaper."""

    length: int
    batch: int
    ratio: float
    low: float | None
    high: float | None
    n: int
    verdict: str
    """ "cheaper", "dearer" or "tie": whether the 95% interval includes 1."""


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
        value = _number(self.value, self.censored)
        if self.low is None or self.high is None:
            return value
        low, high = _number(self.low, self.low_censored), _number(self.high, self.high_censored)
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
    """Median, quartiles, minimum, maximum and number of the samples (at least one)."""
    n, least, most = len(samples), float(np.min(samples)), float(np.max(samples))
    if n < FEW:
        return Summary(n, least, most)
    low, median, high = (float(x) for x in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Summary(n, least, most, median, low, high)


def paired(
    rows: Iterable[Row], family: str, baseline: str, phase: str, batch: int | None = None, figure: str = "seconds"
) -> list[tuple[int, int, Any, Any]]:
    """(length, batch, family's figure, baseline's figure) wherever both were measured, lengths ascending."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        wanted = row["phase"] == phase and row["subject"] in (family, baseline) and batch in (None, row["batch"])
        if wanted and row["status"] == "ok" and row[figure]:
            found.setdefault((row["length"], row["batch"]), {})[row["subject"]] = row[figure]
    return [
        (*key, both[family], both[baseline])
        for key, both in sorted(found.items())
        if family in both and baseline in both
    ]


def ratios(rows: Iterable[Row], family: str, baseline: str, phase: str, batch: int | None = None) -> list[Ratio]:
    """The paired ratio of times at every length (and batch size) at which both were measured."""
    out = []
    for length, size, ours, theirs in paired(rows, family, baseline, phase, batch):
        logs = _log_ratio(ours, theirs)
        low, high = _interval(_resampled(logs)) if len(logs) > 1 else (None, None)
        verdict = "tie"
        if low is not None and high is not None:
            low, high = float(np.exp(low)), float(np.exp(high))
            verdict = "cheaper" if high < 1 else "dearer" if low > 1 else "tie"
        out.append(Ratio(length, size, float(np.exp(_centre(logs))), low, high, len(logs), verdict))
    return out


def time_efficiency_length(
    rows: Sequence[Row], family: str, baseline: str, phase: str, batch: int | None = None
) -> EfficiencyLength:
    """`efficiency_length` of the samples in rows."""
    found, failed = _after_failure(rows, family, baseline, phase, batch, "seconds")
    return failed or efficiency_length([f[0] for f in found], [f[2] for f in found], [f[3] for f in found])


def memory_efficiency_length(
    rows: Sequence[Row], family: str, baseline: str, phase: str, batch: int | None = None
) -> EfficiencyLength:
    """`efficiency_length` of the peak memory in rows: one exact figure per length, so no interval."""
    found, failed = _after_failure(rows, family, baseline, phase, batch, "peak_bytes")
    return failed or efficiency_length([f[0] for f in found], [[f[2]] for f in found], [[f[3]] for f in found])


def _after_failure(
    rows: Sequence[Row], family: str, baseline: str, phase: str, batch: int | None, figure: str
) -> tuple[list[tuple[int, int, Any, Any]], EfficiencyLength | None]:
    """What is `paired` above the longest length at which the family failed and the baseline did not: below that it is
    not cheaper for good. And the answer, where nothing is left."""
    of_phase = [row for row in rows if row["phase"] == phase and batch in (None, row["batch"])]
    did = {row["length"] for row in of_phase if row["subject"] == baseline and row["status"] == "ok"}
    failures = (row["length"] for row in of_phase if row["subject"] == family and row["status"] in FAILED)
    longest = max(did.intersection(failures), default=0)
    found = [pair for pair in paired(rows, family, baseline, phase, batch, figure) if pair[0] > longest]
    return found, EfficiencyLength(float(longest), ">") if longest and not found else None


def efficiency_length(
    lengths: Sequence[int], family_samples: Sequence[Samples], baseline_samples: Sequence[Samples]
) -> EfficiencyLength:
    """Where the family becomes cheaper for good. Samples: per length, one per round, paired. One each: no interval."""
    if not lengths:
        return EfficiencyLength(None)
    _check_ascending(lengths)
    logs = [_log_ratio(ours, theirs) for ours, theirs in zip(family_samples, baseline_samples, strict=True)]
    at = np.log(np.asarray(lengths, dtype=float))
    value, censored = _bounded(_crossings(at, np.array([[_centre(each) for each in logs]]))[0], lengths)
    if min(len(each) for each in logs) < 2:
        return EfficiencyLength(value, censored)
    drawn = np.stack([_resampled(each, place) for place, each in enumerate(logs)], axis=1)  # (draws, lengths)
    low, high = _interval(_crossings(at, drawn))
    return EfficiencyLength(value, censored, *_bounded(low, lengths), *_bounded(high, lengths))


def growth(lengths: Sequence[int], samples: Sequence[Samples], points: int = 0) -> Growth | None:
    """The exponent over the longest `points` lengths, by default the longer half and at least three of them; None where
    fewer were measured."""
    points = points or max(3, (len(lengths) + 1) // 2)
    if len(lengths) < points:
        return None
    _check_ascending(lengths)
    at = np.log(np.asarray(lengths[-points:], dtype=float))
    slope = (at - at.mean()) / ((at - at.mean()) ** 2).sum()  # least squares as a weighting of the log costs
    logs = [np.log(np.asarray(each, dtype=float)) for each in samples[-points:]]
    exponent = float(slope @ np.array([_centre(each) for each in logs]))
    if min(len(each) for each in logs) < 2:
        return Growth(exponent, None, None, points)
    low, high = _interval(np.stack([_resampled(each, place) for place, each in enumerate(logs)], axis=1) @ slope)
    return Growth(exponent, low, high, points)


def cab_fit(
    lengths: Sequence[int], family_costs: Sequence[float], baseline_costs: Sequence[float], kind: str = "time"
) -> float | None:
    """CAB's efficiency length: a L^2 + b L + c (baseline) minus d L + e (family), by least squares; larger root.

    As in CAB, time leaves the shortest length out of the family's fit (not the baseline's), and memory keeps it.
    None where the curves do not cross at a positive length.
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


def _crossings(at: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Per row of log ratios (draws, lengths): the log length of the last crossing; -inf or inf where it is outside."""
    lengths = logs.shape[1]
    dear = logs >= 0
    last = lengths - 1 - np.argmax(dear[:, ::-1], axis=1)  # the last length at which the family is not cheaper
    inside = dear.any(axis=1) & (last < lengths - 1)
    out = np.where(dear.any(axis=1), np.inf, -np.inf)
    rows, left = np.flatnonzero(inside), last[inside]
    above, below = logs[rows, left], logs[rows, left + 1]
    out[rows] = at[left] + (at[left + 1] - at[left]) * above / (above - below)
    return out


def _bounded(log_length: float, lengths: Sequence[int]) -> tuple[float, str]:
    if np.isinf(log_length):
        return (float(lengths[0]), "<=") if log_length < 0 else (float(lengths[-1]), ">")
    return float(np.exp(log_length)), ""


def _number(value: float, censored: str) -> str:
    return f"{censored} {value:,.0f}".strip()


def _log_ratio(ours: Samples, theirs: Samples) -> np.ndarray:
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"{len(ours)} and {len(theirs)} samples do not pair")
    return np.log(np.asarray(ours, dtype=float)) - np.log(np.asarray(theirs, dtype=float))


def middle(seconds: Samples) -> float:
    """The median; of fewer samples than have one, the geometric mean, as ratios are centred."""
    return float(np.exp(_centre(np.log(np.asarray(seconds, dtype=float)))))


def _centre(samples: np.ndarray) -> float:
    return float(np.median(samples) if len(samples) >= FEW else samples.mean())


def _resampled(samples: np.ndarray, place: int = 0) -> np.ndarray:
    """Draws of the centre of two or more samples; `place` tells independent sets of draws apart."""
    n = len(samples)
    if n >= FEW:
        low, high = _median_ranks(n, place)
        ordered = np.sort(samples)
        return (ordered[low] + ordered[high]) / 2
    return samples.mean() + samples.std(ddof=1) / np.sqrt(n) * np.random.default_rng(place).standard_t(
        n - 1, size=DRAWS
    )


@cache
def _median_ranks(n: int, place: int) -> tuple[np.ndarray, np.ndarray]:
    """For each draw of n from n, the ranks between which its median lies: the same for all samples of this size."""
    drawn = np.sort(np.random.default_rng((n, place)).integers(n, size=(DRAWS, n)), axis=1)
    return drawn[:, (n - 1) // 2], drawn[:, n // 2]


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, TAILS, method="inverted_cdf")  # no interpolation: draws may be infinite
    return float(low), float(high)


def _check_ascending(lengths: Sequence[int]) -> None:
    if list(lengths) != sorted(set(lengths)):
        raise ValueError(f"lengths must ascend, each once: {list(lengths)}")
