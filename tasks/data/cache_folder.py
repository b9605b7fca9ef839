"""A folder that is made once and kept: complete or absent, safe when several jobs want it at once.

It is made under another name and renamed when complete. One job makes it while the others wait; where files cannot be
locked, several make it and the first one wins. A folder that does not match its own checksums is set aside and made
again. What a job that was killed left unfinished is deleted by the next one that makes something in the same place.
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

CHECKSUMS = "checksums.json"
HASHED = 2**26
"""Checksums cover the size and this many first bytes of a file: enough to notice damage, quick for large files."""
ABANDONED = 2 * 24 * 3600
"""Seconds without a change after which an unfinished folder has no owner, whatever machine it is from."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stored(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, complete; made by `build(empty folder)` unless it is there already."""
    if _complete(folder):
        return folder
    with _one_line(folder, build=False):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        if _complete(folder):
            return folder
        token = uuid.uuid4().hex[:8]
        making = folder.with_name(f"{folder.name}.making-{_machine()}-{os.getpid()}-{token}")
        with _one_line(folder, build=False):
            if folder.exists():
                os.replace(folder, folder.with_name(f"{folder.name}.damaged-{token}"))
            making.mkdir()
        try:
            _delete_unfinished(folder.parent, making.stat().st_mtime)
            with _one_line(folder, build=True):
                build(making)
                (making / CHECKSUMS).write_text(json.dumps(_checksums(making)))
            with contextlib.suppress(OSError):  # another job was first, where locks do not work
                os.replace(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    if not _complete(folder):
        raise _unwritten(folder, "it is not as it was made")
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


def _machine() -> str:
    """Where the number of a process means something: a start of a host, and the container there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _delete_unfinished(parent: Path, now: float) -> None:
    """`now` by the clock of the file system, which may be another machine's."""
    for left in parent.glob("*.making-*"):
        machine, _, process = left.name.split(".making-")[-1].rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):  # it is gone meanwhile
            changed = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            gone = machine == _machine() and not _runs(int(process))
            if gone or now - changed > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def _one_line(folder: Path, build: bool) -> Iterator[None]:
    """A full disk or a missing right as ValueError. `build` also reads: its other errors are not about `folder`."""
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # numpy's, of a file that became shorter than its array
        if build and not short and error.errno not in FULL:
            raise
        raise _unwritten(folder, error.strerror or str(error)) from None


def _unwritten(folder: Path, reason: str) -> ValueError:
    return ValueError(f"{folder}: could not be written ({reason}): free some space, or choose another cache folder")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock; goes on without one where the system has none."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        yield
