"""Which recordings are for training, validation and test: as a file says, or by the hash of what is said.

    splits.csv      id|train, id|validation or id|test, a line for every clip, no header

Without a file, transcripts are ordered by the hash of their clean text; the first are the test split, the next the
validation split. A text that several clips say, as some in LJSpeech, is in one split only. 4% of the clips are held out
for each of both (of LJSpeech: 524 or a few more), in small folders a tenth, up to 8, at least 2 of 10 clips or more,
else 1.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tasks.base import SPLITS, Split

SHARE, SMALL_SHARE, SMALL = 0.04, 0.1, 8
FEW = 10
"""So many clips give 2 for validation and test each, fewer give 1."""


def by_text(texts: Mapping[str, str]) -> dict[Split, list[str]]:
    """The ids of each split, from clean texts by id."""
    saying: dict[str, list[str]] = {}
    for id, text in texts.items():
        saying.setdefault(text, []).append(id)
    if len(saying) < len(SPLITS):
        raise ValueError(f"{len(saying)} different transcripts: train, validation and test need one each")
    left = sorted(saying.values(), key=lambda ids: hashlib.sha256(texts[ids[0]].encode()).digest())
    count = held_out(len(texts))
    test, validation = list[str](), list[str]()
    for own, later in ((test, 2), (validation, 1)):
        while len(own) < count and len(left) > later:  # the splits that come later need a text each
            own += left.pop(0)
    return {"test": test, "validation": validation, "train": [id for ids in left for id in ids]}


def held_out(clips: int) -> int:
    """Of so many clips, for each of validation and test."""
    return max(round(SHARE * clips), min(SMALL, int(SMALL_SHARE * clips)), 2 if clips >= FEW else 1)


def from_file(file: Path, texts: Mapping[str, str]) -> dict[Split, list[str]]:
    splits: dict[Split, list[str]] = {"test": [], "validation": [], "train": []}
    known = dict[str, int]()
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        id, _, name = (part.strip() for part in line.partition("|"))
        if name not in SPLITS:
            raise ValueError(f"{where}: {line[:60]!r}: write id|train, id|validation or id|test")
        if id not in texts:
            raise ValueError(f"{where}: {id}: not in metadata.csv: add it there, or take the line away")
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
