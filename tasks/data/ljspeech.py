"""A folder of recordings as LJSpeech has them (Ito and Johnson 2017): one speaker, short clips, transcripts.

    metadata.csv        id|text|normalised text  (or id|text), a line for every clip, no header
    wavs/<id>.wav       22,050 Hz, mono, 16 bit
    alignments/<id>.txt optional, for all clips or none: times of words (`tasks.data.alignment`)

LJSpeech has no published splits. Here clips are ordered by the hash of their ids; the first 4% are the test split, the
next 4% (of LJSpeech: 524) the validation split, at least one clip each.
"""

import hashlib
import wave
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tasks.base import Split
from tasks.data import alignment
from tasks.data.letters import clean
from tasks.data.mel import HOP, LEAST_SAMPLES, RATE, magnitudes
from tasks.data.text import SPLITS

LAYOUT = "a folder with wavs/<id>.wav and metadata.csv of lines id|text|normalised text"
HELD_OUT = 0.04
"""Share of the clips for each of validation and test."""


@dataclass(frozen=True)
class Recording:
    id: str
    text: str
    """In the alphabet's characters."""
    wave: np.ndarray
    """(T,) float32, -1 to 1."""
    durations: np.ndarray
    """(S,) frames of each symbol, the two edges included; their sum is T // 256 + 1."""


@dataclass(frozen=True)
class Recordings:
    description: str
    real: bool
    content: str
    """SHA-256 of transcripts, sound and alignments; of its version where they are generated."""
    read: Callable[[Split], Iterable[Recording]]
    facts: dict[str, int | float | str] = field(default_factory=dict)


def folder(path: str | None) -> Recordings:
    """The recordings at `path`. What concerns transcripts and names is checked at once, sound when it is read."""
    if not path:
        raise ValueError(f"data.source=local needs data.path: {LAYOUT}")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.path={path}: no such folder: give {LAYOUT}")
    texts = _transcripts(root)
    aligned = _alignments(root, texts)
    content = _content(root, texts, aligned)
    splits = _splits(list(texts))

    def read(split: Split) -> Iterator[Recording]:
        for id in splits[split]:
            yield _recording(root, id, texts[id], aligned)

    description = f"local recordings, {'word times from files' if aligned else 'simple alignment'}"
    return Recordings(description, True, content, read, {"alignment": "files" if aligned else "simple"})


def _transcripts(root: Path) -> dict[str, str]:
    """Clean texts by id, in the file's order."""
    file = root / "metadata.csv"
    if not file.is_file():
        raise ValueError(f"data.path={root}: no metadata.csv: give {LAYOUT}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 (byte {error.start}): convert it") from None
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        id, *columns = (column.strip() for column in line.split("|"))
        if not columns or not columns[-1]:
            raise ValueError(f"{where}: {id}: no transcript: write id|text|normalised text, or take the line away")
        if id in texts:
            raise ValueError(f"{where}: {id} comes twice: keep one line")
        try:
            texts[id] = clean(columns[-1])
        except ValueError as error:
            raise ValueError(f"{where}: {id}: {error}") from None
        if not (root / "wavs" / f"{id}.wav").is_file():
            raise ValueError(f"{where}: no wavs/{id}.wav: put it there, or take the line away")
    for sound in sorted((root / "wavs").glob("*.wav")):
        if sound.stem not in texts:
            raise ValueError(f"{sound}: no transcript in metadata.csv: add a line, or take the file away")
    if len(texts) < len(SPLITS):
        raise ValueError(f"data.path={root}: {len(texts)} recordings: train, validation and test need one each")
    return texts


def _alignments(root: Path, texts: dict[str, str]) -> bool:
    """Whether there are files of word times."""
    if not (root / "alignments").is_dir():
        return False
    for id in texts:
        if not (root / "alignments" / f"{id}.txt").is_file():
            raise ValueError(
                f"data.path={root}: no alignments/{id}.txt: align all recordings, or take alignments/ away"
            )
    return True


def _content(root: Path, texts: dict[str, str], aligned: bool) -> str:
    digest, seen = hashlib.sha256(), dict[bytes, str]()
    for id, text in texts.items():
        sound = hashlib.sha256((root / "wavs" / f"{id}.wav").read_bytes()).digest()
        if sound in seen:
            raise ValueError(
                f"data.path={root}: wavs/{id}.wav is the same sound as {seen[sound]}.wav: keep one of them"
            )
        seen[sound] = id
        times = (root / "alignments" / f"{id}.txt").read_bytes() if aligned else b""
        for part in (id.encode(), text.encode(), sound, times):
            digest.update(f"{len(part)}\0".encode() + part)
    return digest.hexdigest()


def _splits(ids: list[str]) -> dict[Split, list[str]]:
    ordered = sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())
    count = max(1, round(HELD_OUT * len(ids)))
    return {"test": ordered[:count], "validation": ordered[count : 2 * count], "train": ordered[2 * count :]}


def _recording(root: Path, id: str, text: str, aligned: bool) -> Recording:
    file = root / "wavs" / f"{id}.wav"
    sound = read_wave(file)
    try:
        if aligned:
            times = root / "alignments" / f"{id}.txt"
            file = times
            durations = alignment.from_words(text, len(sound) // HOP + 1, alignment.read(times))
        else:
            durations = alignment.simple(text, magnitudes(torch.from_numpy(sound)).norm(dim=1).numpy())
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None
    return Recording(id, text, sound, durations)


def read_wave(file: Path) -> np.ndarray:
    """(T,) float32 of a wav file with the rate and form that are needed."""
    try:
        with wave.open(str(file), "rb") as sound:
            rate, channels, width, count = (
                sound.getframerate(),
                sound.getnchannels(),
                sound.getsampwidth(),
                sound.getnframes(),
            )
            raw = sound.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{file}: not readable as wav ({str(error) or 'it ends early'}): make or copy it again"
        ) from None
    if rate != RATE:
        raise ValueError(f"{file}: {rate:,} Hz: resample it to {RATE:,} Hz")
    if channels != 1:
        raise ValueError(f"{file}: {channels} channels: mix them to one")
    if width != 2:
        raise ValueError(f"{file}: {8 * width} bit: convert it to 16 bit")
    if len(raw) != 2 * count:
        raise ValueError(f"{file}: ends after {len(raw) // 2:,} of {count:,} samples: make or copy it again")
    if count < LEAST_SAMPLES:
        raise ValueError(f"{file}: {count} samples: too short, at least {LEAST_SAMPLES} are needed")
    return np.frombuffer(raw, "<i2").astype(np.float32) / 2**15


def write_wave(file: Path, sound: np.ndarray) -> None:
    """(T,) to a wav file, as loud as it can be."""
    scaled = sound / max(1e-9, float(np.abs(sound).max())) * 0.95
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.rint(scaled * (2**15 - 1)).astype("<i2").tobytes())
