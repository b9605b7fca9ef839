"""Cache folders that are built once: complete or absent, safe with parallel jobs.

A folder is built under another name and renamed when it is complete. One job builds it while the others wait; without
file locks several build it and the first one wins. A folder that does not match its checksums is renamed and built
again, and a line says so. An unfinished folder of a killed job is deleted by the next job that builds something beside
it.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.data.progress import announced, note

CHECKSUMS = "checksums.json"
HASHED = 2**26
"""Checksums cover the size and the first bytes of a file, so that large files are checked quickly."""
ABANDONED = 2 * 24 * 3600
"""Seconds without a change after which an unfinished folder of any machine is deleted."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stored(folder: Path, build: Callable[[Path], None], what: str = "data") -> Path:
    """`folder`, complete; built by `build(empty folder)` if it does not exist; if that is slow, a line names `what`."""
    if _complete(folder):
        return folder
    with _os_errors(folder, build=False):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        if _complete(folder):
            return folder
        token = uuid.uuid4().hex[:8]
        building = folder.with_name(f"{folder.name}.making-{machine_id()}-{os.getpid()}-{token}")
        with _os_errors(folder, build=False):
            if folder.exists():
                aside = folder.with_name(f"{folder.name}.damaged-{token}")
                os.replace(folder, aside)
                note(f"{folder}: damaged; it is made again, the old one is {aside.name}")
            building.mkdir()
        try:
            _delete_unfinished(folder.parent, building.stat().st_mtime)
            with _os_errors(folder, build=True), announced(f"preparing {what}, kept in {folder.parent}"):
                build(building)
                (building / CHECKSUMS).write_text(json.dumps(_checksums(building)))
            with contextlib.suppress(OSError):  # another job was first, without locks
                os.replace(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    if not _complete(folder):
        raise _not_written(folder, "its content changed while it was written")
    return folder


def _complete(folder: Path) -> bool:
    try:
        return json.loads((folder / CHECKSUMS).read_text()) == _checksums(folder)
    except PermissionError as error:
        needed = "make it readable for you, or choose another cache folder"
        raise ValueError(f"{error.filename}: not readable ({error.strerror}): {needed}") from None
    except (OSError, ValueError):
        return False


def _checksums(folder: Path) -> dict[str, list[int | str]]:
    sums: dict[str, list[int | str]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS:
            with path.open("rb") as file:
                sums[path.name] = [path.stat().st_size, hashlib.sha256(file.read(HASHED)).hexdigest()]
    return sums


def machine_id() -> str:
    """Where a process id is unique: a boot of a host, and a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _delete_unfinished(parent: Path, now: float) -> None:
    """`now` is the time of the file system, which may belong to another machine."""
    for unfinished in parent.glob("*.making-*"):
        machine, _, process = unfinished.name.split(".making-")[-1].rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):  # deleted meanwhile
            changed = max(path.stat().st_mtime for path in (unfinished, *unfinished.iterdir()))
            dead = machine == machine_id() and not _is_running(int(process))
            if dead or now - changed > ABANDONED:
                shutil.rmtree(unfinished, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def _os_errors(folder: Path, build: bool) -> Iterator[None]:
    """Turns a full disk or a missing permission into ValueError. Other errors of `build` are raised as they are."""
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # numpy's error when a file is shorter than its array
        if build and not short and error.errno not in FULL:
            raise
        raise _not_written(folder, error.strerror or str(error)) from None


def _not_written(folder: Path, reason: str) -> ValueError:
    return ValueError(f"{folder}: could not be written ({reason}): free some space, or choose another cache folder")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock; goes on without it if files cannot be locked."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        yield
