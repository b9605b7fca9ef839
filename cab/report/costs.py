"""What a family costs: efficiency records as a table, and joined to the quality records.

A quality record takes its costs from an efficiency record of the same family, options, pattern and stack shape,
measured at the level `stack`; a baseline without one, from any of that pattern and shape, for baselines are in all. All
rows of a group take theirs from one machine and precision, that which has most of them: a family that was not measured
there has no costs in this group. Every ratio is to a baseline of the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cab.efficiency import efficiency_length as lengths
from cab.report.load import BASELINES, canonical, options_text, origin
from cab.store.record import Record

SHAPE = ("dim", "heads", "depth", "hidden")
MACHINE = ("device", "precision", "threads", "gomp_spincount", "torch", "allocator", "batch")
"""What must be equal for costs to stand in one group: the machine, and the work that it was given."""
Row = Mapping[str, Any]
Place = tuple[str, str, int, int]
"""Subject, phase, length, batch."""
Ratios = Mapping[Place, lengths.Ratio]


@dataclass(frozen=True)
class Analysis:
    """An efficiency record worked out: its lines of efficiency.csv, and its cost columns for the leaderboard."""

    record: Record
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def analyse(record: Record) -> Analysis:
    """Summaries, ratios and efficiency lengths of one record: the costly part, so each record once."""
    measurements = record.result.get("measurements") or []
    against = {name: _ratios(measurements, name) for name in BASELINES}
    summary = _summary(record, record.cell["attention"], against["vanilla"])
    return Analysis(record, _rows(record, measurements, against), summary)


def _rows(record: Record, measurements: Sequence[Row], against: Mapping[str, Ratios]) -> list[dict[str, Any]]:
    """One row per subject, phase, length and batch; a record without measurements is one row with its reason."""
    head = {name: record.cell.get(name) for name in ("attention", "pattern", "level", *SHAPE, "device", "precision")}
    head |= {"options": options_text({"attention": record.config.get("attention")})}
    tail = {"record_status": record.status, "record_reason": record.reason}
    tail |= {name: value for name, value in origin(record).items() if name not in ("device", "seconds")}
    if not measurements:
        return [head | {"status": record.status, "reason": record.reason} | tail]
    rows = []
    for measured in measurements:
        row = head | {key: value for key, value in measured.items() if key != "seconds"} | _times(measured)
        for name, ratios in against.items():
            found = ratios.get(_place(measured))
            row |= {
                f"ratio_{name}": found and found.ratio,
                f"ratio_{name}_low": found and found.low,
                f"ratio_{name}_high": found and found.high,
                f"verdict_{name}": found and found.verdict,
            }
        rows.append(row | tail)
    return rows


def _place(row: Row) -> Place:
    return row["subject"], row["phase"], row["length"], row["batch"]


def _times(measured: Mapping[str, Any]) -> dict[str, Any]:
    samples = measured.get("seconds") or []
    if not samples:
        return {"n": 0, "seconds_median": None, "seconds_low": None, "seconds_high": None, "spread": None}
    made = lengths.summary(samples)
    few = made.median is None
    return {
        "n": made.n,
        "seconds_median": made.median,
        "seconds_low": made.minimum if few else made.low_quartile,
        "seconds_high": made.maximum if few else made.high_quartile,
        "spread": "range" if few else "quartiles",
    }


def _ratios(measurements: Sequence[Row], baseline: str) -> Ratios:
    """Every subject's ratio to a baseline; vanilla's to eager is left out, eager's to vanilla says the same."""
    subjects = dict.fromkeys(row["subject"] for row in measurements if row["subject"] not in (baseline, "vanilla"))
    phases = dict.fromkeys(row["phase"] for row in measurements)
    return {
        (subject, phase, ratio.length, ratio.batch): ratio
        for subject in subjects
        for phase in phases
        for ratio in lengths.ratios(measurements, subject, baseline, phase)
    }


def _summary(record: Record, family: str, to_vanilla: Ratios) -> dict[str, Any]:
    """The cost columns of the leaderboard for the record's family or a baseline, None where not measured. Of a training
    step unless the name says else."""
    rows = record.result.get("measurements") or []
    train = one_batch(rows, "train")
    found: dict[str, Any] = _train(train, family, to_vanilla)
    for figure, measure in (("time", lengths.time_efficiency_length), ("memory", lengths.memory_efficiency_length)):
        for baseline in BASELINES:
            crossing = measure(train, family, baseline, "train")
            known = family != baseline and crossing.value is not None
            name = f"{figure}_from_{baseline}"
            found |= {
                name: crossing.text if known else None,
                f"{name}_length": crossing.value if known else None,
                f"{name}_bound": crossing.censored if known else None,
            }
    for figure, cost in (("time", "seconds"), ("memory", "peak_bytes")):
        found[f"cab_fit_{figure}"] = _cab_fit(train, family, cost, figure)
    own = [row for row in train if row["subject"] == family and row["status"] == "ok"]
    growth = lengths.growth([row["length"] for row in own], [row["seconds"] for row in own])
    found["growth"] = growth.text if growth else None
    return found | _decode(rows, family, to_vanilla) | _where(record)


def _cab_fit(train: Sequence[Row], family: str, cost: str, figure: str) -> float | None:
    """CAB's own efficiency length, against its own baseline (softmax written out)."""
    points = [] if family == "eager" else lengths.paired(train, family, "eager", "train", figure=cost)
    if not points:
        return None
    at, _, ours, theirs = zip(*points, strict=True)
    if figure == "time":
        ours, theirs = tuple(map(statistics.median, ours)), tuple(map(statistics.median, theirs))
    return lengths.cab_fit(at, ours, theirs, figure)


