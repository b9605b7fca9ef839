"""What may lie where a file or folder belongs: made at a path, none of it can be opened as what belongs there."""

import os
import socket
from collections.abc import Callable
from pathlib import Path


def fifo(path: Path) -> None:
    """Whoever opens it waits."""
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere" / "at all")


def a_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inner").write_text("precious")


def file(path: Path) -> None:
    path.write_text("precious")


NO_FILE: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "loop": loop,
    "dangling": dangling,
    "socket": a_socket,
    "folder": folder,
}
NO_FOLDER = NO_FILE | {"folder": file}


def put(make: Callable[[Path], None], path: Path) -> None:
    """In place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(path.with_name(f"moved {path.name}"))
    path.unlink(missing_ok=True)
    make(path)
