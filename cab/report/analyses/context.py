"""Language models at other contexts than in training: interpolation below its length, extrapolation above.

From the records' table `loss_by_context`: the trained model tested again on as many tokens, cut into contexts of
another length. One line a family: the mean over seeds, and a band from the least seed to the greatest. Positions are
the same for all families of a table, so what differs is the attention; how far the positions themselves extrapolate is
in every line alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question, place, span, title
from cab.report.figures.plots import legend
from cab.report.figures.style import looks, set_title, style
from cab.report.rows import Group, Row
from cab.report.stats import t_interval
from cab.report.words import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "loss_by_context"


def lines(material: Material) -> list[Line]:
    found = []
    for name, group, _ in material.named:
        own = [line for row in group.rows if row.complete for line in _of_row(group, row)]
        several = len({line["context"] for line in own if line["mean"] is not None}) > 1
        found += [line | {"figure": name if several else ""} for line in own]
    return found


def _of_row(group: Group, row: Row) -> list[Line]:
    """A line for each context; a reason instead of a score where the records give one."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for record in row.records:
        for entry in (record.result.get("tables") or {}).get(TABLE) or []:
            found.setdefault(entry["context"], []).append(entry)
    trained = (row.first.config.get("model") or {}).get("length")
    metric, made = group.headline or "", []
    for context, entries in sorted(found.items()):
        values = [entry[metric] for entry in entries if entry.get(metric) is not None]
        whole = len(values) == len(row.records)  # as everywhere: no mean over the seeds that happen to have it
        made.append(
            place(group)
            | {
                "attention": row.attention,
                "label": row.label,
                "context": context,
                "trained_at": trained,
                "n": len(values),
                "mean": statistics.fmean(values) if whole else None,
                **span(t_interval(values) if whole else None, "mean"),
                "least": min(values) if whole else None,
                "greatest": max(values) if whole else None,
                "reason": "; ".join(dict.fromkeys(e["reason"] for e in entries if e.get("reason"))),
            }
        )
    return made


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    scored = [line for line in found if line["mean"] is not None]
    first = scored[0]
    with looks() as figure_class:
        figure = figure_class(figsize=(10, 7), layout="constrained")
        axes = figure.subplots()
        seen: dict[str, list[str]] = {}
        for label in dict.fromkeys(line["label"] for line in scored):
            own = [line for line in scored if line["label"] == label]
            options = seen.setdefault(own[0]["attention"], [])
            options.append(label)
            look = style(own[0]["attention"], len(options) - 1)
            x, mean = [line["context"] for line in own], [line["mean"] for line in own]
            axes.plot(x, mean, color=look.color, marker=look.marker, linestyle=look.line, label=label)
            band = [line["least"] for line in own], [line["greatest"] for line in own]
            axes.fill_between(x, *band, color=look.color, alpha=0.18, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({line["context"] for line in scored})))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(
            xlabel="context in the test (tokens)", ylabel=f"{words(first['headline'])} ({first['better']} is better)"
        )
        _mark(axes, first["trained_at"])
        most = max(line["n"] for line in scored)
        note = f"mean of up to {most} seeds, band from least to greatest" if most > 1 else "one seed"
        set_title(figure, f"{title(first)}: {note}")
        legend(figure, axes)
        return figure


def _mark(axes: Axes, trained: int | None) -> None:
    """The training length: left of it interpolation, right of it extrapolation."""
    if trained is not None:
        axes.axvline(trained, color="black", linewidth=1.2, linestyle=":")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.08 * (high - low))
        where = axes.get_xaxis_transform()
        axes.text(trained, 0.985, " trained at", transform=where, va="top", ha="left", fontsize=12)


QUESTION = Question(
    "context",
    "Other contexts than in training",
    "The loss of the trained model at shorter and longer contexts: left of the dotted line it interpolates, right of it"
    " it extrapolates; a line that rises there says from where on a longer context harms.",
    f"records with a table {TABLE}",
    lines,
    draw,
)
