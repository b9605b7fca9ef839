"""Texts beside points that cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from cab.report.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

GAPS = (3, 12, 24, 38, 54, 74, 104)
"""Points between a marker and its label."""
DIRECTIONS = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""From a marker to its label: right, up."""
HORIZONTAL = {1: "left", 0: "center", -1: "right"}
VERTICAL = {1: "bottom", 0: "center", -1: "top"}


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point."""

    x: float
    y: float
    text: str
    color: str
    x_bar: Interval | None = None
    y_bar: Interval | None = None
    radius: float = 6
    """Of the marker, in points."""


def place_labels(figure: Figure, panels: Sequence[tuple[Axes, Sequence[Label]]], size: float = 13) -> None:
    """Writes each text at the first place around its point where it covers no text, point or bar and is in the frame;
    one that is farther away gets a line to its point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes, labels in panels:
        frame = axes.get_window_extent(renderer)
        taken = [box for label in labels for box in _obstacles(axes, label)]
        for label in labels:
            line = {"arrowstyle": "-", "color": label.color, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 5}
            ground = {"boxstyle": "square,pad=0", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
            style: Any = {"fontsize": size, "color": label.color, "arrowprops": line, "bbox": ground}
            note = axes.annotate(label.text, (label.x, label.y), (0, 0), textcoords="offset points", **style)
            fallback = None
            for place in product(GAPS, DIRECTIONS):
                box = _move(note, label, *place, renderer)
                if frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1:
                    fallback = fallback or place
                    if not box.count_overlaps(taken):
                        break
            else:
                _move(note, label, *(fallback or (GAPS[0], DIRECTIONS[0])), renderer)
            taken.append(Text.get_window_extent(note, renderer))


def _move(note: Annotation, label: Label, gap: float, direction: tuple[int, int], renderer: Any) -> Bbox:
    """Puts the text beside its point; returns its box in pixels."""
    from matplotlib.text import Text

    right, up = direction
    reach = label.radius + gap
    note.set(position=(right * reach, up * reach), ha=HORIZONTAL[right], va=VERTICAL[up])
    note.update_positions(renderer)
    if note.arrow_patch is not None:
        note.arrow_patch.set_visible(gap > GAPS[0])
    return Text.get_window_extent(note, renderer)


def _obstacles(axes: Axes, label: Label) -> list[Bbox]:
    """The marker and the bars of a label's point, in pixels."""
    from matplotlib.transforms import Bbox

    points = [(label.x, label.y)]
    points += [(x, label.y) for x in label.x_bar or ()]
    points += [(label.x, y) for y in label.y_bar or ()]
    pixels = axes.transData.transform(points)
    reach = label.radius * axes.figure.dpi / 72
    x, y = pixels[0]
    boxes = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)]
    if label.x_bar or label.y_bar:
        (left, bottom), (right, top) = pixels.min(axis=0), pixels.max(axis=0)
        boxes.append(Bbox.from_extents(left, y - reach / 2, right, y + reach / 2))
        boxes.append(Bbox.from_extents(x - reach / 2, bottom, x + reach / 2, top))
    return boxes
