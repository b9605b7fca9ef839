"""The noise floor: `vanilla` and `eager` are the same function, so the difference in their quality is noise.

    floor = the larger absolute end of Welch's 95% interval of mean(eager) - mean(vanilla), at least two seeds of each

Two runs of the same function may differ by as much as the floor, so a smaller difference between two families means
nothing. The floor of two or three seeds is itself uncertain, and wide for that reason. Beside the floor each pair has
its own Welch interval: a difference is large if it is above the floor and its interval excludes 0. Perplexities count
by their logarithm. One row per family (see `one_per_family`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question, in_order, one_per_family, table_names
from cab.report.figures.axes import legend, point
from cab.report.figures.style import new_figure, style
from cab.report.groups import Group
from cab.report.oriented import oriented
from cab.report.stats import Estimate, difference, welch_interval

SAME = ("vanilla", "eager")


@dataclass(frozen=True)
class Line:
    group: Group
    first: str
    second: str
    n_first: int
    n_second: int
    gain: Estimate
    """Of the second over the first."""
    floor: float | None
    over_floor: float | None
    beyond_floor: bool | None
    beyond_seeds: bool | None
    large: bool | None
    figure: str


def lines(material: Material) -> list[Line]:
    return [line for group in material.groups for line in _of_group(group)]


def _of_group(group: Group) -> list[Line]:
    """All pairs of families, vanilla and eager first; none if either of these is missing."""
    scores = {variant.attention: found for variant in one_per_family(group) if (found := oriented(group, variant))}
    if any(name not in scores for name in SAME):
        return []
    floor = noise_floor(scores["vanilla"], scores["eager"])
    return [_pair(group, first, second, scores, floor) for first, second in combinations(in_order(scores), 2)]


def noise_floor(first: Sequence[float], second: Sequence[float]) -> float | None:
    """None with fewer than two seeds, and if all scores are the same, as at a ceiling: that does not show that there is
    no noise."""
    interval = welch_interval(first, second)
    return max(abs(interval.low), abs(interval.high)) or None if interval else None


def _pair(group: Group, first: str, second: str, scores: Mapping[str, list[float]], floor: float | None) -> Line:
    gain = difference(scores[second], scores[first])
    beyond_floor = None if floor is None else abs(gain.value) > floor
    beyond_seeds = gain.excludes_zero if gain.interval else None
    return Line(
        group=group,
        first=first,
        second=second,
        n_first=len(scores[first]),
        n_second=len(scores[second]),
        gain=gain,
        floor=floor,
        over_floor=abs(gain.value) / floor if floor else None,
        beyond_floor=beyond_floor,
        beyond_seeds=beyond_seeds,
        large=None if (first, second) == SAME or beyond_floor is None else beyond_floor and bool(beyond_seeds),
        figure=group.size if floor else "",
    )


def draw(found: Sequence[Line]) -> Figure:
    """Every family's distance to vanilla in noise floors, one row per table."""
    shown = [line for line in found if line.first == "vanilla"]
    names = table_names([line.group for line in shown])
    rows = list(dict.fromkeys(names))
    figure = new_figure(13, 3.0 + 0.85 * len(rows))
    axes = figure.subplots()
    axes.axvspan(-1, 1, color="#e4e4e4", zorder=0)
    for name in rows:
        own = [line for line, table in zip(shown, names, strict=True) if table == name]
        for place, line in enumerate(own):
            x, y = line.gain.value / (line.floor or 1.0), rows.index(name) + 0.6 * (place / max(1, len(own) - 1) - 0.5)
            point(axes, Estimate(x), Estimate(y), style(line.second), line.second, filled=bool(line.large))
    axes.set_xscale("symlog", linthresh=1, linscale=0.8)
    axes.xaxis.set_major_formatter("{x:g}")
    reach = 1.15 * max(3.0, *map(abs, axes.get_xlim()))
    axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), rows)
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color="#d9d9d9", linewidth=0.8)
    axes.grid(False, axis="y")
    axes.set_xlabel("gain over vanilla in noise floors (left: worse than vanilla)")
    note = "grey: the noise floor; filled: above it, and the 95% interval over seeds excludes 0"
    figure.suptitle(f"Differences against noise, {found[0].group.size}; {note}", wrap=True)
    legend(figure, axes)
    return figure


QUESTION = Question(
    name="noise",
    title="Noise floor",
    explanation="`vanilla` and `eager` are the same function, so the difference in their quality, with its 95% interval"
    " over seeds, is noise: only differences above that floor say something about attention.",
    needs="scores of `vanilla` and `eager` in one table",
    lines=lines,
    draw=draw,
)
