"""Speech that a model made beside real speech: wav files by Griffin-Lim, and spectrograms one above the other."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cab.report.figures.files import write_png
from cab.report.figures.style import new_figure
from tasks.data.ljspeech import write_wave
from tasks.data.mel import BANDS, HOP, RATE, griffin_lim
from tasks.data.packed_samples import unpack_mel

KINDS = ("generated", "real")
"""The names of the spectrograms in a record's table."""
LETTERS = 65
"""Of the text above a picture."""
COLOURS = 48
"""Of a picture."""


def write_sound(row: dict[str, Any], folder: Path) -> Iterator[str]:
    """Writes two wav files; gives their names, lengths and scores."""
    for kind in KINDS:
        mel = unpack_mel(row[kind])
        path = folder / f"{_stem(row)}-{kind}.wav"
        write_wave(path, griffin_lim(torch.from_numpy(mel)).numpy())
        score = f", MCD {row['mcd']:.2f} dB, MSD {row['msd']:.2f} dB" if kind == "generated" else ""
        yield f"{path}  {len(mel) * HOP / RATE:.1f} s{score}"


def write_picture(row: dict[str, Any], folder: Path) -> Path:
    mels = {kind: unpack_mel(row[kind]) for kind in KINDS}
    lowest, highest = round(float(np.min(mels["real"])), 1), round(float(np.max(mels["real"])), 1)
    figure = new_figure(10, 5)
    figure.suptitle(f"{textwrap.shorten(row['text'], LETTERS, placeholder=' ...')} (MCD {row['mcd']:.2f} dB)")
    for axes, (kind, mel) in zip(figure.subplots(2, sharex=True), mels.items(), strict=True):
        extent = (0, len(mel) * HOP / RATE, 0, BANDS)
        axes.imshow(mel.T, origin="lower", aspect="auto", extent=extent, vmin=lowest, vmax=highest)
        axes.set_ylabel(f"{kind}, band")
        axes.grid(visible=False)
    axes.set_xlabel("seconds")
    path = folder / f"{_stem(row)}.png"
    write_png(figure, path, COLOURS, dpi=80)
    return path


def _stem(row: dict[str, Any]) -> str:
    return f"{row['split']}-{row['clip']}"
