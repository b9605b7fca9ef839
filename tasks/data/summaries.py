"""Documents with their summaries in three splits, from one of three sources.

embedded   the running interpreter's own standard library: source code and the first paragraph of its docstring
           (`tasks.data.docstrings`). Files are split as in `tasks.data.text`
local      a folder with train, validation and test as *.jsonl or *.jsonl.gz: an object in every line, with a document
           and its summary, or a list of summaries
hub        a `datasets` id with those three splits and two such columns; rows where one is empty are left out. Default
           Multi-News (Fabbri et al. 2019, arXiv 1906.01749), CAB's, as `alexfabbri/multi_news`: its main branch is a
           script, which `datasets` no longer runs, so the branch with its conversion to Parquet is used.

Rows with the same document are one document with several reference summaries. The same document in several splits is
refused with `local`; with the others it is kept in the one that is evaluated.

For `tasks.data.tokens` a split is a sequence of texts: a document, its summaries, an empty text, the next document. A
separator ends every text, so that `Collection` finds documents and summaries in the stream of tokens.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base import SPLITS, Data, Split
from tasks.data.docstrings import VERSION, documented
from tasks.data.files import given_path, name_left_out
from tasks.data.text import Corpus, apart, corpus, hub_splits

HUB_DEFAULT = ("alexfabbri/multi_news", "refs/convert/parquet")
ENDINGS = (".jsonl", ".jsonl.gz")

Examples = dict[bytes, list[bytes]]
"""Documents and their summaries."""


@dataclass(frozen=True)
class Columns:
    document: str = "document"
    summary: str = "summary"

    @property
    def options(self) -> dict[str, str]:
        return {"task.document_column": self.document, "task.summary_column": self.summary}


@dataclass(frozen=True)
class Collection:
    """Beginnings and ends of documents (D, 2) and summaries (S, 2) in the tokens of a split."""

    stream: np.ndarray
    documents: np.ndarray
    summaries: np.ndarray
    owner: np.ndarray
    """(S,) the document of each summary, ascending."""

    @classmethod
    def of(cls, stream: np.ndarray, separator: int) -> "Collection":
        ends = np.flatnonzero(stream == separator)
        spans = np.stack([np.append(0, ends + 1)[:-1], ends], 1)
        empty = spans[:, 0] == spans[:, 1]
        document = np.append(True, empty)[:-1]  # the first text, and those after an empty one
        summary = ~document & ~empty
        return cls(stream, spans[document], spans[summary], (document.cumsum() - 1)[summary])

    def document(self, index: int) -> np.ndarray:
        return self.stream[slice(*self.documents[index])]

    def summary(self, index: int) -> np.ndarray:
        return self.stream[slice(*self.summaries[index])]

    def references(self, document: int) -> range:
        """Which summaries are of this document."""
        first, last = np.searchsorted(self.owner, [document, document + 1])
        return range(first, last)


def summaries(data: Data, columns: Columns) -> Corpus:
    """The documents and summaries of the data source, as the sequence of texts described above."""
    if data.source == "embedded":
        return _embedded()
    if data.source == "local":
        return _local(data.path, columns)
    default, branch = HUB_DEFAULT
    return _hub(data.id or default, data.revision if data.id or data.revision else branch, columns)


def _flat(examples: Mapping[bytes, list[bytes]]) -> Iterator[bytes]:
    for document, references in examples.items():
        yield from (document, *references, b"")


def _grouped(pairs: Iterable[tuple[bytes, list[bytes]]]) -> Examples:
    """Equal summaries of a document are kept once."""
    examples: Examples = {}
    for document, references in pairs:
        known = examples.setdefault(document, [])
        known.extend(reference for reference in dict.fromkeys(references) if reference not in known)
    return examples


def _embedded() -> Corpus:
    library = corpus(Data(), "text")

    @cache
    def extract() -> dict[Split, Examples]:
        """Called only if the tokens are not cached."""
        found = {
            split: _grouped(
                (document.encode(), [summary.encode()])
                for file in library.read(split)
                for document, summary in documented(file)
            )
            for split in SPLITS
        }
        keep: tuple[tuple[Split, Split], ...] = (("test", "validation"), ("test", "train"), ("validation", "train"))
        for evaluated, other in keep:
            for document in found[evaluated]:
                found[other].pop(document, None)
        return found

    content = hashlib.sha256(f"docstrings {VERSION}:{library.content}".encode()).hexdigest()
    description = f"docstrings in the {library.description}"
    return Corpus(description, content, lambda split: _flat(extract()[split]), large=True)


def _local(path: str | None, columns: Columns) -> Corpus:
    what = "a folder with train, validation and test as *.jsonl or *.jsonl.gz"
    if not path:
        raise ValueError(f"data.source=local needs data.path: {what}")
    root = given_path(path)
    if not root.is_dir():
        raise ValueError(f"data.path={path}: no such folder: give {what}")
    examples, digest, seen = {}, hashlib.sha256(), dict[bytes, Split]()
    files = {split: _file(root, split) for split in SPLITS}
    others = [path.name for path in sorted(root.iterdir()) if path not in files.values() and path.name[0] != "."]
    name_left_out(f"data.path={path}", others, ", ".join(file.name for file in files.values()) + " are read")
    for split, file in files.items():
        examples[split] = _grouped(_rows(file, columns))
        if not examples[split]:
            raise ValueError(f"{file}: empty: put at least one document with its summary there")
        for document in examples[split]:
            if document in seen:
                start = " ".join(document[:200].decode(errors="ignore").split())[:40]
                raise ValueError(
                    f"data.path={path}: the document {start!r}... is in {seen[document]} and in {split}: "
                    "keep it in one split only"
                )
            seen[document] = split
        for text in _flat(examples[split]):
            digest.update(f"{split}\0{len(text)}\0".encode())
            digest.update(text)
    return Corpus("local documents with summaries", digest.hexdigest(), lambda split: _flat(examples[split]))


def _file(root: Path, split: Split) -> Path:
    wanted = [split + ending for ending in ENDINGS]
    found = [path for path in sorted(root.iterdir()) if path.name.lower() in wanted]
    if not found:
        raise ValueError(
            f"data.path={root}: no {split}.jsonl or {split}.jsonl.gz: all of {', '.join(SPLITS)} are needed"
        )
    if len(found) > 1:
        raise ValueError(f"data.path={root}: both {found[0].name} and {found[1].name}: keep one of them")
    if not found[0].is_file():
        raise ValueError(f"{found[0]}: is no file: put one there")
    return found[0]


def _rows(file: Path, columns: Columns) -> Iterator[tuple[bytes, list[bytes]]]:
    kind: type | None = None
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else "not UTF-8")
            raise ValueError(f"{where}: no JSON ({reason}): every line must be one object") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: is a {type(row).__name__}: every line must be one object")
        for option, column in columns.options.items():
            if column not in row:
                names = ", ".join(row) or "nothing"
                raise ValueError(f"{where}: no {column!r} (it has {names}): add it, or set {option} to its name")
        document, summary = row[columns.document], row[columns.summary]
        kind = kind or type(summary)
        if type(summary) is not kind:
            was, now = kind.__name__, type(summary).__name__
            raise ValueError(
                f"{where}: {columns.summary!r} is a {now}, before it was a {was}: use one type in all lines"
            )
        yield _text(document, columns.document, where), _texts(summary, columns.summary, where)


def _lines(file: Path) -> Iterator[bytes]:
    opened: Any = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opened(file, "rb") as lines:
            yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: not readable by gzip ({error}): make or copy it again") from None
    except OSError as error:
        raise ValueError(f"{file}: not readable ({error.strerror}): make it readable") from None


def _texts(value: Any, column: str, where: str) -> list[bytes]:
    if not isinstance(value, list):
        return [_text(value, column, where)]
    if not value:
        raise ValueError(f"{where}: {column!r} is an empty list: at least one text is needed")
    return [_text(item, f"{column}[{index}]", where) for index, item in enumerate(value)]


def _text(value: Any, column: str, where: str) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column!r} is a {type(value).__name__}: text is needed")
    if not value.strip():
        raise ValueError(f"{where}: {column!r} is empty: write some text, or remove the line")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {column!r} has half a character at {error.start}: repair it") from None


def _hub(id: str, revision: str | None, columns: Columns) -> Corpus:
    splits, commit = hub_splits(id, revision, columns.options)

    is_own = apart(lambda split: (document for document, _ in rows(split)))

    def read(split: Split) -> Iterator[bytes]:
        own = is_own(split)
        return _flat(_grouped(pair for pair in rows(split) if own(pair[0])))

    def rows(split: Split) -> Iterator[tuple[bytes, list[bytes]]]:
        for number, row in enumerate(splits[split].select_columns([columns.document, columns.summary])):
            document, summary = row[columns.document], row[columns.summary]
            if document and summary:
                where = f"data.id={id}, row {number} of {split}"
                yield _text(document, columns.document, where), _texts(summary, columns.summary, where)

    facts: dict[str, int | float | str] = {f"{split}_rows": len(splits[split]) for split in SPLITS}
    content = hashlib.sha256(f"{id}@{commit}:{columns.document}:{columns.summary}:apart".encode()).hexdigest()
    return Corpus(f"hub {id} at {commit}", content, read, large=True, facts={**facts, "commit": commit})
