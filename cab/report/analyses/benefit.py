"""What attention is worth on a task: a family's score minus that of `none`, the same network without token mixing.

    share = (score - none) / (vanilla - trivial),  scores turned so that more is better, perplexities by logarithm

The unit is what `vanilla` gains over the trivial predictor: it depends on the task and one baseline, and not, as a
z-score does, on which other families were run. 1 is as much as all of that gain, 0 nothing; below, token mixing harms.
The interval is Welch's over the seeds of both, divided by the unit, which is held fixed. Where vanilla is not better
than the trivial predictor beyond the noise there is no unit, and the benefit stands in the metric's own only. CAB's
figure of this kind has a z-score without intervals (its section 5).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question, families, gains, place, span, spoken, table_names
from cab.report.analyses.grid import Cell, grid
from cab.report.composite import scaled
from cab.report.load import options_text
from cab.report.rows import Group, Row
from cab.report.stats import t_interval, welch_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lines(material: Material) -> list[Line]:
    return [line for _, group, _ in material.named for line in _of_group(group)]


def _of_group(group: Group) -> list[Line]:
    control = group.control
    theirs = gains(group, control) if control else None
    if control is None or theirs is None:
        return []
    scale, why = unit(group)
    shown = {id(row) for row in spoken(group)}
    found = []
    for row in group.rows:
        own = gains(group, row)
        if row is control or own is None:
            continue
        gain, interval = statistics.fmean(own) - statistics.fmean(theirs), welch_interval(own, theirs)
        shares = (interval[0] / scale, interval[1] / scale) if interval and scale else None
        raw = group.benefit_interval(row)
        found.append(
            place(group)
            | {
                "attention": row.attention,
                "label": row.label,
                "options": options_text(row.first.identity),
                "n": len(own),
                "n_none": len(theirs),
                "benefit": group.benefit(row),
                **span(raw, "benefit"),
                "share": gain / scale if scale else None,
                **span(shares, "share"),
                "unit": scale,
                "no_unit": why,
                "figure": group.size,
                "shown": id(row) in shown,
            }
        )
    return found


def unit(group: Group) -> tuple[float | None, str]:
    """What vanilla gains over the trivial predictor, or why that is no unit."""
    rows: list[Row] = [row for row in spoken(group) if row.attention == "vanilla"]
    own = gains(group, rows[0]) if rows else None
    name, value = group.trivial
    trivial = scaled(group.headline or "", value)
    if own is None:
        return None, "vanilla has no score"
    if trivial is None:
        return None, "the trivial predictor has no score"
    trivial *= 1.0 if group.better == "higher" else -1.0
    least = (t_interval(own) or (own[0],))[0]
    if least <= trivial:
        return None, f"vanilla is not better than the trivial predictor ({name})"
    return statistics.fmean(own) - trivial, ""


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    shown = [line for line in found if line["shown"]]
    names = table_names(shown)
    rows, columns = list(dict.fromkeys(names)), families(line["attention"] for line in shown)
    cells = {(name, line["attention"]): _cell(line) for name, line in zip(names, shown, strict=True)}
    title = f"Benefit of attention, {found[0]['size']}: score minus that of none, 1 = vanilla minus trivial predictor"
    return grid(rows, columns, cells, title, reach=1.0, note="grey: the interval includes 0, or one seed only")


def _cell(line: Mapping[str, Any]) -> Cell:
    if line["share"] is None:
        return Cell("no unit", sure=False)
    low, high = line["share_low"], line["share_high"]
    below = f"n={line['n']}" if low is None else f"{low:+.2f} to {high:+.2f}"
    return Cell(f"{line['share']:+.2f}", below, line["share"], sure=low is not None and (low > 0 or high < 0))


QUESTION = Question(
    "benefit",
    "Benefit of attention",
    "How much better a family is than the same network without token mixing, as a share of what vanilla gains over the"
    " trivial predictor: 1 is as much as that whole gain, 0 means that the task does not need this attention here."
    " Intervals are 95% (Welch) over seeds.",
    "a score of `none` and of another family in one table",
    lines,
    draw,
)
