"""A folder of recordings as LJSpeech has them (Ito and Johnson 2017): one speaker, short clips, transcripts.

    metadata.csv        id|text|normalised text  (or id|text), a line for every clip, no header
    wavs/<id>.wav       22,050 Hz, mono, 16 bit
    alignments/<id>.txt optional, for all clips or none: times of words (`tasks.data.alignment`)
    splits.csv          optional: id|train, id|validation or id|test; else by transcript (`tasks.data.clip_splits`)

Names, transcripts, splits and the headers of all sound files are checked before any sound is decoded.
"""

import contextlib
import hashlib
import wave
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tasks.base import Split
from tasks.data import alignment
from tasks.data.clip_splits import split_by_text, split_from_file
from tasks.data.file_digests import file_digests
from tasks.data.mel import HOP, LEAST_SAMPLES, RATE, magnitudes
from tasks.data.progress import announced, each
from tasks.data.symbols import clean

LAYOUT = "a folder with wavs/<id>.wav and metadata.csv of lines id|text|normalised text"


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
    """SHA-256 of transcripts, sound, alignments and splits; of the generator's version for synthetic data."""
    clips: Mapping[Split, int]
    """The number of clips."""
    read: Callable[[Split], Iterable[Recording]]
    facts: dict[str, int | float | str] = field(default_factory=dict)


def folder(path: str | None, cache: Path) -> Recordings:
    """The recordings at `path`. Transcripts, names and headers are checked here, sound when it is read."""
    if not path:
        raise ValueError(f"data.source=local needs data.path: {LAYOUT}")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.path={path}: no such folder: give {LAYOUT}")
    texts = _transcripts(root)
    splits = _splits(root, texts)
    aligned = _alignments(root, texts)
    with announced("reading the headers of recordings"):
        for id in each(texts, "headers", "file"):
            check_header(_sound(root, id))
    content = _content(root, texts, splits, aligned, cache)

    def read(split: Split) -> Iterator[Recording]:
        for id in splits[split]:
            yield _recording(root, id, texts[id], aligned)

    description = f"local recordings, {'word times from files' if aligned else 'simple alignment'}"
    counts = {split: len(ids) for split, ids in splits.items()}
    return Recordings(description, True, content, counts, read, {"alignment": "files" if aligned else "simple"})


def _sound(root: Path, id: str) -> Path:
    return root / "wavs" / f"{id}.wav"


def _splits(root: Path, texts: dict[str, str]) -> dict[Split, list[str]]:
    file = root / "splits.csv"
    if file.is_file():
        return split_from_file(file, texts)
    try:
        return split_by_text(texts)
    except ValueError as error:
        raise ValueError(f"data.path={root}: {error}") from None


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
            raise ValueError(f"{where}: {id}: no transcript: write id|text|normalised text, or remove the line")
        if id in texts:
            raise ValueError(f"{where}: {id} comes twice: keep one line")
        try:
            texts[id] = clean(columns[-1])
        except ValueError as error:
            raise ValueError(f"{where}: {id}: {error}") from None
        if not _sound(root, id).is_file():
            raise ValueError(f"{where}: no wavs/{id}.wav: put it there, or remove the line")
    for sound in sorted((root / "wavs").glob("*.wav")):
        if sound.stem not in texts:
            raise ValueError(f"{sound}: no transcript in metadata.csv: add a line, or remove the file")
    return texts


def _alignments(root: Path, texts: dict[str, str]) -> bool:
    """Whether there are files of word times."""
    if not (root / "alignments").is_dir():
        return False
    for id in texts:
        if not (root / "alignments" / f"{id}.txt").is_file():
            raise ValueError(f"data.path={root}: no alignments/{id}.txt: align all recordings, or remove alignments/")
    return True


def _content(root: Path, texts: dict[str, str], splits: dict[Split, list[str]], aligned: bool, cache: Path) -> str:
    split_of = {id: split for split, ids in splits.items() for id in ids}
    sounds = file_digests([_sound(root, id) for id in texts], cache)
    times = file_digests([root / "alignments" / f"{id}.txt" for id in texts], cache) if aligned else [""] * len(texts)
    digest, seen = hashlib.sha256(), dict[str, str]()
    for (id, text), sound, time in zip(texts.items(), sounds, times, strict=True):
        if sound in seen:
            raise ValueError(
                f"data.path={root}: wavs/{id}.wav is the same sound as {seen[sound]}.wav: keep one of them"
            )
        seen[sound] = id
        for part in (id, text, split_of[id], sound, time):
            digest.update(f"{len(part)}\0{part}".encode())
    return digest.hexdigest()


def _recording(root: Path, id: str, text: str, aligned: bool) -> Recording:
    file = _sound(root, id)
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
    """(T,) float32 of a wav file in the format above."""
    with _opened(file) as sound:
        count, raw = sound.getnframes(), sound.readframes(sound.getnframes())
    if len(raw) != 2 * count:
        raise ValueError(f"{file}: ends after {len(raw) // 2:,} of {count:,} samples: make or copy it again")
    return np.frombuffer(raw, "<i2").astype(np.float32) / 2**15


def check_header(file: Path) -> None:
    """Raises ValueError if the format is not the one above."""
    with _opened(file):
        pass


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(file), "rb") as sound:
            if sound.getframerate() != RATE:
                raise ValueError(f"{file}: {sound.getframerate():,} Hz: resample it to {RATE:,} Hz")
            if sound.getnchannels() != 1:
                raise ValueError(f"{file}: {sound.getnchannels()} channels: mix them to one")
            if sound.getsampwidth() != 2:
                raise ValueError(f"{file}: {8 * sound.getsampwidth()} bit: convert it to 16 bit")
            count = sound.getnframes()
            if count < LEAST_SAMPLES:
                raise ValueError(f"{file}: {count} samples: too short, at least {LEAST_SAMPLES} are needed")
            yield sound
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{file}: not readable as wav ({str(error) or 'it ends early'}): make or copy it again"
        ) from None


def write_wave(file: Path, sound: np.ndarray) -> None:
    """Writes (T,) to a wav file, scaled to the largest amplitude."""
    scaled = sound / max(1e-9, float(np.abs(sound).max())) * 0.95
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.rint(scaled * (2**15 - 1)).astype("<i2").tobytes())