def no_costs() -> dict[str, Any]:
    """The same columns with nothing in them."""
    nothing = Record(kind="efficiency", status="ok", cell={"attention": ""}, identity={})
    return dict.fromkeys(_summary(nothing, "", {}))


def _where(record: Record) -> dict[str, Any]:
    return {
        "cost_device": record.cell.get("device"),
        "cost_precision": record.cell.get("precision"),
        "cost_command": record.provenance.get("command"),
        "cost_status": record.status,
        "cost_record": record.hash,
    }


def _train(train: Sequence[Row], family: str, to_vanilla: Ratios) -> dict[str, Any]:
    """Against vanilla at the longest length at which both were measured."""
    names = ("train_ratio", "train_ratio_low", "train_ratio_high", "train_length", "train_verdict")
    measured = [row for row in train if row["subject"] == family and row["status"] == "ok"]
    if family == "vanilla" and measured:
        return dict(zip(names, (1.0, None, None, max(row["length"] for row in measured), None), strict=True))
    own = [to_vanilla[_place(row)] for row in measured if _place(row) in to_vanilla]
    if not own:
        return dict.fromkeys(names)
    last = max(own, key=lambda ratio: ratio.length)
    return dict(zip(names, (last.ratio, last.low, last.high, last.length, last.verdict), strict=True))


def _decode(rows: Sequence[Row], family: str, to_vanilla: Ratios) -> dict[str, Any]:
    """At the longest length and the smallest batch size at which the family was measured."""
    names = (
        "decode_tokens_per_second",
        "decode_speedup",
        "decode_length",
        "decode_batch",
        "state_bytes",
        "state_length",
    )
    found: dict[str, Any] = dict.fromkeys(names)
    own = [row for row in one_batch(rows, "decode") if row["subject"] == family and row["status"] == "ok"]
    if own:
        last = max(own, key=lambda row: row["length"])
        ratio = to_vanilla.get(_place(last))
        found |= {
            "decode_tokens_per_second": last["batch"] / lengths.middle(last["seconds"]),
            "decode_speedup": 1.0 if family == "vanilla" else 1 / ratio.ratio if ratio else None,
            "decode_length": last["length"],
            "decode_batch": last["batch"],
        }
    states = [
        row
        for phase in ("decode", "prefill")
        for row in one_batch(rows, phase)
        if row["subject"] == family and row["status"] == "ok" and row.get("state_bytes") is not None
    ]
    if states:
        last = max(states, key=lambda row: row["length"])
        found |= {"state_bytes": last["state_bytes"] / last["batch"], "state_length": last["length"]}
    return found


def one_batch(rows: Sequence[Row], phase: str) -> list[Row]:
    """The rows of a phase at its smallest batch size."""
    least = min((row["batch"] for row in rows if row["phase"] == phase), default=None)
    return [row for row in rows if row["phase"] == phase and row["batch"] == least]


class Costs:
    """Finds the cost columns for the rows of a group. A record that failed counts only where no other one is there."""

    def __init__(self, analyses: Iterable[Analysis]) -> None:
        found: dict[str, list[Analysis]] = {}
        self.stacks: dict[str, list[Analysis]] = {}
        for analysis in analyses:
            if analysis.record.cell.get("level") == "stack":
                stack = _stack(analysis.record, analysis.record.cell)
                found.setdefault(_key(analysis.record, stack), []).append(analysis)
                self.stacks.setdefault(stack, []).append(analysis)
        self.found = {key: [one for one in each if one.record.status == "ok"] or each for key, each in found.items()}
        self.nothing = no_costs()

    def __call__(self, rows: Sequence[Record]) -> list[dict[str, Any]]:
        """Cost columns for the records that speak for the rows of one group, in their order."""
        stacks = [_stack(row, row.config.get("model") or {}) for row in rows]
        candidates = [self.found.get(_key(row, stack), []) for row, stack in zip(rows, stacks, strict=True)]
        here = _commonest(candidates)
        lines = []
        for row, stack, each in zip(rows, stacks, candidates, strict=True):
            family = row.cell["attention"]
            found = [one for one in each if machine(one.record) == here]
            if family in BASELINES and not any(one.record.status == "ok" for one in found):
                beside = [one for one in self.stacks.get(stack, []) if machine(one.record) == here]
                found = [one for one in beside if one.record.status == "ok"] or found
            lines.append(_columns(max(found, key=_started), family) if found else dict(self.nothing))
        return lines


def _columns(analysis: Analysis, family: str) -> dict[str, Any]:
    """Of the record's own family, or of a baseline that was measured along."""
    record = analysis.record
    if record.cell["attention"] == family:
        return dict(analysis.summary)
    return _summary(record, family, _ratios(record.result.get("measurements") or [], "vanilla"))


def _stack(record: Record, shape: Mapping[str, Any]) -> str:
    return canonical([record.cell["pattern"], *(shape.get(name) for name in SHAPE)])


def _key(record: Record, stack: str) -> str:
    return canonical([record.cell["attention"], record.config.get("attention"), stack])


def machine(record: Record) -> str:
    """Equal for records whose times may stand side by side."""
    return canonical({name: record.identity.get(name, record.cell.get(name)) for name in MACHINE})


def _started(analysis: Analysis) -> str:
    return analysis.record.provenance.get("started") or ""


def _commonest(candidates: Sequence[Sequence[Analysis]]) -> str | None:
    """The machine on which most rows were measured; of several, the one that was used last."""
    rows: dict[str, int] = {}
    latest: dict[str, str] = {}
    for each in candidates:
        for name in {machine(one.record) for one in each}:
            rows[name] = rows.get(name, 0) + 1
        for one in each:
            name = machine(one.record)
            latest[name] = max(latest.get(name, ""), _started(one))
    return max(rows, key=lambda name: (rows[name], latest[name], name), default=None)
