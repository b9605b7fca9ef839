"""Locks between processes: one for each cell, and one for each device that times are taken on.

The kernel releases a lock when its holder ends, however it ends, so that none is ever left over; the file stays and
means nothing. Locks hold between the machines that share a file system where that passes flock on: local ones do, NFS
since version 4 or with lockd, Lustre if mounted with `flock`. Where it says that it cannot, that is said in a line and
the work is done all the same: records are written at once, so that the worst is a cell that ran twice.
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

MACHINE = Path("/tmp")
"""Where all users of a machine meet: not $TMPDIR, which differs between them, and between the jobs of a cluster."""
LOCK = "lock"
"""The file in a cell's folder."""
POLL_SECONDS = 0.2


class Busy(Exception):
    """Another process has the lock; the message says who."""


@contextlib.contextmanager
def cell_lock(folder: Path) -> Iterator[None]:
    """Takes the lock of the cell with this folder, which is made. Raises Busy at once if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder / LOCK) as file:
        if not _take(file, folder / LOCK):
            raise Busy(_holder(file))
        yield


@contextlib.contextmanager
def waited_for(path: Path, why: str) -> Iterator[None]:
    """Takes a lock; while another process has it, one line says why this one waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as file:
        said = False
        while not _take(file, path):
            if not said:
                print(f"  waits: {why} {_holder(file)}", flush=True)
            said = True
            time.sleep(POLL_SECONDS)
        yield


@contextlib.contextmanager
def measuring(device: torch.device) -> Iterator[None]:
    """Nobody else on this machine takes times on the device meanwhile; other work goes on beside it."""
    name = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else device.type
    path = MACHINE / f"cab-measures-on-{name}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(waited_for(path, f"times are being taken on this {device.type} by"))
        except OSError as error:
            print(f"warning: {path}: {error.strerror}; another process may take times as well", file=sys.stderr)
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open for everyone who may write there; never through a link that somebody has laid."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        file = os.open(path, flags)  # first, as Linux lets nobody create a file that a colleague has in /tmp
    except FileNotFoundError:
        file = os.open(path, flags | os.O_CREAT, 0o666)
        if path.parent == MACHINE:
            with contextlib.suppress(PermissionError):  # a colleague's, made in this moment
                os.fchmod(file, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _take(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f"warning: {path}: no locks here ({error.strerror}); two processes may do the same", file=sys.stderr)
        return True
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    with contextlib.suppress(OSError):  # a full disk: it only says who
        os.ftruncate(file, 0)
        os.pwrite(file, f"{_user()} on {socket.gethostname()}, process {os.getpid()}, since {since}".encode(), 0)
    return True


def _holder(file: int) -> str:
    with contextlib.suppress(OSError):
        if said := os.pread(file, 500, 0).decode(errors="replace").strip():
            return said
    return "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without that user
        return f"user {os.getuid()}"
