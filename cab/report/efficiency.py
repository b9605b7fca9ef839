"""The efficiency of a family: efficiency.csv, and the figures beside the quality of a leaderboard row.

Every ratio is to a baseline of the same run.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cab.efficiency import efficiency_length as lengths
from cab.report.load import origin
from cab.report.settings import options_text
from cab.report.stats import Estimate, Interval
from cab.store.record import Record

BASELINES = ("vanilla", "eager")
"""Measured in every efficiency record, round by round beside the family."""
SHAPE = ("dim", "heads", "depth", "hidden", "conv", "qk_norm", "rotary")
Measurement = Mapping[str, Any]
Key = tuple[str, str, int, int]
"""Subject, phase, length, batch."""
Ratios = Mapping[Key, lengths.Ratio]


@dataclass(frozen=True)
class Efficiency:
    """The figures of one family, None where it was not measured. Of a training step unless the name says otherwise."""

    train_ratio: Estimate | None = None
    """Time over vanilla's, at the longest length at which both were measured."""
    train_length: int | None = None
    train_rounds: int | None = None
    train_verdict: str | None = None
    time_from_vanilla: lengths.EfficiencyLength | None = None
    time_from_eager: lengths.EfficiencyLength | None = None
    memory_from_vanilla: lengths.EfficiencyLength | None = None
    memory_from_eager: lengths.EfficiencyLength | None = None
    cab_fit_time: float | None = None
    """CAB's own efficiency length, against its own baseline (softmax written out)."""
    cab_fit_memory: float | None = None
    growth: str | None = None
    decode_tokens_per_second: float | None = None
    """At the longest length and the smallest batch size that were measured."""
    decode_speedup: Estimate | None = None
    """Vanilla's time over its own."""
    decode_length: int | None = None
    decode_batch: int | None = None
    decoding: str | None = None
    """`state`, or `recomputation` for a family that computes the whole sequence again for every token."""
    state_bytes: float | None = None
    """Of one sequence."""
    state_length: int | None = None
    efficiency_device: str | None = None
    efficiency_precision: str | None = None
    efficiency_command: str | None = None
    efficiency_status: str | None = None
    efficiency_record: str | None = None


@dataclass(frozen=True)
class Analysis:
    """An efficiency record with the ratios to each baseline (the slow part, so once a record)."""

    record: Record
    ratios: Mapping[str, Ratios]

    def efficiency(self, family: str) -> Efficiency:
        """Of the record's own family or of a baseline."""
        return _efficiency(self.record, family, self.ratios["vanilla"])


def analyse(record: Record) -> Analysis:
    measurements = record.result.get("measurements") or []
    return Analysis(record, {baseline: _ratios(measurements, baseline) for baseline in BASELINES})


def _ratios(measurements: Sequence[Measurement], baseline: str) -> Ratios:
    """The ratio of every subject to a baseline. That of vanilla to eager is left out: it is the inverse of eager's."""
    subjects = dict.fromkeys(row["subject"] for row in measurements if row["subject"] not in (baseline, "vanilla"))
    phases = dict.fromkeys(row["phase"] for row in measurements)
    return {
        (subject, phase, ratio.length, ratio.batch): ratio
        for subject in subjects
        for phase in phases
        for ratio in lengths.ratios(measurements, subject, baseline, phase)
    }


