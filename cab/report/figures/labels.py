"""Texts beside points that cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cab.report.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""
GAPS = (3, 12, 24, 38, 54, 74, 104)
"""Points between a marker and its label, tried in this order."""
DIRECTIONS = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""From a marker to its label, tried in this order for each gap."""
GROUND: Any = {"boxstyle": "square,pad=0", "facecolor": "white", "alpha": 0.75, "linewidth": 0}


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
    """Writes each text beside its point so that it covers no other text, point or bar and stays in the frame.

    Greedy, the most crowded point first: the nearest free place around the point. One that is farther away gets a line.
    """
    figure.draw_without_rendering()
    for axes, labels in panels:
        _place(axes, labels, size)


def _place(axes: Axes, labels: Sequence[Label], size: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(axes.figure).get_renderer()  # type: ignore[arg-type]
    scale = axes.figure.dpi / 72
    points = [_pixels(axes, label.x, label.y) for label in labels]
    taken = [box for label, point in zip(labels, points, strict=True) for box in _obstacles(axes, label, point, scale)]
    for index in sorted(range(len(labels)), key=lambda index: _distance_to_next(points, index)):
        label, point = labels[index], points[index]
        note = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            color=label.color,
            arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 5},
            bbox=GROUND,
        )
        extent = Text.get_window_extent(note, renderer)
        reach = label.radius * scale
        box, gap = _free(point, reach, extent.width, extent.height, taken, axes.get_window_extent(renderer), scale)
        taken.append(box)
        note.set_position(((box[0] - point[0]) / scale, (box[1] - point[1]) / scale))
        note.arrow_patch.set_visible(gap > GAPS[0])  # type: ignore[union-attr]


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    left, bottom = axes.transData.transform((x, y))
    return float(left), float(bottom)


def _obstacles(axes: Axes, label: Label, point: tuple[float, float], scale: float) -> list[Box]:
    """The marker and the bars of a label's point."""
    x, y = point
    reach = label.radius * scale
    boxes = [(x - reach, y - reach, x + reach, y + reach)]
    if label.x_bar:
        left, right = (_pixels(axes, end, label.y)[0] for end in label.x_bar)
        boxes.append((left, y - reach / 2, right, y + reach / 2))
    if label.y_bar:
        bottom, top = (_pixels(axes, label.x, end)[1] for end in label.y_bar)
        boxes.append((x - reach / 2, bottom, x + reach / 2, top))
    return boxes


def _distance_to_next(points: Sequence[tuple[float, float]], index: int) -> float:
    x, y = points[index]
    return min((abs(x - a) + abs(y - b) for i, (a, b) in enumerate(points) if i != index), default=0.0)


def _free(
    point: tuple[float, float],
    radius: float,
    width: float,
    height: float,
    taken: Sequence[Box],
    frame: Any,
    scale: float,
) -> tuple[Box, float]:
    """The first free place in the frame, with its gap; if all are taken, the first one in the frame."""
    fallback: tuple[Box, float] | None = None
    for gap in GAPS:
        reach = radius + gap * scale
        for right, up in DIRECTIONS:
            x = point[0] + {1: reach, 0: -width / 2, -1: -reach - width}[right]
            y = point[1] + {1: reach, 0: -height / 2, -1: -reach - height}[up]
            box = (x, y, x + width, y + height)
            if frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1:
                fallback = fallback or (box, gap)
                if not any(_overlap(box, other) for other in taken):
                    return box, gap
    x, y = point[0] + 9 * scale, point[1]
    return fallback or ((x, y, x + width, y + height), GAPS[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
