"""Which recordings are in train, validation and test: from a file, or by the hash of the transcript.

    splits.csv      id|train, id|validation or id|test, a line for every clip, no header

Without a file, transcripts are ordered by the hash of their clean text; the first are the test split, the next the
validation split. Clips with the same text, as some in LJSpeech, are in one split. 4% of the clips are held out for each
of both (of LJSpeech: 524 or a few more), in small folders a tenth, at most 8 and at least 2 (1 of less than 10 clips).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tasks.base import SPLITS, Split
from tasks.data.files import read_text

SHARE, SMALL_SHARE, SMALL = 0.04, 0.1, 8
FEW = 10
"""From this number of clips on, validation and test have at least 2 each."""


def split_by_text(texts: Mapping[str, str]) -> dict[Split, list[str]]:
    """The ids of each split, from clean texts by id."""
    ids_by_text: dict[str, list[str]] = {}
    for id, text in texts.items():
        ids_by_text.setdefault(text, []).append(id)
    if len(ids_by_text) < len(SPLITS):
        raise ValueError(f"{len(ids_by_text)} different transcripts: train, validation and test need one each")
    left = sorted(ids_by_text.values(), key=lambda ids: hashlib.sha256(texts[ids[0]].encode()).digest())
    count = held_out(len(texts))
    test, validation = list[str](), list[str]()
    for own, later in ((test, 2), (validation, 1)):
        while len(own) < count and len(left) > later:  # the splits that come later need a text each
            own += left.pop(0)
    return {"test": test, "validation": validation, "train": [id for ids in left for id in ids]}


def held_out(clips: int) -> int:
    """The number of clips in each of validation and test."""
    return max(round(SHARE * clips), min(SMALL, int(SMALL_SHARE * clips)), 2 if clips >= FEW else 1)


def split_from_file(file: Path, texts: Mapping[str, str]) -> dict[Split, list[str]]:
    splits: dict[Split, list[str]] = {"test": [], "validation": [], "train": []}
    known = dict[str, int]()
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        id, _, name = (part.strip() for part in line.partition("|"))
        if name not in SPLITS:
            raise ValueError(f"{where}: {line[:60]!r}: write id|train, id|validation or id|test")
        if id not in texts:
            raise ValueError(f"{where}: {id}: not in metadata.csv: add it there, or remove the line")
        if id in known:
            raise ValueError(f"{where}: {id} is in line {known[id]}, too: keep one of them")
        known[id] = number
        splits[name].append(id)
    for id in texts:
        if id not in known:
            raise ValueError(f"{file}: no line for {id}: name the split of every clip")
    for split, ids in splits.items():
        if not ids:
            raise ValueError(f"{file}: no {split} clip: train, validation and test need one each")
    return splits
