"""Time and memory against length, one row per phase, with the lengths from which a family passes the baselines.

Baselines are drawn from the record that measured them at most lengths. Other records come from other runs, in which the
machine may have been busier: their times are multiplied by what vanilla took there against here, so that a line lies
where the paired ratios say. A ring marks where it becomes cheaper for good than vanilla (black, with the length beside
it) or eager (grey); the lines below a panel give both lengths for every family, with what lies outside of the measured
lengths and what was not measured. Lines are medians, bands run from the lower to the upper quartile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from cab.efficiency import efficiency_length as lengths
from cab.efficiency.efficiency_length import EfficiencyLength
from cab.report.costs import one_batch
from cab.report.figures.style import FIXED, INK, Label, Style, looks, place_labels, set_title, style
from cab.report.load import BASELINES, differences
from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Named = tuple[str, Record]
TITLES = {"forward": "forward pass", "train": "training step", "prefill": "prompt", "decode": "one decoded token"}
QUANTITIES = {"seconds": "time", "peak_bytes": "peak memory"}
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
LINE = 0.29
"""Inches per line of the notes."""
WIDE = 18
"""Characters of a name that leave room for two lengths beside it; longer ones have a line of their own."""


def costs(records: Sequence[Record], title: str = "") -> Figure | None:
    """The figure for efficiency records of one pattern, shape and machine; None where nothing was measured."""
    records = [record for record in records if _measured(record)]
    measured = {row["phase"] for record in records for row in _measured(record)}
    phases = [phase for phase in TITLES if phase in measured]
    if not phases:
        return None
    named = list(zip(_labels(records), records, strict=True))
    with looks() as figure_class:
        below = [label for label, record in named if record.cell["attention"] not in BASELINES]
        lines = 2 + len(below) + sum(len(label) > WIDE for label in below)
        lines += 2 if any(_ends(named, phase) for phase in phases) else 0
        heights = [4.4, LINE * lines] * len(phases)
        figure = figure_class(figsize=(14, 1.4 + sum(heights)), layout="constrained")
        grid = figure.subplots(2 * len(phases), 2, squeeze=False, height_ratios=heights)
        waiting: list[tuple[Axes, list[Label]]] = []
        for place, phase in enumerate(phases):
            for column, (quantity, text) in enumerate(QUANTITIES.items()):
                axes, below = grid[2 * place : 2 * place + 2, column]
                waiting.append((axes, _panel(axes, named, phase, quantity)))
                _notes(below, named, phase, quantity, lines)
                axes.set_title(f"{TITLES[phase]}{_batch_text(records, phase)}: {text}")
        rings = "rings: cheaper from there on than vanilla (black), eager (grey)"
        set_title(figure, f"{title}\n{rings}" if title else rings)
        shown = [pair for axes in grid.flat for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        handles = {label: line for line, label in shown}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)))
        figure.draw_without_rendering()
        for axes, labels in waiting:
            place_labels(axes, labels, size=12)
        return figure


def _measured(record: Record) -> list[Row]:
    return [row for row in record.result.get("measurements") or [] if row["status"] == "ok"]


def _labels(records: Sequence[Record]) -> list[str]:
    """The families' names, with the options that differ where one is there more than once."""
    names = [record.cell["attention"] for record in records]
    found = []
    for name, record in zip(names, records, strict=True):
        twins = [other for other in records if other.cell["attention"] == name]
        text = differences(twin.config.get("attention") or {} for twin in twins)[twins.index(record)]
        found.append(f"{name} ({text})" if text else name)
    return found


def _batch_text(records: Sequence[Record], phase: str) -> str:
    batches = {row["batch"] for record in records for row in one_batch(_measured(record), phase)}
    return f", batch {min(batches)}" if batches and batches != {1} else ""


