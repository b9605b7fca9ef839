"""SHA-256 of files, remembered: a file is read again only where its resolved path, size or time of change differ.

Not seen: a file changed to other bytes of the same size and `st_mtime_ns`.

What is remembered lies below the cache folder, one JSON file for all files that were asked for together, replaced at
once and checked by a digest of its own. Where it is damaged or cannot be written, files are simply read; what jobs that
run at once overwrite of each other is read again.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

FOLDER = "digests"
SAVED_EVERY = 60.0
"""Seconds: so much is lost at most when a job is killed."""
SILENT = 2.0
"""Seconds before a bar is shown, on a terminal."""

Entries = dict[str, list[int | str]]
"""[size, time of change, SHA-256] by resolved path."""


def file_digests(paths: Sequence[Path], cache: Path, save_every: float = SAVED_EVERY) -> list[str]:
    """SHA-256 of the bytes of each file; what is known so far is saved every `save_every` seconds."""
    places = _resolved(paths)
    if not places:
        return []
    together = hashlib.sha256(os.fsencode(os.path.commonpath([min(places), max(places)]))).hexdigest()[:16]
    memory = cache / FOLDER / f"{together}.json"
    entries, found, new = _load(memory), list[str](), Entries()
    saved = time.monotonic()
    try:
        for place in tqdm(places, "reading files", unit="file", leave=False, disable=None, delay=SILENT):
            try:
                status = os.stat(place)  # before it is read: what changes meanwhile is seen the next time
                size, changed, own = entries.get(place, (-1, -1, ""))
                if (size, changed) != (status.st_size, status.st_mtime_ns):
                    own = _read(place)
                    new[place] = [status.st_size, status.st_mtime_ns, own]
            except OSError as error:
                raise ValueError(f"{place}: not readable ({error.strerror}): mend it, or take it away") from None
            found.append(str(own))
            if new and time.monotonic() - saved > save_every:
                entries, new, saved = _save(memory, new), Entries(), time.monotonic()
    finally:
        if new:
            _save(memory, new)
    return found


def _resolved(paths: Sequence[Path]) -> list[str]:
    """As `os.path.realpath`, which looks at every folder above every file again."""
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


def _load(memory: Path) -> Entries:
    """Nothing where it is not there, or not as it was written."""
    try:
        own, _, body = memory.read_bytes().partition(b"\n")
        return json.loads(body) if own.decode() == hashlib.sha256(body).hexdigest() else {}
    except (OSError, ValueError):
        return {}


def _save(memory: Path, new: Entries) -> Entries:
    """Adds to what is remembered by now, perhaps by other jobs too, and returns all of it."""
    entries = _load(memory) | new
    body = json.dumps(entries, separators=(",", ":")).encode()
    part = memory.with_name(f"{memory.name}.{uuid.uuid4().hex}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        os.replace(part, memory)
    except OSError:  # no right, no space: the next start reads again
        with contextlib.suppress(OSError):
            part.unlink()
    return entries
