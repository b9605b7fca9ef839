"""How commands end: with an exit code, and with one clear line instead of a traceback.

Exit codes: 0 done (also when the answer is "unsupported", which is recorded), 1 a cell failed and its failure is
recorded, 2 the request cannot be met and nothing was recorded.
"""

import os
import sys
import traceback
from collections.abc import Callable

from cab.errors import UserError
from cab.store.failure import cannot_write

FAILED, REFUSED = 1, 2

exit_codes = [0]
"""One per cell of this command, wherever it ran: Hydra gives no way to return an exit code."""


def command_line(work: Callable[[], int]) -> int:
    """Runs `work` and returns the exit code. With CAB_TRACEBACK=1 an error shows where it comes from."""
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
        todo = "free some space, or choose another folder with results=; the same command goes on where this one ended"
        print(f"error: {error.filename or 'writing'}: {error.strerror}: {todo}", file=sys.stderr)
        return REFUSED
