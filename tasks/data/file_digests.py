"""SHA-256 of files, cached: a file is read again only if its resolved path, size or modification time differ.

A file that was changed to other bytes of the same size and `st_mtime_ns` is not noticed.

The cache is one JSON file for all files that are digested together, replaced atomically, with a digest of its own. If
it is damaged, it is set aside and files are read again, as they are if it cannot be written; so are entries that
parallel jobs overwrite of each other.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tasks.data.progress import announced, each
from tasks.data.set_aside import make_way, set_aside

FOLDER = "digests"
AGAIN = "files are read again"
SAVED_EVERY = 60.0
"""Seconds; a job that is killed loses the digests since then."""

Entries = dict[str, list[int | str]]
"""[size, time of change, SHA-256] by resolved path."""


def file_digests(paths: Sequence[Path], cache: Path, save_every: float = SAVED_EVERY) -> list[str]:
    """SHA-256 of the bytes of each file; what is known so far is saved every `save_every` seconds."""
    places = _resolved(paths)
    if not places:
        return []
    together = hashlib.sha256(os.fsencode(os.path.commonpath([min(places), max(places)]))).hexdigest()[:16]
    index = cache / FOLDER / f"{together}.json"
    entries, found, new = _load(index), list[str](), Entries()
    saved = time.monotonic()
    try:
        with announced("reading files"):
            for place in each(places, "reading files", "file"):
                try:
                    status = os.stat(place)  # before reading, so that a change meanwhile is noticed next time
                    size, changed, own = entries.get(place, (-1, -1, ""))
                    if (size, changed) != (status.st_size, status.st_mtime_ns):
                        own = _read(place)
                        new[place] = [status.st_size, status.st_mtime_ns, own]
                except OSError as error:
                    advice = "make it readable, or remove it"
                    raise ValueError(f"{place}: not readable ({error.strerror}): {advice}") from None
                found.append(str(own))
                if new and time.monotonic() - saved > save_every:
                    entries, new, saved = _save(index, new), Entries(), time.monotonic()
    finally:
        if new:
            _save(index, new)
    return found


def _resolved(paths: Sequence[Path]) -> list[str]:
    """As `os.path.realpath`, but each folder is resolved only once."""
    folders: dict[str, str] = {}

    def resolved(path: str) -> str:
        folder, name = os.path.split(path)
        if not name or name in (".", "..") or os.path.islink(path):
            return os.path.realpath(path)
        if folder not in folders:
            folders[folder] = resolved(folder) if folder else os.path.realpath("")
        return os.path.join(folders[folder], name)

    return [resolved(os.fspath(path)) for path in paths]


def _read(place: str) -> str:
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(index: Path) -> Entries:
    """Empty if the file is missing, or damaged and therefore set aside."""
    try:
        make_way(index.parent, "folder", then=AGAIN)
        make_way(index, "file", os.R_OK, then=AGAIN)
        own, _, body = index.read_bytes().partition(b"\n")
        if own == hashlib.sha256(body).hexdigest().encode():
            entries: Entries = json.loads(body)
            return entries
        set_aside(index, "not what its checksum says", AGAIN)
    except (OSError, ValueError):
        pass
    return {}


def _save(index: Path, new: Entries) -> Entries:
    """Adds to the current entries, which may include those of other jobs, and returns all of them."""
    entries = _load(index) | new
    body = json.dumps(entries, separators=(",", ":")).encode()
    temporary = index.with_name(f"{index.name}.{uuid.uuid4().hex}")
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        os.replace(temporary, index)
    except OSError:  # not allowed, no space: files are read again next time
        with contextlib.suppress(OSError):
            temporary.unlink()
    return entries
