"""The files below a folder that have certain endings, each real file once, whatever links lead to it.

A file that is reached by several ways has the name of the way without links. Folders that are linked into themselves
end where they began. What has a right ending and cannot be read is an error; files with other endings are named.
"""

import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tasks.data.progress import note


@dataclass(frozen=True)
class Found:
    files: dict[str, Path]
    """By path below the folder, in order."""
    others: list[str]
    """Paths of files with other endings, without hidden ones."""


def files_below(folder: Path, endings: tuple[str, ...]) -> Found:
    """Endings are in lower case; those of files may be in any."""
    files: dict[str, str] = {}
    """Paths by resolved path."""
    links: list[str] = []
    others: list[str] = []
    folders, linked, seen = deque([os.fspath(folder)]), deque[str](), set[str]()
    while folders or linked:
        where = (folders or linked).popleft()
        resolved = os.path.realpath(where)
        if resolved in seen:
            continue
        seen.add(resolved)
        for entry in _entries(where):
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(entry.path)
            elif not entry.name.lower().endswith(endings):
                others += [] if entry.name.startswith(".") else [entry.path]
            else:
                _check_file(entry.path)
                if entry.is_symlink():
                    links.append(entry.path)
                else:
                    files[os.path.join(resolved, entry.name)] = entry.path
    for path in links:
        files.setdefault(os.path.realpath(path), path)
    above = os.path.join(folder, "")
    named = {path.removeprefix(above): Path(path) for path in files.values()}
    return Found(dict(sorted(named.items())), sorted(path.removeprefix(above) for path in others))


def given_path(path: str | None) -> Path:
    """Of `data.path`; of none the current folder."""
    try:
        return Path(path or "").expanduser()
    except RuntimeError:  # ~somebody, or no HOME
        raise ValueError(f"data.path={path}: there is no such home folder: give the whole path") from None


def read_text(file: Path) -> str:
    """A text in UTF-8, without the mark at its beginning that some programs write."""
    try:
        _check_file(os.fspath(file))
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 (byte {error.start}): convert it") from None
    except OSError as error:
        raise ValueError(f"{file}: not readable ({error.strerror}): make it readable") from None


def name_left_out(where: str, others: list[str], used: str) -> None:
    """Says in one line what is used and what is left out."""
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        note(f"{where}: only {used}; {len(others)} left out: {shown}")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder}: not readable ({error.strerror}): make it readable, or remove it") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check_file(path: str) -> None:
    try:
        kind = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error.strerror}): repair it, or remove it") from None
    if not stat.S_ISREG(kind):
        raise ValueError(f"{path}: is no regular file: remove it")
