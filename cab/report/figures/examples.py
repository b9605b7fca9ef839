"""What a model predicted, from a record's tables: texts, images, completed point clouds, speech.

Each function writes its files to a folder, and gives lines to print: their paths and scores, or the texts.
"""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cab.report.figures.files import write_png
from cab.report.figures.style import new_figure
from cab.store.record import Record
from tasks.data.mel import BANDS, HOP, RATE, griffin_lim
from tasks.data.packed_samples import unpack_cloud, unpack_image, unpack_mel
from tasks.data.wav import write_wave

Rows = Sequence[dict[str, Any]]
"""A table of a record."""


def texts(_: Record, rows: Rows, folder: Path) -> Iterator[str]:
    for row in rows:
        for name, value in row.items():
            yield f"{name}:\n{textwrap.indent(str(value), '    ')}"
        yield ""


def images(_: Record, rows: Rows, folder: Path) -> Iterator[str]:
    """Small, bicubic, predicted and true side by side, a row each; enlarged three times, four white pixels between."""
    strips = [unpack_image(row["small_bicubic_generated_true"]) for row in rows]
    padded = [np.pad(strip, ((0, 4), (0, 0), (0, 0)), constant_values=255) for strip in strips]
    path = folder / "images.png"
    Image.fromarray(np.concatenate(padded)[:-4].repeat(3, 0).repeat(3, 1)).save(path)
    yield str(path)


def clouds(record: Record, rows: Rows, folder: Path) -> Iterator[str]:
    """What is given, what the model made of it, and the truth, a row each. Points that are given are grey; those that
    the model added have colours."""
    columns = {"partial": "given", "completed": "completed", "complete": "truth"}
    figure = new_figure(2.6 * len(columns), 2.6 * len(rows))
    panels = figure.subplots(len(rows), len(columns), squeeze=False, subplot_kw={"projection": "3d"})
    for line, row in zip(panels, rows, strict=True):
        given, truth = unpack_cloud(row["partial"]), unpack_cloud(row["complete"])
        center, half = (truth.max(0) + truth.min(0)) / 2, (truth.max(0) - truth.min(0)).max() / 2
        for axes, (name, title) in zip(line, columns.items(), strict=True):
            points = unpack_cloud(row[name])
            known = (points[:, None] == given).all(2).any(1)
            added = points[~known]
            axes.scatter(*points[known].T, s=5, c="#b8b8b8", depthshade=False)
            axes.scatter(*added.T, s=5, c=added @ np.array([1.0, 1.0, 0.5]), cmap="viridis", depthshade=False)
            axes.set(**{f"{axis}lim": (at - half, at + half) for axis, at in zip("xyz", center, strict=True)})
            axes.set_box_aspect((1, 1, 1), zoom=1.5)
            axes.view_init(elev=20, azim=35)
            axes.set_axis_off()
            score = f", CD-L1 {row['cd_l1']:.1f}" if name == "completed" else ""
            axes.set_title(f"{row['shape']}: {title}" if name == "partial" else title + score, fontsize=12)
    cell = record.cell
    figure.suptitle(f"{cell['attention']}, {cell['pattern']}, {cell['size']}", fontsize=14)
    path = folder / "clouds.png"
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})
    yield str(path)


def speech(_: Record, rows: Rows, folder: Path) -> Iterator[str]:
    """Synthesized and real speech: wav files by Griffin-Lim, and their spectrograms one above the other."""
    for row in rows:
        stem = f"{row['split']}-{row['clip']}"
        mels = {kind: unpack_mel(row[kind]) for kind in ("generated", "real")}
        figure = new_figure(10, 5)
        figure.suptitle(f"{textwrap.shorten(row['text'], 65, placeholder=' ...')} (MCD {row['mcd']:.2f} dB)")
        lowest, highest = round(float(np.min(mels["real"])), 1), round(float(np.max(mels["real"])), 1)
        for axes, (kind, mel) in zip(figure.subplots(2, sharex=True), mels.items(), strict=True):
            seconds = len(mel) * HOP / RATE
            extent = (0, seconds, 0, BANDS)
            axes.imshow(mel.T, origin="lower", aspect="auto", extent=extent, vmin=lowest, vmax=highest)
            axes.set_ylabel(f"{kind}, band")
            axes.grid(visible=False)
            path = folder / f"{stem}-{kind}.wav"
            write_wave(path, griffin_lim(torch.from_numpy(mel)).numpy())
            score = f", MCD {row['mcd']:.2f} dB, MSD {row['msd']:.2f} dB" if kind == "generated" else ""
            yield f"{path}  {seconds:.1f} s{score}"
        axes.set_xlabel("seconds")
        path = folder / f"{stem}.png"
        write_png(figure, path, colours=48, dpi=80)
        yield str(path)


VIEWS: dict[str, Callable[[Record, Rows, Path], Iterator[str]]] = {
    "texts": texts,
    "images": images,
    "clouds": clouds,
    "spectrograms": speech,
}
"""By the name of the table in a record."""
