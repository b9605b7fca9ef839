"""What lies where a file or folder of ours belongs is set aside: renamed, with one line, and never deleted.

A results folder lives long: a directory, a link to itself, a FIFO or a file without permission may take the place of a
record or a cache. Opening a FIFO would wait for ever, so nothing is opened before it is known what it is. What is
renamed is called <name>.damaged-<n>, which no command reads.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Kind = Literal["file", "folder"]
ASIDE = ".damaged-"
_NAMES = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class InTheWay(Exception):
    """Something that is not the file which belongs there. The message says what it is."""


def in_the_way(path: Path, kind: Kind, usable: int = 0, links: bool = True) -> str:
    """What is at a path where a file or folder belongs, if it is something else; else empty, also if nothing is there.

    With `usable`, bits of os.access, an own file without these permissions is in the way too: that of another user
    never is. Links count as what they lead to, unless `links` is False.
    """
    try:
        found = path.lstat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # what is wrong above it is another question
            return ""
        raise
    own = found.st_uid == os.geteuid()
    if stat.S_ISLNK(found.st_mode):
        if not links:
            return "a link"
        try:
            found = path.stat()
        except OSError as error:
            return f"a link that leads nowhere ({error.strerror})"
    if stat.S_IFMT(found.st_mode) != (stat.S_IFREG if kind == "file" else stat.S_IFDIR):
        return f"{_NAMES.get(stat.S_IFMT(found.st_mode), 'something else')} where a {kind} belongs"
    if own and not os.access(path, usable):
        return f"permission denied ({stat.filemode(found.st_mode)})"
    return ""


def read_file(path: Path) -> bytes:
    """The content of a file. Raises InTheWay, without waiting, if something else is there, and OSError."""
    if what := in_the_way(path, "file", os.R_OK):
        raise InTheWay(what)
    return path.read_bytes()


def make_way(path: Path, kind: Kind, usable: int = 0, links: bool = True, then: str = "") -> None:
    """Sets aside what is at this path, if it is not what belongs there. Two processes do it once."""
    if in_the_way(path, kind, usable, links):
        with _alone(path.parent):
            if what := in_the_way(path, kind, usable, links):
                _rename(path, what, then)


def make_folder(folder: Path, top: Path) -> None:
    """Makes a folder and those above it below `top`; sets aside what is in their way."""
    for path in [*reversed(folder.relative_to(top).parents), folder.relative_to(top)][1:]:
        make_way(top / path, "folder", os.R_OK | os.W_OK | os.X_OK if top / path == folder else 0)
        (top / path).mkdir(parents=True, exist_ok=True)


def set_aside(path: Path, what: str, then: str = "") -> None:
    """Renames a file or folder and says so in one line: what is wrong with it, and what happens now."""
    with _alone(path.parent):
        _rename(path, what, then)


def _rename(path: Path, what: str, then: str) -> None:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}{ASIDE}{number}")):
        number += 1
    path.rename(aside)
    print(f"warning: {path}: {what}; renamed to {aside.name}{', ' if then else ''}{then}", flush=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No two processes rename in a folder at once; without file locks they may."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
