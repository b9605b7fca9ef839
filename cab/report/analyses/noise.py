"""The noise floor: `vanilla` and `eager` are the same function, so what they differ by in quality is noise.

    floor = the farther end of Welch's 95% interval of mean(eager) - mean(vanilla) over seeds, at least two of each

A difference between two families below the floor is one that two runs of the same function may show. The floor of two
or three seeds is itself uncertain, and wide for that reason. Beside the floor each pair has its own Welch interval: a
difference is called large where it is above the floor and its interval excludes 0. Perplexities count by their
logarithm. One row a family (see `spoken`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question, families, gains, place, span, spoken, table_names
from cab.report.figures.style import looks, set_title, style
from cab.report.rows import Group
from cab.report.stats import welch_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME = ("vanilla", "eager")


def lines(material: Material) -> list[Line]:
    return [line for _, group, _ in material.named for line in _of_group(group)]


def _of_group(group: Group) -> list[Line]:
    """The pair that gives the floor first, then all others; nothing where either of the two is missing."""
    scores = {row.attention: found for row in spoken(group) if (found := gains(group, row))}
    if any(name not in scores for name in SAME):
        return []
    floor = floor_of(scores[SAME[0]], scores[SAME[1]])
    return [_pair(group, *pair, scores, floor) for pair in combinations(families(scores), 2)]


def floor_of(one: Sequence[float], two: Sequence[float]) -> float | None:
    """None also where all scores are the same, as at a ceiling: that does not show that there is no noise."""
    interval = welch_interval(one, two)
    return (max(map(abs, interval)) or None) if interval else None


def _pair(group: Group, first: str, second: str, scores: Mapping[str, list[float]], floor: float | None) -> Line:
    gain = statistics.fmean(scores[second]) - statistics.fmean(scores[first])
    interval = welch_interval(scores[second], scores[first])
    beyond_floor = None if floor is None else abs(gain) > floor
    beyond_seeds = None if interval is None else interval[0] > 0 or interval[1] < 0
    return place(group) | {
        "first": first,
        "second": second,
        "n_first": len(scores[first]),
        "n_second": len(scores[second]),
        "gain": gain,
        **span(interval, "gain"),
        "floor": floor,
        "over_floor": abs(gain) / floor if floor else None,
        "beyond_floor": beyond_floor,
        "beyond_seeds": beyond_seeds,
        "large": None if (first, second) == SAME or beyond_floor is None else bool(beyond_floor and beyond_seeds),
        "figure": group.size if floor else "",
    }


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Every family's distance to vanilla in units of the floor, a line for each table."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown = [line for line in found if line["first"] == "vanilla"]
    names = table_names(shown)
    rows = list(dict.fromkeys(names))
    with looks() as figure_class:
        figure = figure_class(figsize=(13, 3.0 + 0.85 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(-1, 1, color="#e4e4e4", zorder=0)
        labelled: set[str] = set()
        for name, line in zip(names, shown, strict=True):
            family, look = line["second"], style(line["second"])
            own = [other["second"] for other, at in zip(shown, names, strict=True) if at == name]
            y = rows.index(name) + 0.6 * (own.index(family) / max(1, len(own) - 1) - 0.5)
            axes.plot(
                line["gain"] / line["floor"],
                y,
                marker=look.marker,
                color=look.color,
                markerfacecolor=look.color if line["large"] else "white",
                markeredgewidth=2,
                markersize=10,
                linestyle="none",
            )
            if family not in labelled:
                axes.plot([], [], marker=look.marker, color=look.color, linestyle="none", markersize=10, label=family)
                labelled.add(family)
        axes.set_xscale("symlog", linthresh=1, linscale=0.8)
        low, high = axes.get_xlim()
        reach = max(3.0, -low, high)
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000) if tick <= reach]
        axes.xaxis.set_major_locator(FixedLocator([*(-tick for tick in reversed(ticks)), 0, *ticks]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlim=(-reach * 1.15, reach * 1.15), ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), rows)
        for edge in range(1, len(rows)):
            axes.axhline(edge - 0.5, color="#d9d9d9", linewidth=0.8)
        axes.grid(False, axis="y")
        axes.set_xlabel("better than vanilla by so many noise floors (left: worse)")
        note = "grey: the noise floor; filled: above it, and the 95% interval over seeds excludes 0"
        set_title(figure, f"Differences against noise, {found[0]['size']}; {note}")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
        return figure


QUESTION = Question(
    "noise",
    "Noise floor",
    "`vanilla` and `eager` are the same function, so their difference in quality, with its 95% interval over seeds, is"
    " noise: only differences above that floor say something about attention.",
    "scores of `vanilla` and `eager` in one table",
    lines,
    draw,
)
