"""Quality against training time, and the Pareto-optimal families: no other family is better in both.

Time is the wall clock of the training loop, mean over seeds, as recorded: other work on the machine is in it, and a
family that was trained while others ran looks slower than it is. The paired measurement of one step is not affected by
that; it is in the figure of quality against efficiency. Only times of one device model with one number of threads and
one precision are compared; a family that was trained on several is in the table of each. Pareto-optimal is meant of the
means: with one seed, or with intervals that overlap, it proves nothing.

Who is best at equal training time is read from the training curves: the headline metric on the validation split after
`equal_seconds`, the time in which all seeds of the fastest family were done, on a straight line between the validations
before and after it, beside that at the last validation of each, at equal steps. (The last validation before that time
would be older the rarer validations are, which counts against slower families.) No rate was tuned and no schedule made
for the shorter time, in which a slower family is still at a high rate: that counts against it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question
from cab.report.figures.axes import legend, main_range, point, value_ticks
from cab.report.figures.style import INK, Style, new_figure, styles
from cab.report.groups import Group
from cab.report.stats import Estimate, Interval, mean
from cab.report.text import words
from cab.report.variant import Variant
from cab.store.record import Record

ROUNDING = 1e-3
"""Seconds to which a curve is written."""


@dataclass(frozen=True)
class Line:
    group: Group
    device: str
    attention: str
    label: str
    n: int
    mean: Estimate
    n_times: int
    seconds: Estimate
    seconds_lowest: float
    seconds_highest: float
    equal_seconds: float
    validation_at_equal_time: Estimate | None
    """Between the validations around that time; None where a seed was not validated by then."""
    validation_at_end: Estimate | None
    figure: str
    pareto_optimal: bool = True
    dominated_by: str = ""

    def is_dominated_by(self, other: "Line") -> bool:
        """Whether another is at least as good and as fast, and better in one of the two."""
        quality = self.group.sign * (other.mean.value - self.mean.value)
        speed = self.seconds.value - other.seconds.value
        return quality >= 0 and speed >= 0 and (quality > 0 or speed > 0)


def lines(material: Material) -> list[Line]:
    found = []
    for group in material.groups:
        runs = [run for variant in group.variants if variant.mean for run in _runs(variant)]
        for name in sorted({device(run.records[0]) for run in runs}):
            same = [run for run in runs if device(run.records[0]) == name]
            if len(same) > 1:
                found += _compared(group, name, same)
    return found


@dataclass(frozen=True)
class Runs:
    """The seeds of a variant on one device."""

    variant: Variant
    records: Sequence[Record]
    seconds: Sequence[float]

    def validation(self, metric: str | None, after: float) -> Estimate | None:
        """That after some seconds of training, on a straight line between validations."""
        values = []
        for record in self.records:
            points = [each for each in record.result.get("curve") or [] if each.get("validation")]
            known = {each["seconds"]: each["validation"].get(metric) for each in points}
            if known and None not in known.values() and min(known) <= after + ROUNDING:
                at = max(known) if max(known) <= after + ROUNDING else after
                values.append(float(np.interp(at, list(known), list(known.values()))))
        return mean(values) if len(values) == len(self.records) else None


def _runs(variant: Variant) -> Iterator[Runs]:
    by_device: dict[str, list[Record]] = {}
    for record in variant.records:
        by_device.setdefault(device(record), []).append(record)
    for records in by_device.values():
        seconds = [(record.result.get("training") or {}).get("seconds") or 0.0 for record in records]
        if all(seconds):
            yield Runs(variant, records, seconds)


def device(record: Record) -> str:
    """What must be equal for times to be compared: the machine, and how a batch was split."""
    about = record.provenance.get("device") or {}
    parts = [about.get("name") or "unknown"]
    if threads := about.get("threads"):
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    parts.append(record.identity.get("precision") or "unknown")
    if (processes := (record.result.get("training") or {}).get("processes") or 1) > 1:
        parts.append(f"{processes} processes")
    if micro_batch := (record.config.get("train") or {}).get("micro_batch"):
        parts.append(f"micro-batch {micro_batch}")
    return ", ".join(parts)


def _compared(group: Group, name: str, same: Sequence[Runs]) -> list[Line]:
    """Fastest first."""
    same = sorted(same, key=lambda runs: mean(runs.seconds).value)
    equal = max(same[0].seconds)
    compared = [_line(group, name, runs, equal) for runs in same]
    found = []
    for line in compared:
        better = [other.label for other in compared if line.is_dominated_by(other)]
        found.append(replace(line, pareto_optimal=not better, dominated_by=", ".join(better)))
    return found


def _line(group: Group, name: str, runs: Runs, equal: float) -> Line:
    variant = runs.variant
    return Line(
        group=group,
        device=name,
        attention=variant.attention,
        label=variant.label,
        n=len(variant.scores),
        mean=mean(variant.scores),
        n_times=len(runs.seconds),
        seconds=mean(runs.seconds),
        seconds_lowest=min(runs.seconds),
        seconds_highest=max(runs.seconds),
        equal_seconds=equal,
        validation_at_equal_time=runs.validation(group.headline, equal),
        validation_at_end=runs.validation(group.headline, max(runs.seconds)),
        figure=group.figure_name,
    )


def draw(found: Sequence[Line]) -> Figure:
    devices = list(dict.fromkeys(line.device for line in found))
    validated = [line for line in found if line.validation_at_equal_time]
    figure = new_figure(16 if validated else 10, 0.8 + 6.4 * len(devices))
    looks = styles({line.label: line.attention for line in found})
    panels = figure.subplots(len(devices), 2 if validated else 1, squeeze=False)
    for row, name in zip(panels, devices, strict=True):
        own = [line for line in found if line.device == name]
        _pareto_panel(row[0], own, looks)
        row[0].set_title(name)
        if validated:
            _equal_time_panel(row[1], own, looks)
    note = "left: filled is Pareto-optimal by its mean; " if validated else "filled: Pareto-optimal by its mean; "
    note += "bars: 95% intervals over seeds, lowest to highest time"
    figure.suptitle(f"{found[0].group.full_title}; {note}", wrap=True)
    legend(figure, *panels[:, 0])
    return figure


def _equal_time_panel(axes: Axes, own: Sequence[Line], looks: Mapping[str, Style]) -> None:
    """Best at equal time first. Filled: then; hollow: at the end of training. What is far off, as a slow family is,
    stands at the edge with its value."""
    sign = own[0].group.sign
    both = [each.value for line in own for each in (line.validation_at_equal_time, line.validation_at_end) if each]
    low, high = main_range(both)
    margin = 0.08 * (high - low or abs(high) or 1.0)
    least, greatest = low - margin, high + margin
    order = sorted(own, key=lambda line: (not line.validation_at_equal_time, -sign * _value(line)))
    for place, line in enumerate(order):
        then, end, look = line.validation_at_equal_time, line.validation_at_end, looks[line.label]
        if then and end:
            axes.plot([then.value, end.value], [place, place], color=look.color, linewidth=1.2, linestyle=":")
        if end and low <= end.value <= high:
            point(axes, Estimate(end.value), Estimate(place), look, filled=False)
        if then and low <= then.value <= high:
            point(axes, then, Estimate(place), look)
        for far in [each.value for each in (then, end) if each and not low <= each.value <= high]:
            right = far > high
            text = f"{far:.4g} →" if right else f"← {far:.4g}"
            at = (greatest if right else least, place)
            axes.annotate(text, at, (0, 5), textcoords="offset points", ha="right" if right else "left", va="bottom")
    axes.set_xlim(least, greatest)
    axes.set_yticks(range(len(order)), [line.label for line in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.grid(False, axis="y")
    group = own[0].group
    axes.set_xlabel(f"validation: {words(group.headline)} ({group.better} is better)")
    seconds = f"{own[0].equal_seconds:,.3g} s"
    axes.set_title(f"filled: after {seconds} of training; hollow: at the end")


def _value(line: Line) -> float:
    return line.validation_at_equal_time.value if line.validation_at_equal_time else 0.0


def _pareto_panel(axes: Axes, own: Sequence[Line], looks: Mapping[str, Style]) -> None:
    axes.set_xscale("log")
    axes.margins(0.16, 0.14)
    front = sorted((line.seconds.value, line.mean.value) for line in own if line.pareto_optimal)
    front.append((max(line.seconds_highest for line in own), front[-1][1]))  # the best of all stays the best
    x, y = zip(*front, strict=True)
    axes.step(x, y, where="post", color=INK, linewidth=1.6, linestyle=":", zorder=0)
    for line in own:
        seconds = Estimate(line.seconds.value, Interval(line.seconds_lowest, line.seconds_highest))
        point(axes, seconds, line.mean, looks[line.label], line.label, line.pareto_optimal)
    group = own[0].group
    axes.set(xlabel="seconds of training, wall clock", ylabel=group.score_label)
    value_ticks(axes)


QUESTION = Question(
    name="time",
    title="Quality against training time",
    explanation="Score against the seconds that training took on one device model: no other family is both as good and"
    " as fast as one on the dotted line. The seconds are the wall clock of the run, with whatever else the machine did;"
    " the measured time of a step is in `Quality against efficiency`. Right: the validation of every family at the time"
    " at which the fastest was done, best first, and at the end of its own training.",
    needs="two scored families of one table with training times from one device model",
    lines=lines,
    draw=draw,
)
