"""Clouds, spectrograms and images as text, so that the tables of a record can hold a few outputs of a model.

Packing loses precision: scores are computed before it.
"""

import base64
import io
import math
import zlib

import numpy as np
from PIL import Image

from tasks.data.mel import BANDS, FLOOR

MOST_POINTS = 1024
CLOUD_SCALE = 200
"""Of coordinates; a signed byte ends at 127."""
LOWEST, STEP = math.log(FLOOR), 0.06
"""Of a log-mel spectrogram: 256 steps of 0.5 dB."""


def pack_cloud(points: np.ndarray) -> str:
    """Some of the points (P, 3), evenly spread over their order, precise enough for a picture."""
    kept = points[np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().astype(int)]
    return _text(np.rint(kept * CLOUD_SCALE).clip(-127, 127).astype(np.int8).tobytes())


def unpack_cloud(text: str) -> np.ndarray:
    """(P, 3)."""
    return np.frombuffer(_bytes(text), np.int8).reshape(-1, 3) / CLOUD_SCALE


def pack_mel(log_mel: np.ndarray) -> str:
    """A spectrogram (F, 80) of natural logarithms, within half a step."""
    levels = np.rint((log_mel - LOWEST) / STEP).clip(0, 255).astype(np.uint8)
    return _text(zlib.compress(levels.tobytes(), 9))


def unpack_mel(text: str) -> np.ndarray:
    """(F, 80) float32."""
    levels = np.frombuffer(zlib.decompress(_bytes(text)), np.uint8).reshape(-1, BANDS)
    return (levels * STEP + LOWEST).astype(np.float32)


def pack_image(image: np.ndarray) -> str:
    """(H, W, 3) uint8, without loss."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return _text(file.getvalue())


def unpack_image(text: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(_bytes(text))).convert("RGB"))


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
