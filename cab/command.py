"""How commands end: with an exit code, and with one clear line instead of a traceback.

Exit codes: 0 if all cells are done (an unsupported one is), 1 if a cell failed, which is recorded, 2 if the request
cannot be met, in which case nothing is recorded, and 130 after Ctrl-C. Light to import: `--help` needs no torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cab.errors import UserError
from cab.store.failure import cannot_write

if TYPE_CHECKING:
    from cab.config import Request
    from cab.store.record import Record

FAILED = 1
REFUSED = 2
INTERRUPTED = 130
"""What a shell gives a program that Ctrl-C ended."""


class CellCode(int):
    """The exit code of a cell, with its name and how it ended: all that a launcher gets of a job is what it returns."""

    title: str
    outcome: str

    def __new__(cls, code: int, title: str = "", outcome: str = "") -> CellCode:
        made = super().__new__(cls, code)
        made.title, made.outcome = title, outcome
        return made


def command_line(work: Callable[[], int]) -> int:
    """Runs `work` and returns the exit code. With CAB_TRACEBACK=1 a user error shows its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot print `·`
    if not os.environ.get("HOME"):  # libraries complain without
        home = os.path.expanduser("~")
        os.environ["HOME"] = tempfile.gettempdir() if home == "~" else home
    try:
        code = work()
        sys.stdout.flush()
        return code
    except UserError as error:
        if os.environ.get("CAB_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one ended", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _leave_closed_pipe()
        return FAILED
    except OSError as error:
        if error.errno is None:
            raise
        if not cannot_write(error):
            print(f"error: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)
            return FAILED
        advice = (
            "free some space, or choose another folder with results=; the same command resumes where this one ended"
        )
        print(f"error: {error.filename or 'writing'}: {error.strerror}: {advice}", file=sys.stderr)
        return REFUSED


def _leave_closed_pipe() -> None:
    """Says that nobody reads the output any more (`| head`), and lets what is in its buffer go nowhere: Python would
    write it at exit, and fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        print("error: the output is closed: the same command goes on where this one ended", file=sys.stderr, flush=True)


def make_results(folder: Path) -> None:
    """Makes a results folder. Raises UserError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"results={folder}: {error.strerror}: choose another folder") from error


def title(request: Request) -> str:
    """How command lines name a cell, with its learning rate if that is one of several."""
    rate = f" · rate {request.training.lr:g}" if request.training.tuned_over else ""
    return f"{request.attention} · {request.pattern} · {request.task} · {request.size} · seed {request.seed}{rate}"


def summary(record: Record) -> str:
    """The result of a quality cell in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    name = record.result["headline"]
    return f"{name.replace('_', ' ')} {record.result['metrics'][name]:.4g}"


def cell_exit_code(*records: Record) -> int:
    """The exit code of a cell with these records."""
    return 0 if all(record.status in ("ok", "unsupported") for record in records) else FAILED
