"""The gain of attention on a task: a family over `none`, the same network without token mixing.

    gain  = score - none                            more is better, perplexities by their logarithm
    share = gain / (vanilla - best predictor)

The unit is what `vanilla` gains over the best predictor without attention or a network: it depends on the task and its
baselines, and not, as a z-score does, on which other families were run. 1 is as much as all of that gain, 0 nothing;
below 0 token mixing harms. The interval is Welch's over the seeds of both, divided by the unit, which is held fixed.
Where vanilla is not better than that predictor beyond the noise there is no unit, and only the gain itself is
given. CAB's figure of this kind has a z-score without intervals (its section 5).
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question, in_order, one_per_family, table_names
from cab.report.figures.grid import UNSURE, GridCell, grid, value_cell
from cab.report.groups import Group
from cab.report.oriented import oriented, scaled
from cab.report.stats import Estimate, t_interval


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    label: str
    options: str
    n: int
    n_none: int
    gain: Estimate | None
    """As in leaderboard.csv."""
    share: Estimate | None
    unit: float | None
    no_unit: str
    """Why there is no unit."""
    figure: str
    shown: bool


def lines(material: Material) -> list[Line]:
    """Only sizes in which a table has a unit are in a figure."""
    found = [line for group in material.groups for line in _of_group(group)]
    sizes = {line.group.size for line in found if line.unit}
    return [replace(line, figure=line.group.size if line.group.size in sizes else "") for line in found]


def _of_group(group: Group) -> Iterator[Line]:
    control = oriented(group, group.control) if group.control else None
    if control is None:
        return
    scale, no_unit = unit(group)
    shown = one_per_family(group)
    for variant in group.variants:
        own = oriented(group, variant)
        if variant is not group.control and own is not None:
            yield Line(
                group=group,
                attention=variant.attention,
                label=variant.label,
                options=variant.options,
                n=len(own),
                n_none=len(control),
                gain=variant.gain,
                share=variant.gain.divided(scale) if variant.gain and scale else None,
                unit=scale,
                no_unit=no_unit,
                figure="",
                shown=any(variant is each for each in shown),
            )


def unit(group: Group) -> tuple[float | None, str]:
    """What vanilla gains over the best predictor, or why that is no unit."""
    vanilla = [variant for variant in one_per_family(group) if variant.attention == "vanilla"]
    own = oriented(group, vanilla[0]) if vanilla else None
    predictor = group.strongest_predictor
    score = scaled(group.headline, predictor.score) if predictor else None
    if own is None:
        return None, "vanilla has no score"
    if predictor is None or score is None:
        return None, "no predictor has a score"
    interval = t_interval(own)
    least = interval.low if interval else own[0]
    if least <= group.sign * score:
        return None, f"vanilla is not better than the best predictor ({predictor.name})"
    return statistics.fmean(own) - group.sign * score, ""


def draw(found: Sequence[Line]) -> Figure:
    shown = [line for line in found if line.shown]
    names = table_names([line.group for line in shown])
    columns = in_order(line.attention for line in shown)
    cells = {(name, line.attention): _cell(line) for name, line in zip(names, shown, strict=True)}
    size = found[0].group.size
    title = f"Gain of attention over none, {size}; 1 = the gain of vanilla over the best predictor"
    title += "\ngrey: the interval includes 0, or one seed only"
    return grid(list(dict.fromkeys(names)), columns, cells, title)


def _cell(line: Line) -> GridCell:
    if line.share is None:
        return GridCell("no unit", ink=UNSURE)
    interval = line.share.interval
    below = f"{interval.low:+.2f} to {interval.high:+.2f}" if interval else f"n={line.n}"
    return value_cell(f"{line.share.value:+.2f}", below, line.share.value, line.share.excludes_zero)


QUESTION = Question(
    name="gain",
    title="Gain of attention",
    explanation="The gain of a family over the same network without token mixing, as a share of that of vanilla over"
    " the best predictor: 1 is as much, 0 means that attention does not help. Intervals are 95% (Welch) over seeds.",
    needs="a score of `none` and of another family in one table",
    lines=lines,
    draw=draw,
)
