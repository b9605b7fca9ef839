"""Whole documents as UTF-8 bytes, in three splits, from one of three sources.

embedded   the running interpreter's own standard library, about 9 MB of Python by many hands. Files are split by a
           hash of their path (about 5% validation, 5% test), but the same text in several splits is kept where it is
           evaluated. Tests and generated tables are left out. The text depends on the version of Python, and so does
           the content hash.
local      a folder with train/, validation/ and test/ of *.txt files in UTF-8, at any depth; a byte order mark is no
           part of the text
hub        a `datasets` id with those three splits and one text column; default PG-19 (Rae et al. 2020, arXiv
           1911.05507) as `emozilla/pg19`. A document of several splits is kept where it is evaluated. Without
           `revision`, results are tied to the commit that `main` pointed to.
"""

import codecs
import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tasks.base import SPLITS, Data, Split
from tasks.data.files import files_below, given_path, name_left_out
from tasks.data.hub import snapshot

HUB_DEFAULT = "emozilla/pg19"
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib", "encodings", "pydoc_data"}
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")  # written when Python was built
HELD_OUT = 0.05
"""Share of the embedded files for each of validation and test."""
ENDING = ".txt"

Facts = dict[str, int | float | str]


@dataclass(frozen=True)
class Corpus:
    description: str
    content: str
    """SHA-256 of all documents, or of the hub commit."""
    read: Callable[[Split], Iterable[bytes]]
    large: bool = False
    """Too large for memory: its tokens are cached even if they are fast to compute."""
    facts: Facts = field(default_factory=dict)


def corpus(data: Data, column: str) -> Corpus:
    """The documents of the data source; `column` is the text column of a hub data set."""
    if data.source == "embedded":
        return _embedded(Path(sysconfig.get_path("stdlib")))
    if data.source == "local":
        return _local(data.path)
    return _hub(data.id or HUB_DEFAULT, data.revision, column)


def _embedded(root: Path) -> Corpus:
    documents: dict[Split, dict[str, bytes]] = {split: {} for split in SPLITS}
    for path in _library_files(root):
        name = path.relative_to(root).as_posix()
        documents[library_split(name)][name] = path.read_bytes()
    is_own = apart(lambda split: documents[split].values())
    for split in SPLITS:
        own = is_own(split)
        documents[split] = {name: raw for name, raw in documents[split].items() if own(raw)}
        if not documents[split]:
            raise ValueError(f"data.source=embedded: no Python sources for {split} below {root}: use data.source=local")
    return _in_memory(f"standard library of Python {platform.python_version()}", documents, {})


def _library_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in EXCLUDED and not f.startswith(EXCLUDED_PREFIXES))
        for file in sorted(files):
            if file.endswith(".py") and not file.startswith(EXCLUDED_PREFIXES):
                yield Path(folder, file)


