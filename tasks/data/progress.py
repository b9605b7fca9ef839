"""What takes long says so on stderr: a bar on a terminal, and one line anywhere once it has taken two seconds."""

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

DELAY = 2.0
"""Seconds of silence before a bar or a line is shown."""

Item = TypeVar("Item")


def note(text: str) -> None:
    """Prints a line, above a bar if there is one."""
    tqdm.write(f"  {text}", file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Prints the line if the work within takes longer than the delay, while it runs."""
    timer = threading.Timer(DELAY, note, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def bar(what: str, unit: str, total: int) -> Any:
    """A bar to `update`."""
    return tqdm(desc=what, unit=unit, total=total, leave=False, disable=None, delay=DELAY)


def each(items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """The items, behind a bar."""
    yield from tqdm(items, what, total, unit=unit, leave=False, disable=None, delay=DELAY)
