"""A table as a figure: coloured cells with a number and a text below it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cab.report.figures.style import INK, new_figure

UNSURE = "#595959"
HEIGHT = 0.8
"""Inches of a cell."""


@dataclass(frozen=True)
class GridCell:
    text: str
    below: str = ""
    face: str | tuple[float, ...] = "white"
    ink: str = INK
    bold: bool = False


def value_cell(text: str, below: str, value: float, sure: bool) -> GridCell:
    """A value from -1, red, to 1, blue. `sure`: whether it is different from 0 beyond the noise."""
    strength = 0.3 if sure else 0.15  # pale, so that the text is legible
    face = matplotlib.colormaps["RdBu"](0.5 + strength * max(-1.0, min(1.0, value)))
    return GridCell(text, below, face, INK if sure else UNSURE, bold=sure)


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], GridCell],
    title: str,
    width: float = 1.8,
) -> Figure:
    """`cells` by row and column; those that are absent stay empty. `width`: inches of a cell."""
    figure = new_figure(max(9.0, 2.6 + width * len(columns)), 1.9 + HEIGHT * len(rows))
    axes = figure.subplots()
    draw_cells(axes, rows, columns, cells)
    axes.set_xticklabels([name.replace("_", "\n") for name in columns])
    axes.xaxis.tick_top()
    figure.suptitle(title, wrap=True)
    return figure


def draw_cells(
    axes: Axes, rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], GridCell]
) -> None:
    for (row, column), cell in cells.items():
        x, y = columns.index(column), rows.index(row)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=cell.face, edgecolor="white", linewidth=2))
        weight, above = "bold" if cell.bold else "normal", 0.16 if cell.below else 0.0
        axes.text(x, y - above, cell.text, ha="center", va="center", color=cell.ink, weight=weight)
        axes.text(x, y + 0.24, cell.below, ha="center", va="center", color=cell.ink)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