def library_split(name: str) -> Split:
    """The split of a library file, by its path alone."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "validation" if share < HELD_OUT else "test" if share < 2 * HELD_OUT else "train"


def _local(path: str | None) -> Corpus:
    if not path:
        raise ValueError(
            "data.source=local needs data.path: a folder with train/, validation/ and test/ of *.txt files"
        )
    root = given_path(path)
    if not root.is_dir():
        raise ValueError(
            f"data.path={path}: no such folder: give one with train/, validation/ and test/ of *.txt files"
        )
    documents: dict[Split, dict[str, bytes]] = {split: {} for split in SPLITS}
    left_out = [
        f"{entry.name}/" if entry.is_dir() else entry.name
        for entry in sorted(root.iterdir())
        if entry.name not in SPLITS and not entry.name.startswith(".")
    ]
    for split in SPLITS:
        if not (root / split).is_dir():
            raise ValueError(f"data.path={path}: no folder {split}/: train/, validation/ and test/ are all needed")
        found = files_below(root / split, (ENDING,))
        if not found.files:
            raise ValueError(f"data.path={path}: no *{ENDING} file in {split}/: put at least one there")
        left_out += [f"{split}/{name}" for name in found.others]
        documents[split] = {name: _utf8(file) for name, file in found.files.items()}
        if not any(documents[split].values()):
            raise ValueError(f"data.path={path}: every *{ENDING} file in {split}/ is empty: put some text there")
    name_left_out(f"data.path={path}", left_out, f"*{ENDING} in train/, validation/ and test/ is read")
    _check_disjoint(path, documents)
    return _in_memory("local text files", documents, {"left_out": len(left_out)} if left_out else {})


def _check_disjoint(path: str, documents: dict[Split, dict[str, bytes]]) -> None:
    seen: dict[bytes, str] = {}
    for split in SPLITS:
        own = {raw: f"{split}/{name}" for name, raw in documents[split].items() if raw}
        for raw, name in own.items():
            if raw in seen:
                raise ValueError(f"data.path={path}: {name} is the same text as {seen[raw]}: keep it in one split only")
        seen.update(own)


def _utf8(file: Path) -> bytes:
    """The text of a file, without the mark at its beginning that some programs write."""
    try:
        raw = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ValueError(f"{file}: not readable ({error.strerror}): make it readable, or remove it") from None
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 (byte {error.start}): convert it, or remove it") from None
    return raw


def _in_memory(description: str, documents: dict[Split, dict[str, bytes]], other_facts: Facts) -> Corpus:
    digest = hashlib.sha256()
    for split in SPLITS:
        for name, raw in documents[split].items():
            digest.update(f"{split}/{name}\0{len(raw)}\0".encode())
            digest.update(raw)
    facts = other_facts | {f"{split}_documents": len(documents[split]) for split in SPLITS}
    return Corpus(description, digest.hexdigest(), lambda split: documents[split].values(), facts=facts)


def apart(read: Callable[[Split], Iterable[bytes]]) -> Callable[[Split], Callable[[bytes], bool]]:
    """Whether a document of a split is in none of those that come after it in train, validation, test.

    So a document of several splits is kept where it is evaluated, and only the small splits are held in memory.
    """

    @cache
    def digests(split: Split) -> frozenset[bytes]:
        return frozenset(hashlib.sha256(document).digest() for document in read(split) if document)

    def is_own(split: Split) -> Callable[[bytes], bool]:
        others = [digests(later) for later in SPLITS[SPLITS.index(split) + 1 :]]
        return lambda document: not any(hashlib.sha256(document).digest() in other for other in others)

    return is_own


def _hub(id: str, revision: str | None, column: str) -> Corpus:
    splits, commit = hub_splits(id, revision, {"column": column})

    def rows(split: Split) -> Iterator[bytes]:
        for row in splits[split].select_columns([column]):
            yield (row[column] or "").removeprefix("\ufeff").encode()

    is_own = apart(rows)

    def read(split: Split) -> Iterator[bytes]:
        return filter(is_own(split), rows(split))

    facts: Facts = {f"{split}_documents": len(splits[split]) for split in SPLITS}
    content = hashlib.sha256(f"{id}@{commit}:{column}:apart".encode()).hexdigest()
    return Corpus(f"hub {id} at {commit}", content, read, large=True, facts={**facts, "commit": commit})


def hub_splits(id: str, revision: str | None, columns: Mapping[str, str]) -> tuple[Any, str]:
    """The `datasets` tables of the splits, and their commit; `columns` has the option that names each column."""
    folder, commit = snapshot(id, revision)
    from datasets import load_dataset

    try:
        splits = load_dataset(str(folder))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"data.id={id}: not readable by `datasets`: {reason}: choose another data.id") from error
    for split in SPLITS:
        if split not in splits:
            raise ValueError(f"data.id={id}: no split {split} (it has {', '.join(splits)}): choose another data.id")
        for option, column in columns.items():
            if column not in splits[split].column_names:
                names = ", ".join(splits[split].column_names)
                raise ValueError(f"data.id={id}: no column {column!r} (it has {names}): set {option} to one of these")
    return splits, commit
