"""The files of a figure: <name>.png and <name>.svg."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import figure as matplotlib_figure
from PIL import Image

from cab.report.document import Figure
from cab.store.record import write_atomically

COLOURS = 128
"""Of a PNG: with a palette it has a third of the size."""


def write_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Replaces the figures in a folder by these."""
    for path in folder.glob("*.*"):
        if path.suffix in (".png", ".svg") and not path.is_dir():
            path.unlink()
    for figure in figures:
        save(figure.draw(*figure.content), folder / figure.name)


def save(figure: matplotlib_figure.Figure, path: Path) -> None:
    """Writes `path`.png and `path`.svg. The same figure gives the same bytes."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for both
    write_png(figure, path.with_name(f"{path.name}.png"), COLOURS)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_atomically(path.with_name(f"{path.name}.svg"), drawn.getvalue())


def write_png(figure: matplotlib_figure.Figure, path: Path, colours: int, dpi: float | None = None) -> None:
    """With a palette."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    with Image.open(drawn) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    write_atomically(path, small.getvalue())
