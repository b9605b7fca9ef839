"""A picture of images that a model enlarged: small, bicubic, predicted and true side by side, a row each."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.data.packed_samples import unpack_image

GAP = 4
"""White pixels between two rows."""
SCALE = 3


def write_picture(rows: list[dict[str, Any]], path: Path) -> Path:
    strips = [unpack_image(row["small_bicubic_generated_true"]) for row in rows]
    padded = [np.pad(strip, ((0, GAP), (0, 0), (0, 0)), constant_values=255) for strip in strips]
    Image.fromarray(np.concatenate(padded)[:-GAP].repeat(SCALE, 0).repeat(SCALE, 1)).save(path)
    return path
