"""A table as a figure: coloured cells with a number and below it a smaller text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cab.report.figures.style import INK, new_figure, set_title

UNSURE = "#595959"
HEIGHT = 0.8
"""Inches of a cell."""


@dataclass(frozen=True)
class GridCell:
    text: str
    below: str = ""
    value: float | None = None
    """From -1, red, to 1, blue; None: white."""
    sure: bool = True
    """Whether the number is different from 0 beyond the noise."""


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], GridCell],
    title: str,
    note: str,
    width: float = 1.8,
) -> Figure:
    """`cells` by row and column; those that are absent stay empty. `width`: inches of a cell."""

    colours = matplotlib.colormaps["RdBu"]
    figure = new_figure(max(9.0, 2.6 + width * len(columns)), 1.9 + HEIGHT * len(rows))
    axes = figure.subplots()
    for (row, column), cell in cells.items():
        x, y = columns.index(column), rows.index(row)
        face: str | tuple[float, ...] = "white"
        if cell.value is not None:  # pale, so that the text is legible
            strength = 0.3 if cell.sure else 0.15
            face = colours(0.5 + strength * max(-1.0, min(1.0, cell.value)))
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
    axes.spines[:].set_visible(False)
    set_title(figure, f"{title}\n{note}")
    return figure
