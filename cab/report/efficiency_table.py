"""The efficiency of the rows of a group.

A row takes its efficiency from an efficiency record of the same family, options, pattern and stack shape, measured at
the level `stack`. A baseline without a successful record of its own takes it from any record of that pattern and shape,
because every record measures the baselines. All rows of a group take their efficiency from one machine and precision,
the one that has most of them; a family that was not measured there has none in this group.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cab.report.efficiency import BASELINES, SHAPE, Analysis, Efficiency
from cab.report.load import started
from cab.report.settings import canonical
from cab.store.record import Record

MACHINE = ("device", "precision", "threads", "gomp_spincount", "torch", "allocator", "batch")
"""What must be equal for measurements in one group."""


class EfficiencyTable:
    """Finds the efficiency of the rows of a group. A failed record counts only where there is no other."""

    def __init__(self, analyses: Iterable[Analysis]) -> None:
        self.own: dict[str, list[Analysis]] = {}
        """By family, options and stack."""
        self.stacks: dict[str, list[Analysis]] = {}
        for analysis in analyses:
            if analysis.record.cell.get("level") == "stack":
                stack = _stack(analysis.record, analysis.record.cell)
                self.own.setdefault(_family(analysis.record, stack), []).append(analysis)
                self.stacks.setdefault(stack, []).append(analysis)

    def find(self, records: Sequence[Record]) -> list[Efficiency]:
        """For one quality record of each row of a group, in their order."""
        stacks = [_stack(record, record.config.get("model") or {}) for record in records]
        candidates = [
            _successful(self.own.get(_family(record, stack), [])) for record, stack in zip(records, stacks, strict=True)
        ]
        chosen = _commonest_machine(candidates)
        found = []
        for record, stack, analyses in zip(records, stacks, candidates, strict=True):
            family = record.cell["attention"]
            here = [analysis for analysis in analyses if machine(analysis.record) == chosen]
            if family in BASELINES and not any(analysis.record.status == "ok" for analysis in here):
                others = [one for one in self.stacks.get(stack, []) if machine(one.record) == chosen]
                here = [one for one in others if one.record.status == "ok"] or here
            newest = max(here, key=lambda analysis: started(analysis.record), default=None)
            found.append(newest.efficiency(family) if newest else Efficiency())
        return found


def machine(record: Record) -> str:
    """Equal for efficiency records whose times may be compared."""
    return canonical({name: record.identity.get(name, record.cell.get(name)) for name in MACHINE})


def _successful(analyses: list[Analysis]) -> list[Analysis]:
    return [analysis for analysis in analyses if analysis.record.status == "ok"] or analyses


def _commonest_machine(candidates: Sequence[Sequence[Analysis]]) -> str | None:
    """The machine on which most rows were measured; of several, the one that was used last."""
    rows = Counter(name for analyses in candidates for name in {machine(analysis.record) for analysis in analyses})
    latest: dict[str, str] = {}
    for analysis in (analysis for analyses in candidates for analysis in analyses):
        name = machine(analysis.record)
        latest[name] = max(latest.get(name, ""), started(analysis.record))
    return max(rows, key=lambda name: (rows[name], latest[name], name), default=None)


def _stack(record: Record, shape: Mapping[str, Any]) -> str:
    return canonical([record.cell["pattern"], *(shape.get(name) for name in SHAPE)])


def _family(record: Record, stack: str) -> str:
    return canonical([record.cell["attention"], record.config.get("attention"), stack])
