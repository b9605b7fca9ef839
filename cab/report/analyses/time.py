"""Quality against training time, and the Pareto-optimal families: no other family is better in both.

Time is the wall clock of the training loop, mean over seeds, as recorded: other work on the machine is in it, and a
family that was trained while others ran looks slower than it is. The paired measurement of one step is not affected by
that; it is in the figure of quality against efficiency. Only times of one device model with one number of threads and
one precision are compared; a family that was trained on several is in the table of each. Pareto-optimal is meant of the
means: with one seed, or with intervals that overlap, it proves nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question
from cab.report.figures.axes import legend, point, value_ticks
from cab.report.figures.style import INK, Style, new_figure, styles
from cab.report.groups import Group
from cab.report.stats import Estimate, Interval, mean
from cab.report.variant import Variant
from cab.store.record import Record


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
    figure: str
    pareto_optimal: bool = True
    dominated_by: str = ""

    def is_dominated_by(self, other: "Line") -> bool:
        """Whether another is at least as good and as fast, and better in one of the two."""
        sign = 1 if self.group.better == "higher" else -1
        quality = sign * (other.mean.value - self.mean.value)
        speed = self.seconds.value - other.seconds.value
        return quality >= 0 and speed >= 0 and (quality > 0 or speed > 0)


def lines(material: Material) -> list[Line]:
    found = []
    for group in material.groups:
        own = [line for variant in group.variants if variant.mean for line in _of_variant(group, variant, variant.mean)]
        for name in sorted({line.device for line in own}):
            same = [line for line in own if line.device == name]
            if len(same) > 1:
                found += _compared(same)
    return found


def _of_variant(group: Group, variant: Variant, mean_score: Estimate) -> Iterator[Line]:
    """One per device on which the variant was trained."""
    by_device: dict[str, list[float]] = {}
    for record in variant.records:
        seconds = (record.result.get("training") or {}).get("seconds") or 0.0
        by_device.setdefault(device(record), []).append(seconds)
    for name, times in by_device.items():
        if all(times):
            yield Line(
                group=group,
                device=name,
                attention=variant.attention,
                label=variant.label,
                n=len(variant.scores),
                mean=mean_score,
                n_times=len(times),
                seconds=mean(times),
                seconds_lowest=min(times),
                seconds_highest=max(times),
                figure=group.figure_name,
            )


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


def _compared(same: Sequence[Line]) -> list[Line]:
    found = []
    for line in sorted(same, key=lambda line: line.seconds.value):
        better = [other.label for other in same if line.is_dominated_by(other)]
        found.append(replace(line, pareto_optimal=not better, dominated_by=", ".join(better)))
    return found


def draw(found: Sequence[Line]) -> Figure:
    devices = list(dict.fromkeys(line.device for line in found))
    figure = new_figure(10 * len(devices), 6.8)
    looks = styles({line.label: line.attention for line in found})
    panels = figure.subplots(1, len(devices), squeeze=False)[0]
    for axes, name in zip(panels, devices, strict=True):
        _panel(axes, [line for line in found if line.device == name], looks)
        axes.set_title(name, fontsize=12)
    note = "filled: Pareto-optimal; bars: 95% intervals up, lowest to highest time across"
    figure.suptitle(f"{found[0].group.full_title}; {note}", wrap=True)
    legend(figure, *panels)
    return figure


def _panel(axes: Axes, own: Sequence[Line], looks: Mapping[str, Style]) -> None:
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
    " the measured time of a step is in `Quality against efficiency`.",
    needs="two scored families of one table with training times from one device model",
    lines=lines,
    draw=draw,
)
