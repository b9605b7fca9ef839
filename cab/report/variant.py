"""The rows of a group: one family with one set of options, with the records of all its seeds on one data set.

If one of the seeds did not end well, a variant has no mean: a mean over the others would flatter it. The interval of
the mean is mean +- t(0.975, n - 1) s / sqrt(n) over n seeds: the spread of training, on one test split.
"""

import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property

from cab.report.efficiency import Efficiency
from cab.report.settings import options_text
from cab.report.stats import Estimate, mean
from cab.store.record import Record
from cab.tuning import Tuning, learning_rate, rates_text, tuned_over, tuning_of

SCORES = ("metrics", "tables", "curve", "training")
"""What a record's result says of the trained model."""


@dataclass
class Variant:
    """One family with one set of options."""

    records: list[Record]
    """One per seed, at the chosen rate where rates are tuned; a single trial without scores while none is chosen."""
    tuning: Tuning | None = None
    """None where the rate was given."""
    left_out: list[int] = field(default_factory=list)
    """Seeds with records at other rates only."""
    label: str = ""
    """The family's name, with the options that differ from those of the group's other variants of that family."""
    rank: int | None = None
    tie: bool = False
    gain: Estimate | None = None
    """Over `none`."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    task_score: float | None = None
    """Its task score in the Compositional Index."""

    @property
    def first(self) -> Record:
        return next((record for record in self.records if record.status == "ok"), self.records[0])

    @property
    def attention(self) -> str:
        return self.first.cell["attention"]

    @property
    def options(self) -> str:
        return options_text(self.first.identity.get("attention"))

    @property
    def learning_rate(self) -> float | None:
        """None if none is chosen."""
        return learning_rate(self.first) if self.tuning is None else self.tuning.rate

    @property
    def core_parameters(self) -> int | None:
        return (self.first.result.get("model") or {}).get("core_parameters")

    @property
    def positions(self) -> str | None:
        """How positions are told apart: by the family, or in the input."""
        return (self.first.result.get("model") or {}).get("positions")

    @property
    def seeds(self) -> list[int]:
        return [record.cell["seed"] for record in self.records]

    @cached_property
    def scores(self) -> list[float]:
        """Of the seeds that have one."""
        values = [score(record) for record in self.records]
        return [value for value in values if value is not None]

    @property
    def complete(self) -> bool:
        return len(self.scores) == len(self.records)

    @cached_property
    def mean(self) -> Estimate | None:
        return mean(self.scores) if self.complete else None

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.scores) if self.complete and len(self.scores) > 1 else None

    @property
    def status(self) -> str:
        """`ok`, or how many seeds ended how: `2 ok, 1 diverged`."""
        if self.tuning and self.tuning.missing:
            return "rates not all tried"
        counts = Counter(
            "no score" if record.status == "ok" and score(record) is None else record.status for record in self.records
        )
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{counts[name]} {name}" for name in sorted(counts, key=lambda name: (name != "ok", name)))

    @property
    def reason(self) -> str:
        if self.tuning and self.tuning.missing:
            failed = "" if self.first.final else f"; {self.first.status}: {self.first.reason}"
            return f"no result at {rates_text(self.tuning.missing)}{failed}"
        reason = next((record.reason for record in self.records if record.reason), "")
        problem = self.tuning.problem if self.tuning else ""
        return "; ".join(filter(None, (problem, reason)))


def settled(records: list[Record]) -> Variant:
    """The variant of all records of a family with one set of options, and the grid of rates if there is one."""
    if not tuned_over(records[0]):
        return Variant(records)
    tuning = tuning_of(records)
    if tuning.rate is None:
        own = [record for record in records if record.cell["seed"] == tuning.seed]
        first = min(own or records, key=lambda record: (record.final, learning_rate(record) or 0.0))
        kept = {key: value for key, value in first.result.items() if key not in SCORES}
        return Variant([replace(first, result=kept)], tuning)
    chosen = [record for record in records if learning_rate(record) == tuning.rate]
    seeds = {record.cell["seed"] for record in chosen}
    return Variant(chosen, tuning, sorted({record.cell["seed"] for record in records} - seeds))


def score(record: Record) -> float | None:
    """The headline metric, None where there is none."""
    return (record.result.get("metrics") or {}).get(record.result.get("headline")) if record.status == "ok" else None


def data_hash(record: Record) -> str | None:
    return (record.result.get("data") or {}).get("content")
