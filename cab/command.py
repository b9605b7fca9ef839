"""How commands end: with an exit code, and with one clear line instead of a traceback.

Exit codes: 0 if all cells are done (an unsupported one is), 1 if a cell failed, which is recorded, and 2 if the request
cannot be met, in which case nothing is recorded.
"""

import os
import sys
import traceback
from collections.abc import Callable

from cab.config import Request
from cab.errors import UserError
from cab.store.failure import cannot_write
from cab.store.record import Record

FAILED = 1
REFUSED = 2


class ExitCode:
    """The exit code of a command that runs cells: the worst one of them. Hydra does not hand on what a job returns."""

    def __init__(self) -> None:
        self.worst = 0

    def record(self, code: int) -> None:
        self.worst = max(self.worst, code)


exit_code = ExitCode()
"""That of this process."""


class CellCode(int):
    """The exit code of a cell, with its name and how it ended: all that a launcher gets of a job is what it returns."""

    title: str
    outcome: str

    def __new__(cls, code: int, title: str = "", outcome: str = "") -> "CellCode":
        made = super().__new__(cls, code)
        made.title, made.outcome = title, outcome
        return made


def command_line(work: Callable[[], int]) -> int:
    """Runs `work` and returns the exit code. With CAB_TRACEBACK=1 a user error shows its traceback."""
    try:
        return work()
    except UserError as error:
        if os.environ.get("CAB_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
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
