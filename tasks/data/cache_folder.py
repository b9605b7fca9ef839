"""Cache folders that are built once: complete or absent, safe with parallel jobs.

A folder is built under another name and renamed when it is complete. One job builds it while the others wait; without
file locks several build it and the first one wins. A folder that does not match its checksums, and whatever else lies
in its place, is set aside with one line and built again. An unfinished folder of a killed job is deleted by the next
job that builds something beside it.
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

from tasks.data.progress import announced
from tasks.data.set_aside import InTheWay, in_the_way, make_way, read_file, set_aside

CHECKSUMS = "checksums.json"
HASHED = 2**26
"""Checksums cover the size and the first bytes of a file, so that large files are checked quickly."""
ABANDONED = 2 * 24 * 3600
"""Seconds without a change after which an unfinished folder of any machine is deleted."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stored(folder: Path, build: Callable[[Path], None], what: str = "data") -> Path:
    """`folder`, complete; built by `build(empty folder)` if it does not exist; if that is slow, a line names `what`.
    A file in place of the folder above it, which is the cache or in it, is set aside."""
    if not _damage(folder):
        return folder
    lock = folder.with_name(f"{folder.name}.lock")
    with _os_errors(folder, build=False):
        make_way(folder.parent, "folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_way(lock, "file", os.W_OK)
    with _locked(lock):
        damage = _damage(folder)
        if not damage:
            return folder
        building = folder.with_name(f"{folder.name}.making-{machine_id()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        with _os_errors(folder, build=False):
            if os.path.lexists(folder):
                set_aside(folder, damage, "it is made again")
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
    if damage := _damage(folder):
        raise _not_written(folder, f"its content changed while it was written: {damage}")
    return folder


def _damage(folder: Path) -> str:
    """Why it cannot be used; empty if it is complete. What another user made is not to be made again in its place:
    raises ValueError if it may not be read."""
    if what := in_the_way(folder, "folder", os.R_OK | os.X_OK):
        return what
    try:
        return "" if json.loads(read_file(folder / CHECKSUMS)) == _checksums(folder) else "not what its checksums say"
    except PermissionError as error:
        needed = "make it readable for you, or choose another cache folder"
        raise ValueError(f"{error.filename}: not readable ({error.strerror}): {needed}") from None
    except InTheWay as error:
        return f"in it, {error}"
    except (OSError, ValueError):
        return "incomplete"


def _checksums(folder: Path) -> dict[str, list[int | str]]:
    """Raises InTheWay for what is no readable file."""
    sums: dict[str, list[int | str]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS:
            if what := in_the_way(path, "file", os.R_OK):
                raise InTheWay(what)
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
