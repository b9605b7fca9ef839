"""Locks between processes: one for each cell, and one for each device that is used for timing.

The kernel releases a lock when the process that holds it ends, so that none is ever left over; the file stays and has
no meaning. Machines that share a file system see each other's locks if it supports flock: NFS since version 4 or with
lockd, Lustre if mounted with `flock`. Where it does not, a warning is printed and the work is done without a lock:
records are written atomically, so that at worst a cell runs twice.
"""

import contextlib
import fcntl
import getpass
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

LOCK = "lock"
"""The file in a cell's folder."""
POLL_SECONDS = 0.2


class Busy(Exception):
    """Another process has the lock; the message says who."""


@contextlib.contextmanager
def locked(path: Path, wait: str = "") -> Iterator[None]:
    """Holds the lock in this file, which is made.

    While another process has it: raises Busy or, given `wait`, prints it once together with who that is, and waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as file:
        taken = _take(file, path)
        if not taken and not wait:
            raise Busy(_written_name(file))
        if not taken:
            print(f"  waits: {wait} {_written_name(file)}", flush=True)
        while not taken:
            time.sleep(POLL_SECONDS)
            taken = _take(file, path)
        yield


def holder(path: Path) -> str | None:
    """Who holds the lock in this file, or None. Does not wait and writes nothing."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # which does not wait for a FIFO
    except OSError:  # no such file: nobody has ever taken it
        return None
    try:
        return None if _flock(file, fcntl.LOCK_SH) else _written_name(file)
    except OSError:  # no locks here
        return None
    finally:
        os.close(file)


@contextlib.contextmanager
def locked_device(device: torch.device) -> Iterator[None]:
    """Keeps other processes on this machine from timing on the device at the same time; waits for one that does."""
    name = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else device.type
    path = device_lock_folder() / f"cab-measures-on-{name}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, f"times are being taken on this {device.type} by"))
        except OSError as error:
            print(f"warning: {path}: {error.strerror}; another process may time at the same time", file=sys.stderr)
        yield


def device_lock_folder() -> Path:
    """$CAB_LOCK_FOLDER or /tmp: all users of a machine have to share it. $TMPDIR differs between users and jobs."""
    return Path(os.environ.get("CAB_LOCK_FOLDER", "/tmp"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file's descriptor. All users may open the file; a symbolic link is refused."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        file = os.open(path, flags)  # without O_CREAT, which Linux refuses for another user's file in /tmp
    except FileNotFoundError:
        file = os.open(path, flags | os.O_CREAT, 0o666)
        if path.parent == device_lock_folder():
            with contextlib.suppress(PermissionError):  # another user has made it just now
                os.fchmod(file, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _take(file: int, path: Path) -> bool:
    """Whether this process now has the lock; without support for locks it always has."""
    try:
        while not _flock(file, fcntl.LOCK_EX):
            if not _flock(file, fcntl.LOCK_SH):
                return False
            fcntl.flock(file, fcntl.LOCK_UN)  # nobody has it: `holder` of another process looked at it just now
            time.sleep(0.001)
    except OSError as error:
        print(f"warning: {path}: no locks here ({error.strerror}); another process may run the same", file=sys.stderr)
        return True
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    with contextlib.suppress(OSError):  # a full disk; the text only says who has it
        os.ftruncate(file, 0)
        os.pwrite(file, f"{_user()} on {socket.gethostname()}, process {os.getpid()}, since {since}".encode(), 0)
    return True


def _flock(file: int, operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _written_name(file: int) -> str:
    """What the holder of a lock has written into its file."""
    with contextlib.suppress(OSError):
        return os.pread(file, 500, 0).decode(errors="replace").strip() or "another process"
    return "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container that does not know the user
        return f"user {os.getuid()}"
