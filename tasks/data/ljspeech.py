"""A folder of recordings as LJSpeech has them (Ito and Johnson 2017): one speaker, short clips, transcripts.

    metadata.csv        id|text|normalised text  (or id|text), a line for every clip, no header
    wavs/<id>.wav       22,050 Hz, mono, 16 bit (`tasks.data.wav`)
    alignments/<id>.txt optional, for all clips or none: times of words (`tasks.data.alignment`)
    splits.csv          optional: id|train, id|validation or id|test; else by transcript (`tasks.data.clip_splits`)

Names, transcripts, splits and the headers of all sound files are checked before any sound is decoded.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tasks.base import Split
from tasks.data import alignment
from tasks.data.clip_splits import split_by_text, split_from_file
from tasks.data.file_digests import file_digests
from tasks.data.files import files_below, given_path, read_text
from tasks.data.mel import HOP, magnitudes
from tasks.data.progress import announced, each
from tasks.data.symbols import clean
from tasks.data.wav import check_header, read_wave

ENDING = ".wav"
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
    root = given_path(path)
    if not root.is_dir():
        raise ValueError(f"data.path={path}: no such folder: give {LAYOUT}")
    texts = _transcripts(root)
    sounds = _sounds(root, texts)
    splits = _splits(root, texts)
    aligned = _alignments(root, texts)
    with announced("reading the headers of recordings"):
        for sound in each(sounds.values(), "headers", "file"):
            check_header(sound)
    content = _content(root, texts, sounds, splits, aligned, cache)

    def read(split: Split) -> Iterator[Recording]:
        for id in splits[split]:
            yield _recording(root, id, texts[id], sounds[id], aligned)

    description = f"local recordings, {'word times from files' if aligned else 'simple alignment'}"
    counts = {split: len(ids) for split, ids in splits.items()}
    return Recordings(description, True, content, counts, read, {"alignment": "files" if aligned else "simple"})


def _splits(root: Path, texts: dict[str, str]) -> dict[Split, list[str]]:
    file = root / "splits.csv"
    if file.exists():
        return split_from_file(file, texts)
    try:
        return split_by_text(texts)
    except ValueError as error:
        raise ValueError(f"data.path={root}: {error}") from None


def _transcripts(root: Path) -> dict[str, str]:
    """Clean texts by id, in the file's order."""
    file = root / "metadata.csv"
    if not file.exists():
        raise ValueError(f"data.path={root}: no metadata.csv: give {LAYOUT}")
    texts: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
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
    return texts


def _sounds(root: Path, texts: dict[str, str]) -> dict[str, Path]:
    """The file of each text; all files below wavs/ have one."""
    folder = root / "wavs"
    if not folder.is_dir():
        raise ValueError(f"data.path={root}: no folder wavs/: give {LAYOUT}")
    found: dict[str, Path] = {}
    for name, path in files_below(folder, (ENDING,)).files.items():
        id = name[: -len(ENDING)]
        if id not in texts:
            raise ValueError(f"{path}: no transcript in metadata.csv: add a line, or remove the file")
        if id in found:
            raise ValueError(f"data.path={root}: both {found[id].name} and {path.name}: keep one of them")
        found[id] = path
    for id in texts:
        if id not in found and (folder / f"{id}{ENDING}").is_file():
            raise ValueError(f"data.path={root}: wavs/{id}{ENDING} is a link to another one of them: keep one line")
        if id not in found:
            raise ValueError(f"{root / 'metadata.csv'}: no wavs/{id}{ENDING}: put it there, or remove the line of {id}")
    return {id: found[id] for id in texts}


def _alignments(root: Path, texts: dict[str, str]) -> bool:
    """Whether there are files of word times."""
    if not (root / "alignments").exists():
        return False
    if not (root / "alignments").is_dir():
        raise ValueError(f"data.path={root}: alignments is no folder: put files into one, or remove it")
    for id in texts:
        if not (root / "alignments" / f"{id}.txt").is_file():
            raise ValueError(f"data.path={root}: no alignments/{id}.txt: align all recordings, or remove alignments/")
    return True


def _content(
    root: Path,
    texts: dict[str, str],
    files: dict[str, Path],
    splits: dict[Split, list[str]],
    aligned: bool,
    cache: Path,
) -> str:
    split_of = {id: split for split, ids in splits.items() for id in ids}
    sounds = file_digests(list(files.values()), cache)
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


def _recording(root: Path, id: str, text: str, file: Path, aligned: bool) -> Recording:
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