def efficiency_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Rows of efficiency.csv: one per measurement; a record without measurements is one row with its reason."""
    record = analysis.record
    head = {name: record.cell.get(name) for name in ("attention", "pattern", "level", *SHAPE, "device", "precision")}
    head["options"] = options_text(record.config.get("attention"))
    tail = {"record_status": record.status, "record_reason": record.reason, "science_version": record.science_version}
    tail |= {name: value for name, value in origin(record).items() if name != "device"}
    tail["record"] = record.hash
    measurements = record.result.get("measurements") or []
    if not measurements:
        return [head | {"status": record.status, "reason": record.reason} | tail]
    rows = []
    for measured in measurements:
        row = head | {name: value for name, value in measured.items() if name != "seconds"}
        row |= _time_columns(measured.get("seconds") or [])
        for baseline, ratios in analysis.ratios.items():
            ratio = ratios.get(_key(measured))
            row[f"ratio_{baseline}"] = ratio.ratio if ratio else None
            row[f"ratio_{baseline}_low"] = ratio.low if ratio else None
            row[f"ratio_{baseline}_high"] = ratio.high if ratio else None
            row[f"verdict_{baseline}"] = ratio.verdict if ratio else None
        rows.append(row | tail)
    return rows


def _time_columns(samples: Sequence[float]) -> dict[str, Any]:
    if not samples:
        return {"n": 0, "seconds_median": None, "seconds_low": None, "seconds_high": None, "spread": None}
    summary = lengths.summary(samples)
    few = summary.median is None
    return {
        "n": summary.n,
        "seconds_median": summary.median,
        "seconds_low": summary.minimum if few else summary.low_quartile,
        "seconds_high": summary.maximum if few else summary.high_quartile,
        "spread": "range" if few else "quartiles",
    }


def _efficiency(record: Record, family: str, to_vanilla: Ratios) -> Efficiency:
    rows = record.result.get("measurements") or []
    train = one_batch(rows, "train")
    own = measured(train, family)
    times, peaks = lengths.time_efficiency_length, lengths.memory_efficiency_length
    growth = lengths.growth([row["length"] for row in own], [row["seconds"] for row in own])
    return Efficiency(
        **_train(own, family, to_vanilla),
        time_from_vanilla=_crossing(times(train, family, "vanilla", "train"), family == "vanilla"),
        time_from_eager=_crossing(times(train, family, "eager", "train"), family == "eager"),
        memory_from_vanilla=_crossing(peaks(train, family, "vanilla", "train"), family == "vanilla"),
        memory_from_eager=_crossing(peaks(train, family, "eager", "train"), family == "eager"),
        cab_fit_time=_cab_fit(train, family, "seconds", "time"),
        cab_fit_memory=_cab_fit(train, family, "peak_bytes", "memory"),
        growth=growth.text if growth else None,
        **_decode(rows, family, to_vanilla),
        **_state(rows, family),
        efficiency_device=record.cell.get("device"),
        efficiency_precision=record.cell.get("precision"),
        efficiency_command=record.provenance.get("command"),
        efficiency_status=record.status,
        efficiency_record=record.hash,
    )


def _crossing(found: lengths.EfficiencyLength, itself: bool) -> lengths.EfficiencyLength | None:
    """None for a baseline against itself, and where nothing was measured."""
    return None if itself or found.value is None else found


def _cab_fit(train: Sequence[Measurement], family: str, figure: str, kind: str) -> float | None:
    points = [] if family == "eager" else lengths.paired(train, family, "eager", "train", figure=figure)
    if not points:
        return None
    at, _, family_costs, eager_costs = zip(*points, strict=True)
    if kind == "time":
        family_costs, eager_costs = (tuple(map(statistics.median, costs)) for costs in (family_costs, eager_costs))
    return lengths.cab_fit(at, family_costs, eager_costs, kind)


def _train(own: Sequence[Measurement], family: str, to_vanilla: Ratios) -> dict[str, Any]:
    if family == "vanilla":
        longest = max((row["length"] for row in own), default=None)
        return {"train_ratio": Estimate(1.0) if own else None, "train_length": longest}
    ratios = [to_vanilla[_key(row)] for row in own if _key(row) in to_vanilla]
    if not ratios:
        return {}
    last = max(ratios, key=lambda ratio: ratio.length)
    return {
        "train_ratio": _estimate(last.ratio, last.low, last.high),
        "train_length": last.length,
        "train_rounds": last.n,
        "train_verdict": last.verdict,
    }


def _estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value, None if low is None or high is None else Interval(low, high))


def _decode(rows: Sequence[Measurement], family: str, to_vanilla: Ratios) -> dict[str, Any]:
    own = measured(one_batch(rows, "decode"), family)
    if not own:
        return {}
    last = max(own, key=lambda row: row["length"])
    ratio = to_vanilla.get(_key(last))
    speedup = Estimate(1.0) if family == "vanilla" else None
    if ratio:
        low, high = (1 / end if end else None for end in (ratio.high, ratio.low))
        speedup = _estimate(1 / ratio.ratio, low, high)
    return {
        "decode_tokens_per_second": last["batch"] / statistics.median(last["seconds"]),
        "decode_speedup": speedup,
        "decode_length": last["length"],
        "decode_batch": last["batch"],
        "decoding": last.get("decoding") or "state",
    }


def _state(rows: Sequence[Measurement], family: str) -> dict[str, Any]:
    states = state_bytes(rows, family)
    longest = max(states, default=None)
    return {} if longest is None else {"state_bytes": states[longest], "state_length": longest}


def state_bytes(rows: Sequence[Measurement], family: str) -> dict[int, float]:
    """Bytes of the decoding state of one sequence, by length."""
    found: dict[int, float] = {}
    for phase in ("decode", "prefill"):
        for row in measured(one_batch(rows, phase), family):
            if row.get("state_bytes") is not None:
                found.setdefault(row["length"], row["state_bytes"] / row["batch"])
    return found


def measured(rows: Iterable[Measurement], subject: str) -> list[Measurement]:
    return [row for row in rows if row["subject"] == subject and row["status"] == "ok"]


def one_batch(rows: Sequence[Measurement], phase: str) -> list[Measurement]:
    """The measurements of a phase at its smallest batch size."""
    least = min((row["batch"] for row in rows if row["phase"] == phase), default=None)
    return [row for row in rows if row["phase"] == phase and row["batch"] == least]


def _key(row: Measurement) -> Key:
    return row["subject"], row["phase"], row["length"], row["batch"]
