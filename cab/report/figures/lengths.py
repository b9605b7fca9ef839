"""Time and memory against length, one row per phase, with the lengths from which a family is cheaper than a baseline.

Baselines are drawn from the record that measured them at most lengths. Other records come from other runs, in which the
machine may have been busier: their times are multiplied by the ratio of vanilla's time in both, so that the lines agree
with the paired ratios. A ring marks where a family becomes cheaper for all longer lengths than vanilla (black, with the
length) or eager (grey); leaderboard.csv has these lengths with their intervals and bounds. Lines are medians, bands go
from the lower to the upper quartile. A line ends where nothing was measured; efficiency.csv has the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from cab.efficiency import efficiency_length
from cab.efficiency.efficiency_length import EfficiencyLength
from cab.report.efficiency import BASELINES, Measurement, measured, one_batch
from cab.report.figures.axes import binary_ticks, legend, length_ticks, line_and_band, log_ticks
from cab.report.figures.style import FIXED, Style, new_figure, styles
from cab.report.settings import labels
from cab.sizes import size_text
from cab.store.record import Record

PHASES = {"forward": "forward pass", "train": "training step", "prefill": "prompt", "decode": "one decoded token"}
QUANTITIES = {"seconds": "time", "peak_bytes": "peak memory"}


@dataclass(frozen=True)
class Family:
    """A record's family with its look."""

    label: str
    name: str
    look: Style
    record: Record

    def rows(self, phase: str) -> list[Measurement]:
        return one_batch(self.record.result["measurements"], phase)

    def crossing(self, baseline: str, phase: str, quantity: str) -> EfficiencyLength:
        if quantity == "seconds":
            return efficiency_length.time_efficiency_length(self.rows(phase), self.name, baseline, phase)
        return efficiency_length.memory_efficiency_length(self.rows(phase), self.name, baseline, phase)


@dataclass(frozen=True)
class Point:
    length: int
    low: float
    middle: float
    high: float


def measured_rows(record: Record) -> list[Measurement]:
    return [row for row in record.result.get("measurements") or [] if row["status"] == "ok"]


def draw(records: Sequence[Record], title: str = "") -> Figure:
    """The figure for efficiency records with measurements, of one pattern, shape and machine."""
    names = [record.cell["attention"] for record in records]
    named = labels(names, [record.config.get("attention") or {} for record in records])
    looks = styles(dict(zip(named, names, strict=True)))
    families = [
        Family(label, name, looks[label], record) for label, name, record in zip(named, names, records, strict=True)
    ]
    rows = [row for record in records for row in measured_rows(record)]
    phases = [phase for phase in PHASES if any(row["phase"] == phase for row in rows)]
    figure = new_figure(14, 1.6 + 4.8 * len(phases))
    grid = figure.subplots(len(phases), 2, squeeze=False)
    for panels, phase in zip(grid, phases, strict=True):
        batch = min(row["batch"] for family in families for row in family.rows(phase))
        for axes, (quantity, text) in zip(panels, QUANTITIES.items(), strict=True):
            _panel(axes, families, phase, quantity)
            axes.set_title(f"{PHASES[phase]}{f', batch {batch}' if batch > 1 else ''}: {text}")
    rings = "rings: cheaper from there on than vanilla (black), eager (grey)"
    figure.suptitle(f"{title}\n{rings}" if title else rings, wrap=True)
    legend(figure, *grid.flat)
    return figure


def _panel(axes: Axes, families: Sequence[Family], phase: str, quantity: str) -> None:
    """One phase's time or memory."""
    reference = _points(_reference(families, phase, "vanilla").rows(phase), "vanilla", "seconds")
    lines = [(_reference(families, phase, name), name, FIXED[name], name) for name in BASELINES]
    lines += [(each, each.name, each.look, each.label) for each in families if each.name not in BASELINES]
    for family, subject, look, label in lines:
        points = _points(family.rows(phase), subject, quantity)
        if quantity == "seconds":
            points = _aligned(points, _points(family.rows(phase), "vanilla", "seconds"), reference)
        if points:
            x, low, y, high = zip(*((each.length, each.low, each.middle, each.high) for each in points), strict=True)
            line_and_band(axes, x, y, low, high, look, label)
        for name in BASELINES if subject not in BASELINES else ():
            crossing = family.crossing(name, phase, quantity)
            if crossing.value is not None and not crossing.censored and crossing.verdict == "cheaper":
                _ring(axes, points, crossing.value, name)
    _scale(axes, quantity)


def _ring(axes: Axes, points: Sequence[Point], length: float, baseline: str) -> None:
    """A ring on the family's line where it crosses a baseline's; with the length for vanilla's."""
    x, y = [point.length for point in points], [point.middle for point in points]
    height = float(np.exp(np.interp(np.log(length), np.log(x), np.log(y))))
    color = FIXED[baseline].color
    axes.plot(length, height, "o", markersize=15, markerfacecolor="none", markeredgecolor=color, markeredgewidth=2)
    if baseline == "vanilla":
        axes.annotate(f"{length:,.0f}", (length, height), (0, -12), textcoords="offset points", ha="left", va="top")


def _points(rows: Sequence[Measurement], subject: str, quantity: str) -> list[Point]:
    points = []
    for row in sorted(measured(rows, subject), key=lambda row: row["length"]):
        if row[quantity]:
            points.append(Point(row["length"], *_spread(row[quantity])))
    return points


def _spread(value: Any) -> tuple[float, float, float]:
    """Low, middle and high of samples; a single figure three times."""
    if not isinstance(value, list):
        return value, value, value
    found = efficiency_length.summary(value)
    if found.median is None or found.low_quartile is None or found.high_quartile is None:  # too few samples
        return found.minimum, (found.minimum * found.maximum) ** 0.5, found.maximum
    return found.low_quartile, found.median, found.high_quartile


def _reference(families: Sequence[Family], phase: str, baseline: str) -> Family:
    """The family with whose record a baseline was measured at most lengths."""
    return max(families, key=lambda family: len(_points(family.rows(phase), baseline, "seconds")))


def _aligned(points: Sequence[Point], own: Sequence[Point], reference: Sequence[Point]) -> list[Point]:
    """Times as they would have been in the reference run. `own`: vanilla in the run of the points; `reference`: vanilla
    in the reference run."""
    there = {point.length: point.middle for point in reference}
    factors = {point.length: there[point.length] / point.middle for point in own if point.length in there}
    if not factors:
        return list(points)
    found = []
    for point in points:
        nearest = min(factors, key=lambda length: abs(length - point.length))
        factor = factors[nearest]
        found.append(Point(point.length, point.low * factor, point.middle * factor, point.high * factor))
    return found


def _scale(axes: Axes, quantity: str) -> None:
    """Logarithmic axes with ticks in units, at the measured lengths."""
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    length_ticks(axes, sorted({float(x) for line in lines for x in np.asarray(line.get_xdata())}))
    axes.set_yscale("log")
    axes.margins(0.08, 0.12)
    low, high = axes.get_ylim()
    if high / low < 4:  # so that noise looks like noise, and there are two ticks
        middle = (low * high) ** 0.5
        low, high = axes.set_ylim(middle / 2, middle * 2)
    ticks = log_ticks(low, high) if quantity == "seconds" else binary_ticks(low, high)
    axes.set_yticks(ticks, [EngFormatter("s")(tick) if quantity == "seconds" else size_text(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("length (tokens)")
