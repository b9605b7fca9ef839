"""Sound from a finished run: `python -m tasks.listen RESULT FOLDER`, for the result.json of a speech task.

Writes for each spectrogram in the record (one test clip and one train clip) the model's speech and the real one, both
through Griffin-Lim (`tasks.data.mel`), and their spectrograms side by side as a picture. The record keeps them because
weights are not kept: 8 bits a value, in steps of 0.06 from log 1e-5 on (0.5 dB), compressed, as base64.
"""

import argparse
import base64
import json
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.ljspeech import write_wave
from tasks.data.mel import BANDS, FLOOR, HOP, RATE, griffin_lim

LOWEST, STEP = math.log(FLOOR), 0.06


def packed(log_mel: np.ndarray) -> str:
    """(F, 80) as text."""
    levels = np.rint((log_mel - LOWEST) / STEP).clip(0, 255).astype(np.uint8)
    return base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()


def unpacked(text: str) -> np.ndarray:
    """(F, 80) float32, within half a step."""
    levels = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(-1, BANDS)
    return (levels * STEP + LOWEST).astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.listen", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path, help="result.json of a finished run")
    parser.add_argument("folder", type=Path, help="where wav and png files go")
    options = parser.parse_args(arguments)
    try:
        listen(options.result, options.folder)
    except ValueError as error:
        sys.exit(f"error: {error}")


def listen(result: Path, folder: Path) -> None:
    try:
        rows = json.loads(result.read_text())["result"]["tables"]["spectrograms"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{result}: no record with spectrograms ({error}): give one of a speech task") from None
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        mels = {kind: unpacked(row[kind]) for kind in ("generated", "real")}
        for kind, mel in mels.items():
            file = folder / f"{row['split']}-{row['clip']}-{kind}.wav"
            write_wave(file, griffin_lim(torch.from_numpy(mel)).numpy())
            print(f"{file}  {len(mel) * HOP / RATE:.1f} s", end="")
            print(f"  MCD {row['mcd']:.2f} dB  MSD {row['msd']:.2f} dB" if kind == "generated" else "")
        _picture(folder / f"{row['split']}-{row['clip']}.png", row, mels)


def _picture(file: Path, row: dict[str, Any], mels: dict[str, np.ndarray]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    figure.suptitle(f"{row['text'][:80]}  (MCD {row['mcd']:.2f} dB)", fontsize=9)
    least, most = (round(float(limit(mels["real"])), 1) for limit in (np.min, np.max))
    for axes, (kind, mel) in zip(figure.subplots(2, sharex=True), mels.items(), strict=True):
        seconds = len(mel) * HOP / RATE
        axes.imshow(mel.T, origin="lower", aspect="auto", extent=(0, seconds, 0, BANDS), vmin=least, vmax=most)
        axes.set_ylabel(f"{kind}, band")
    axes.set_xlabel("s")
    figure.savefig(file, dpi=80)


if __name__ == "__main__":
    main()
