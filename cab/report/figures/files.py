"""The files of a figure: <name>.png and <name>.svg. A figure that shows what its files already show is not drawn."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cab.report.document import Figure
from cab.report.figures.style import families, styled

if TYPE_CHECKING:
    from matplotlib import figure as matplotlib_figure

COLOURS = 128
"""Of a PNG: with a palette it has a third of the size."""


def write_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Writes all files, and removes those of other figures."""
    for figure in figures:
        path = folder / figure.name
        content = f"{code_hash()} {figure.content!r}"
        stamp = hashlib.sha256(content.encode()).hexdigest()
        if not is_drawn(path, stamp):
            save(figure.draw(*figure.content), path, stamp)
    names = {f"{figure.name}{ending}" for figure in figures for ending in (".png", ".svg")}
    for path in folder.glob("*.*"):
        if path.suffix in (".png", ".svg") and path.name not in names:
            path.unlink()


@styled
def save(figure: matplotlib_figure.Figure, path: Path, stamp: str = "") -> None:
    """Writes `path`.png and `path`.svg, the latter with the stamp. The same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for both
    write_png(figure, path.with_name(f"{path.name}.png"), COLOURS)
    figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None, "Identifier": stamp})


def write_png(figure: matplotlib_figure.Figure, path: Path, colours: int, dpi: float | None = None) -> None:
    """With a palette."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


def is_drawn(path: Path, stamp: str) -> bool:
    """Whether both files of a figure are there, drawn with this stamp."""
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    if not (png.exists() and svg.exists() and png.stat().st_mtime_ns <= svg.stat().st_mtime_ns):
        return False
    with svg.open("rb") as file:
        return f"<dc:identifier>{stamp}</dc:identifier>".encode() in file.read(4096)


@cache
def code_hash() -> str:
    """Of the code that draws: after a change to it, all figures are drawn again."""
    report = Path(__file__).parent.parent
    paths = [*report.glob("figures/*.py"), *report.glob("analyses/*.py")]
    paths.append(report.parent / "efficiency" / "efficiency_length.py")
    content = b"".join(path.read_bytes() for path in sorted(paths))
    return hashlib.sha256(content + repr(families()).encode()).hexdigest()
