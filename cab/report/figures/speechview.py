"""What a model said, and what was said: wav files through Griffin-Lim, and spectrograms one above the other."""

import io
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cab.report.figures.style import looks
from tasks.data.ljspeech import write_wave
from tasks.data.mel import BANDS, HOP, RATE, griffin_lim
from tasks.data.packed_samples import unpack_mel

KINDS = ("generated", "real")
LETTERS = 65
"""Of a text above a picture."""
COLOURS = 48
"""Of a picture."""


def sound(row: dict[str, Any], folder: Path) -> Iterator[str]:
    """Two wav files; says their names, lengths and scores."""
    for kind in KINDS:
        mel = unpack_mel(row[kind])
        path = folder / f"{_stem(row)}-{kind}.wav"
        write_wave(path, griffin_lim(torch.from_numpy(mel)).numpy())
        score = f", MCD {row['mcd']:.2f} dB, MSD {row['msd']:.2f} dB" if kind == "generated" else ""
        yield f"{path}  {len(mel) * HOP / RATE:.1f} s{score}"


def picture(row: dict[str, Any], folder: Path) -> Path:
    mels = {kind: unpack_mel(row[kind]) for kind in KINDS}
    least, most = (round(float(limit(mels["real"])), 1) for limit in (np.min, np.max))
    drawn = io.BytesIO()
    with looks() as figure_class:
        figure = figure_class(figsize=(10, 5), layout="constrained")
        figure.suptitle(f"{textwrap.shorten(row['text'], LETTERS, placeholder=' ...')} (MCD {row['mcd']:.2f} dB)")
        for axes, (kind, mel) in zip(figure.subplots(2, sharex=True), mels.items(), strict=True):
            seconds = len(mel) * HOP / RATE
            axes.imshow(mel.T, origin="lower", aspect="auto", extent=(0, seconds, 0, BANDS), vmin=least, vmax=most)
            axes.set_ylabel(f"{kind}, band")
            axes.grid(visible=False)
        axes.set_xlabel("seconds")
        figure.savefig(drawn, dpi=80)
    path = folder / f"{_stem(row)}.png"
    with Image.open(drawn) as image:  # a palette: a third of the size
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _stem(row: dict[str, Any]) -> str:
    return f"{row['split']}-{row['clip']}"
