"""Sound from and to wav files (RIFF WAVE): 22,050 Hz, one channel, whole numbers of 16 bit.

Every other format is refused by name, because a conversion is a choice (how to resample, to mix, to dither).
"""

import os
import struct
import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tasks.data.mel import LEAST_SAMPLES, RATE

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
OTHER_CODECS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "ADPCM", 0x55: "MP3"}
OTHER_FILES = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b"RIFX": "RIFX", b"RF64": "RF64"}
UNBOUNDED = 0xFFFFFFFF
"""The size that a program writes that does not know it yet."""


def read_wave(file: Path) -> np.ndarray:
    """(T,) float32, -1 to 1."""
    with _opened(file) as sound:
        size = _check(file, sound)
        raw = sound.read(size)
    if len(raw) < size:
        raise ValueError(f"{file}: ends after {len(raw) // 2:,} of {size // 2:,} samples: make or copy it again")
    return np.frombuffer(raw, "<i2").astype(np.float32) / 2**15


def check_header(file: Path) -> None:
    """Raises ValueError if the format is not the one above."""
    with _opened(file) as sound:
        _check(file, sound)


def write_wave(file: Path, sound: np.ndarray) -> None:
    """Writes (T,), scaled to the largest amplitude."""
    scaled = sound / max(1e-9, float(np.abs(sound).max())) * 0.95
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.rint(scaled * (2**15 - 1)).astype("<i2").tobytes())


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise ValueError(f"{file}: not readable ({error.strerror}): make it readable, or remove it") from None


def _check(file: Path, sound: BinaryIO) -> int:
    """Reads up to the first sample; returns the bytes of all samples."""
    begin = sound.read(12)
    for mark, kind in OTHER_FILES.items():
        if begin.startswith(mark):
            raise ValueError(f"{file}: is {kind}, not wav: convert it")
    if begin and not (begin[:4] == b"RIFF" and begin[8:] == b"WAVE"):
        raise _unreadable(file, "it does not begin as one")
    layout = b""
    while True:
        name, size = _chunk(file, sound)
        if name == b"data":
            break
        content = sound.read(size + size % 2)
        layout = content[:size] if name == b"fmt " else layout
    if len(layout) < 16:
        raise _unreadable(file, "it does not say its format")
    codec, channels, rate, _, _, bits = struct.unpack("<HHIIHH", layout[:16])
    if codec == EXTENSIBLE and len(layout) >= 26:
        codec = int.from_bytes(layout[24:26], "little")
    if codec != PCM:
        known = f"{bits} bit float" if codec == FLOAT else OTHER_CODECS.get(codec, f"in format {codec}")
        raise ValueError(f"{file}: its samples are {known}: convert them to whole numbers of 16 bit")
    if rate != RATE:
        raise ValueError(f"{file}: {rate:,} Hz: resample it to {RATE:,} Hz")
    if channels != 1:
        raise ValueError(f"{file}: {channels} channels: mix them to one")
    if bits != 16:
        raise ValueError(f"{file}: {bits} bit: convert it to 16 bit")
    if size == UNBOUNDED:
        size = os.fstat(sound.fileno()).st_size - sound.tell()
    size -= size % 2
    if size // 2 < LEAST_SAMPLES:
        raise ValueError(f"{file}: {size // 2} samples: too short, at least {LEAST_SAMPLES} are needed")
    return size


def _chunk(file: Path, sound: BinaryIO) -> tuple[bytes, int]:
    """Name and size of the next chunk."""
    head = sound.read(8)
    if len(head) < 8:
        raise _unreadable(file, "it ends early")
    return head[:4], int.from_bytes(head[4:], "little")


def _unreadable(file: Path, reason: str) -> ValueError:
    return ValueError(f"{file}: not readable as wav ({reason}): make or copy it again")
