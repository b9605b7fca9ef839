"""A table as a figure: coloured cells with a number and, in small below it, what qualifies the number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cab.report.figures.style import INK, looks, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNSURE = "#595959"
HIGH = 0.8
"""Inches of a cell."""


class Cell(NamedTuple):
    text: str
    below: str = ""
    value: float | None = None
    """Its colour; None: white."""
    sure: bool = True
    """Whether the number stands beyond the noise."""


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Cell],
    title: str,
    *,
    reach: float,
    note: str = "",
    wide: float = 1.8,
) -> Figure:
    """Red to blue over -reach to reach, cells `wide` inches wide. A cell that is not there stays empty."""
    import matplotlib
    from matplotlib.patches import Rectangle

    colours = matplotlib.colormaps["RdBu"]
    with looks() as figure_class:
        size = max(9.0, 2.6 + wide * len(columns)), 1.9 + HIGH * len(rows)
        figure = figure_class(figsize=size, layout="constrained")
        axes = figure.subplots()
        for (row, column), cell in cells.items():
            x, y = columns.index(column), rows.index(row)
            face: str | tuple[float, ...] = "white"
            if cell.value is not None:  # pale, so that its text is legible on all of it
                strength = 0.3 if cell.sure else 0.15
                face = colours(0.5 + strength * max(-1.0, min(1.0, cell.value / reach)))
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=2))
            ink = INK if cell.sure else UNSURE
            weight = "bold" if cell.sure and cell.value is not None else "normal"
            axes.text(x, y - 0.16 if cell.below else y, cell.text, ha="center", va="center", color=ink, weight=weight)
            axes.text(x, y + 0.24, cell.below, ha="center", va="center", color=ink, fontsize=11)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in columns])
        axes.set_yticks(range(len(rows)), rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(False)
        for side in axes.spines.values():
            side.set_visible(False)
        set_title(figure, f"{title}\n{note}" if note else title)
        return figure
