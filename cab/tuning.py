"""Which learning rate a family gets: the one with the best headline metric on validation, never on test.

    grid      the rates that the recipe names, a geometric series; all are tried, with one seed
    wider     if the best is the least or greatest of the grid, the next rate of the series is tried, once
    chosen    the best of all that were tried; of equal ones that nearest to the middle
    at edge   no rate was tried on one side of it

A trial that ended without a result (diverged, out of memory) is worse than every other. Both cab.tune and the
leaderboard choose here, from records alone: the identity of a record has the grid that its rate is from
(`train.tuned_over`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cab.store.record import Record


@dataclass(frozen=True)
class Tuning:
    """The trials of one family with one seed."""

    grid: Sequence[float]
    """Ascending, at least two."""
    validations: Mapping[float, float | None]
    """The headline metric on validation by rate; None for a trial without a result."""
    better: str
    """`lower` or `higher`."""
    seed: int | None = None

    @cached_property
    def missing(self) -> list[float]:
        """The rates that have to be tried before one can be chosen."""
        untried = [rate for rate in self.grid if rate not in self.validations]
        best = self._best(self.grid)
        if untried or best is None or best not in (self.grid[0], self.grid[-1]):
            return untried
        wider = next_rates(self.grid)[0 if best == self.grid[0] else 1]
        return [] if wider in self.validations else [wider]

    @cached_property
    def rate(self) -> float | None:
        """The chosen rate; None if a trial is missing or none has a result."""
        return None if self.missing else self._best(self.validations)

    @property
    def at_edge(self) -> bool:
        return self.rate is not None and self.rate in (min(self.validations), max(self.validations))

    @property
    def problem(self) -> str:
        """Why no rate is chosen, in a line; empty if one is."""
        if self.missing:
            return f"rates not all tried: no result at {rates_text(self.missing)}"
        return "" if self.rate is not None else f"no rate of {rates_text(sorted(self.validations))} gave a result"

    def _best(self, rates: Iterable[float]) -> float | None:
        tried = sorted(rate for rate in rates if rate in self.validations)
        sign, middle = (1.0 if self.better == "lower" else -1.0), (len(tried) - 1) / 2
        ranked = [
            (sign * value, abs(place - middle), rate)
            for place, rate in enumerate(tried)
            if (value := self.validations[rate]) is not None
        ]
        return min(ranked)[-1] if ranked else None


def next_rates(grid: Sequence[float]) -> tuple[float, float]:
    """The rates before and after those of a grid, at the ratio of its neighbours there."""
    below, above = grid[0] ** 2 / grid[1], grid[-1] ** 2 / grid[-2]
    return float(f"{below:.6g}"), float(f"{above:.6g}")  # written as a user would: 0.008


def tuning_of(records: Sequence[Record]) -> Tuning:
    """From the records of one family that has a grid, at all rates and of all seeds.

    The trials are those of the least seed with a result at every rate of the grid; while there is none, those of the
    seed with most.
    """
    grid = tuned_over(records[0])
    of_seed: dict[int, dict[float, float | None]] = {}
    for record in records:
        rate = learning_rate(record)
        if record.final and rate in (*grid, *next_rates(grid)):
            of_seed.setdefault(record.cell["seed"], {})[rate] = _value(record)
    if not of_seed:
        return Tuning(grid, {}, "lower")
    seed = max(of_seed, key=lambda seed: (len(of_seed[seed].keys() & set(grid)), -seed))
    known = (record.result for record in records if record.status == "ok")
    better = next((result["better"][result["headline"]] for result in known), "lower")
    return Tuning(grid, of_seed[seed], better, seed)


def tuned_over(record: Record) -> list[float]:
    """The grid from which a record's rate is; empty if it was given."""
    return (record.identity.get("train") or {}).get("tuned_over") or []


def learning_rate(record: Record) -> float | None:
    return (record.identity.get("train") or {}).get("lr")


def rates_text(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _value(record: Record) -> float | None:
    """The headline metric on validation at the selected step; None without a finite one."""
    value = (record.result.get("training") or {}).get("validation") if record.status == "ok" else None
    return value if value is not None and math.isfinite(value) else None
