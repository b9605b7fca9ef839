"""A folder that is made once and kept: complete or absent, safe when several jobs want it at once.

It is made under another name and renamed when complete. One job makes it while the others wait; where files cannot be
locked, several make it and the first one wins. A folder that does not match its own checksums is set aside and made
again.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

CHECKSUMS = "checksums.json"
HASHED = 2**26
"""Checksums cover the size and this many first bytes of a file: enough to notice damage, quick for large files."""


def stored(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, complete; made by `build(empty folder)` unless it is there already."""
    if _complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        if _complete(folder):
            return folder
        if folder.exists():
            os.replace(folder, tempfile.mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
        making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.making-", dir=folder.parent))
        try:
            build(making)
            (making / CHECKSUMS).write_text(json.dumps(_checksums(making)))
            with contextlib.suppress(OSError):  # another job was first, where locks do not work
                os.replace(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    if not _complete(folder):
        raise ValueError(f"{folder}: could not be written: free some space, or choose another cache folder")
    return folder


def _complete(folder: Path) -> bool:
    try:
        return json.loads((folder / CHECKSUMS).read_text()) == _checksums(folder)
    except (OSError, ValueError):
        return False


def _checksums(folder: Path) -> dict[str, list[int | str]]:
    sums: dict[str, list[int | str]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS:
            with path.open("rb") as file:
                sums[path.name] = [path.stat().st_size, hashlib.sha256(file.read(HASHED)).hexdigest()]
    return sums


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock; goes on without one where the system has none."""
    with path.open("w") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
