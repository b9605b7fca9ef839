"""How every figure looks: one colour per family everywhere, type that is legible at half size, PNG and SVG alike.

Baselines have fixed colours. The others take theirs from a palette for the colour-blind (Okabe and Ito), in the order
of the names in conf/attention, so that a new family needs no line here; a name without a file gets one by its hash.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONF = ROOT / "conf" / "attention"
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
INK, FAINT = "#222222", "#d9d9d9"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DARKER = {"#8a8a8a": "#666666", "#b8b8b8": "#777777", "#e69f00": "#a87400", "#56b4e9": "#2d86b8", "#cc79a7": "#a8507f"}
MARKERS = ("o", "^", "v", "P", "X", "<", ">")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
LETTER = 0.55
"""Width of a letter over the size of its font, on the safe side."""
GROUND: Any = {"boxstyle": "square,pad=0", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
"""Behind a label. An outline around its letters would turn them into paths, and figures would be thrice as large."""
RC: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 130,
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.labelsize": 14,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.4,
    "lines.markersize": 7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cab",
}


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    line: Any = "-"

    @property
    def text(self) -> str:
        """Letters need more contrast than lines: light colours become darker."""
        return DARKER.get(self.color, self.color)


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point, and what must stay visible around the point: its bars."""

    x: float
    y: float
    text: str
    color: str
    across: tuple[float, float] | None = None
    up: tuple[float, float] | None = None
    radius: float = 6
    """Of the marker, in points."""


FIXED = {
    "vanilla": Style("#000000", "s"),
    "eager": Style("#8a8a8a", "D"),
    "none": Style("#b8b8b8", "o", LINES[1]),
}


@cache
def families(conf: Path = CONF) -> tuple[str, ...]:
    """The families that have a colour by their place, sorted."""
    return tuple(sorted(path.stem for path in conf.glob("*.yaml") if path.stem not in FIXED))


def style(attention: str, variant: int = 0) -> Style:
    """The look of a family; `variant` tells its option sets apart by the line."""
    known = families()
    if attention in FIXED:
        base = FIXED[attention]
    else:
        place = known.index(attention) if attention in known else len(known) + _number(attention)
        base = Style(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
    return Style(base.color, base.marker, LINES[variant % len(LINES)] if variant else base.line)


def _number(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0]


@contextmanager
def looks() -> Iterator[Any]:
    """The common style while a figure is made; gives matplotlib's `Figure`, which needs neither pyplot nor a screen."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        yield Figure


def set_title(figure: Figure, text: str) -> None:
    """Above all axes, in as many lines as the figure's width asks for."""
    points = 72 * figure.get_figwidth()
    made = figure.suptitle(text)
    letters = int(points / (LETTER * float(made.get_fontsize())))
    made.set_text("\n".join(textwrap.fill(line, letters) for line in text.splitlines()))


def save(figure: Figure, path: Path, stamp: str = "") -> None:
    """Writes `path`.png and `path`.svg, the stamp in the latter; the same figure gives the same bytes."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(RC):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for both
        figure.savefig(path.with_name(f"{path.name}.png"), pil_kwargs={"compress_level": 3})
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None, "Identifier": stamp})


def is_drawn(path: Path, stamp: str) -> bool:
    """Whether both files of a figure are there, drawn with this stamp."""
    png, svg = (path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg"))
    if not (png.exists() and svg.exists() and png.stat().st_mtime_ns <= svg.stat().st_mtime_ns):
        return False
    with svg.open("rb") as file:
        return f"<dc:identifier>{stamp}</dc:identifier>".encode() in file.read(4096)


@cache
def source() -> str:
    """A hash of the code that draws: what it drew before it was changed is drawn again."""
    cab = Path(__file__).parent.parent
    paths = (*cab.glob("figures/*.py"), *cab.glob("analyses/*.py"), cab.parent / "efficiency" / "efficiency_length.py")
    content = [path.read_bytes() for path in sorted(paths)]
    return hashlib.sha256(b"".join(content) + repr(families()).encode()).hexdigest()


def place_labels(axes: Axes, labels: Sequence[Label], size: float = 13) -> None:
    """Writes each text beside its point so that it covers no other text, point or bar and stays in the frame.

    Greedy, the most crowded point first: the nearest free place around the point, farther out with a line to it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[arg-type]
    frame, scale = axes.get_window_extent(renderer), figure.dpi / 72
    pixels = [tuple(map(float, axes.transData.transform((label.x, label.y)))) for label in labels]
    taken = [box for label, pixel in zip(labels, pixels, strict=True) for box in _obstacles(axes, label, pixel, scale)]
    for index in sorted(range(len(labels)), key=lambda index: _neighbour(pixels, index)):
        label, pixel = labels[index], pixels[index]
        note = axes.annotate(label.text, (label.x, label.y), fontsize=size, color=label.color)
        extent = note.get_window_extent(renderer)
        note.remove()
        place = _free(pixel, label.radius, extent.width, extent.height, taken, frame, scale)
        taken.append((*place, place[0] + extent.width, place[1] + extent.height))
        shift = ((place[0] - pixel[0]) / scale, (place[1] - pixel[1]) / scale)
        width, height = extent.width / scale, extent.height / scale
        far = max(abs(shift[0] + width / 2) - width / 2, abs(shift[1] + height / 2) - height / 2) > 10 + label.radius
        line = {"arrowstyle": "-", "color": label.color, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 5}
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=shift,
            textcoords="offset points",
            fontsize=size,
            color=label.color,
            arrowprops=line if far else None,
            bbox=GROUND,
        )


def _obstacles(axes: Axes, label: Label, pixel: Sequence[float], scale: float) -> list[Box]:
    """The marker and the bars of a label's point, in pixels."""
    x, y, reach = pixel[0], pixel[1], label.radius * scale
    boxes = [(x - reach, y - reach, x + reach, y + reach)]
    if label.across:
        left, right = (float(axes.transData.transform((end, label.y))[0]) for end in label.across)
        boxes.append((left, y - reach / 2, right, y + reach / 2))
    if label.up:
        down, up = (float(axes.transData.transform((label.x, end))[1]) for end in label.up)
        boxes.append((x - reach / 2, down, x + reach / 2, up))
    return boxes


def _neighbour(pixels: Sequence[Sequence[float]], index: int) -> float:
    """How far the nearest other point is."""
    x, y = pixels[index]
    return min((abs(x - p[0]) + abs(y - p[1]) for i, p in enumerate(pixels) if i != index), default=0.0)


def _free(
    point: Sequence[float], radius: float, width: float, height: float, taken: Sequence[Box], frame: Any, scale: float
) -> tuple[float, float]:
    """The lower left corner of the first free place; the nearest one inside the frame if all are taken."""
    fallback = None
    for gap in (3, 12, 24, 38, 54, 74, 104):
        reach = (radius + gap) * scale
        for right, up in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            x = point[0] + (reach if right > 0 else -reach - width if right < 0 else -width / 2)
            y = point[1] + (reach if up > 0 else -reach - height if up < 0 else -height / 2)
            box = (x, y, x + width, y + height)
            if not (frame.x0 <= x and box[2] <= frame.x1 and frame.y0 <= y and box[3] <= frame.y1):
                continue
            fallback = fallback or (x, y)
            if not any(_overlap(box, other) for other in taken):
                return x, y
    return fallback or (point[0] + 9 * scale, point[1])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