def _panel(axes: Axes, named: Sequence[Named], phase: str, quantity: str) -> list[Label]:
    """Draws one phase's time or memory; gives the labels of the crossings of vanilla."""
    common = _longest(named, "vanilla", phase, "seconds")
    for name in BASELINES:
        points = _longest(named, name, phase, quantity)
        if quantity == "seconds":
            points = _aligned(points, _points_of(_reference(named, phase, name), phase, "vanilla"), common)
        _line(axes, points, style(name), name)
    labels: list[Label] = []
    seen: dict[str, int] = {}
    for label, record in named:
        family, rows = record.cell["attention"], one_batch(record.result["measurements"], phase)
        look = style(family, seen.get(family, 0))
        seen[family] = seen.get(family, 0) + 1
        if family in BASELINES:
            continue
        points = _points(rows, family, quantity)
        if quantity == "seconds":
            points = _aligned(points, _points(rows, "vanilla", quantity), common)
        _line(axes, points, look, label)
        for name in BASELINES:
            crossing = _crossing(record, rows, name, phase, quantity)
            if crossing.value is not None and not crossing.censored:
                length = _ring(axes, points, crossing.value, FIXED[name])
                if name == "vanilla":  # those of eager lie close together, and stand below
                    labels.append(length)
    _finish(axes, quantity)
    return labels


def _notes(axes: Axes, named: Sequence[Named], phase: str, quantity: str, lines: int) -> None:
    """A small table of the lengths from which each family is cheaper, and what was not measured."""
    axes.set_axis_off()
    table = [(INK, ("cheaper than", "vanilla from", "eager from"))]
    for label, record in named:
        family, rows = record.cell["attention"], one_batch(record.result["measurements"], phase)
        if family not in BASELINES:
            found = [_crossing(record, rows, name, phase, quantity) for name in BASELINES]
            look = style(family)
            if len(label) > WIDE:
                table.append((look.text, (label, "", "")))
            table.append((look.text, (label if len(label) <= WIDE else "", _text(found[0]), _text(found[1]))))
    for text in wrap(_ends(named, phase), 66)[:2]:
        table.append((INK, (text, "", "")))
    widths = [max(len(cells[column]) for _, cells in table if cells[1]) + 2 for column in range(3)]
    starts = [1.1 * sum(widths[:column]) / sum(widths) - 0.1 for column in range(3)]  # from below the axis' labels on
    size = 12 if sum(widths) < 76 else 11
    for place, (color, cells) in enumerate(table):
        for x, text in zip(starts, cells, strict=True):
            y = 1 - place / lines
            note = axes.text(x, y, text, transform=axes.transAxes, fontsize=size, color=color, va="top")
            note.set_in_layout(False)


def _text(crossing: EfficiencyLength) -> str:
    return crossing.text.replace("<= ", "≤ ")


def _crossing(record: Record, rows: Sequence[Row], baseline: str, phase: str, quantity: str) -> EfficiencyLength:
    """Where the record's family passes a baseline; `rows` are the record's at this phase and one batch size."""
    key = (record.hash, phase, quantity, baseline)
    if key not in _crossings:
        measure = lengths.time_efficiency_length if quantity == "seconds" else lengths.memory_efficiency_length
        _crossings[key] = measure(rows, record.cell["attention"], baseline, phase)
    return _crossings[key]


_crossings: dict[tuple[str, str, str, str], EfficiencyLength] = {}
"""Needed twice in a figure: for the rings and for the notes."""
Point = tuple[int, float, float, float]
"""Length, and the low, middle and high value there."""


def _points(rows: Sequence[Row], subject: str, quantity: str) -> list[Point]:
    points = []
    for row in sorted(rows, key=lambda row: row["length"]):
        if row["subject"] == subject and row["status"] == "ok" and row[quantity]:
            low, middle, high = _spread(row[quantity])
            points.append((row["length"], low, middle, high))
    return points


def _spread(value: Any) -> tuple[float, float, float]:
    if not isinstance(value, list):
        return value, value, value
    made = lengths.summary(value)
    if made.median is None or made.low_quartile is None or made.high_quartile is None:  # few: their geometric middle
        return made.minimum, (made.minimum * made.maximum) ** 0.5, made.maximum
    return made.low_quartile, made.median, made.high_quartile


def _longest(named: Sequence[Named], baseline: str, phase: str, quantity: str) -> list[Point]:
    """A baseline is in every record: drawn from the one that measured it at most lengths."""
    record = _reference(named, phase, baseline)
    return _points(one_batch(record.result["measurements"], phase), baseline, quantity)


def _reference(named: Sequence[Named], phase: str, baseline: str) -> Record:
    """The record that a baseline is drawn from."""
    return max((record for _, record in named), key=lambda record: len(_points_of(record, phase, baseline)))


def _points_of(record: Record, phase: str, subject: str) -> list[Point]:
    return _points(one_batch(record.result["measurements"], phase), subject, "seconds")


def _aligned(points: Sequence[Point], there: Sequence[Point], here: Sequence[Point]) -> list[Point]:
    """Times as they would have been in the run that vanilla is drawn from (`here`; `there` is the points' own run)."""
    own, common = ({length: middle for length, _, middle, _ in run} for run in (there, here))
    factors = {length: common[length] / own[length] for length in own if length in common}
    found = []
    for length, *times in points:
        factor = factors[min(factors, key=lambda known: abs(known - length))] if factors else 1.0
        low, middle, high = (time * factor for time in times)
        found.append((length, low, middle, high))
    return found


def _line(axes: Axes, points: Sequence[Point], look: Style, label: str) -> None:
    if points:
        x, low, middle, high = zip(*points, strict=True)
        axes.plot(x, middle, color=look.color, marker=look.marker, linestyle=look.line, label=label)
        axes.fill_between(x, low, high, color=look.color, alpha=0.2, linewidth=0)


def _ring(axes: Axes, points: Sequence[Point], length: float, baseline: Style) -> Label:
    """A ring on the family's line where it passes a baseline."""
    import numpy as np

    y = float(np.exp(np.interp(np.log(length), np.log([p[0] for p in points]), np.log([p[2] for p in points]))))
    axes.plot(length, y, "o", markersize=15, markerfacecolor="none", markeredgecolor=baseline.color, markeredgewidth=2)
    return Label(length, y, f"{length:,.0f}", baseline.text, radius=10)


def _ends(named: Sequence[Named], phase: str) -> str:
    """Where lines end early, and why: `not measured: eager from 2,048 on (memory)`."""
    who = [(name, name, _reference(named, phase, name)) for name in BASELINES]
    who += [(record.cell["attention"], label, record) for label, record in named]
    found: dict[tuple[int, str], list[str]] = {}
    for subject, name, record in who:
        rows = one_batch(record.result["measurements"], phase)
        missing = [row for row in rows if row["subject"] == subject and row["status"] != "ok"]
        if missing and (subject not in BASELINES or subject == name):
            first = min(missing, key=lambda row: row["length"])
            why = first["reason"].split(":")[0] if first["status"] == "not_measured" else first["status"]
            names = found.setdefault((first["length"], why.replace("_", " ")), [])
            names += [] if name in names else [name]
    texts = [f"{', '.join(names)} from {length:,} on ({why})" for (length, why), names in found.items()]
    return f"not measured: {'; '.join(texts)}" if texts else ""


def _finish(axes: Axes, quantity: str) -> None:
    """Logarithmic axes with ticks in units, the measured lengths below."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    lines = [line for line in axes.get_lines() if line.get_label() and not str(line.get_label()).startswith("_")]
    measured = sorted({float(x) for line in lines for x in line.get_xdata()})  # type: ignore[union-attr, arg-type]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10 if quantity == "seconds" else 2)
    axes.margins(0.08, 0.12)
    low, high = axes.get_ylim()
    if high / low < 2:  # noise should look like noise
        middle = (low * high) ** 0.5
        low, high = axes.set_ylim(middle / 2**0.5, middle * 2**0.5)
    if quantity == "seconds":
        subs = (1.0, 2.0, 5.0) if high / low > 4 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
        axes.yaxis.set_major_locator(LogLocator(subs=subs if high / low < 300 else (1.0,), numticks=12))
    units = SECONDS if quantity == "seconds" else BYTES
    axes.xaxis.set_major_locator(FixedLocator(measured))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _in_units(value, units)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("length (tokens)")


def _in_units(value: float, units: Sequence[tuple[float, str]]) -> str:
    scale, name = next((unit for unit in units if value >= unit[0] * 0.9999), units[-1])
    return f"{value / scale:,.3g} {name}"
