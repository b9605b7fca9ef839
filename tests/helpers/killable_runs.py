"""Runs `cab.run` in children of a process that has imported the slow modules, and kills them. For tests/test_resume.

A line of JSON on stdin starts a child: `overrides`, `patch` (lines of Python to run first), `output` (a file that its
output is appended to) and `seconds` after which it gets SIGKILL, or null. The answer is a line: its exit code (as of
os.waitstatus_to_exitcode) and how long it ran.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import lightning_fabric  # noqa: F401
import tokenizers  # noqa: F401

from cab import run
from cab.efficiency import cell as efficiency_cell  # noqa: F401
from cab.quality import cell, train  # noqa: F401
from cab.report import terminal  # noqa: F401
from cab.store import checkpoint, lock  # noqa: F401
from tasks import lm  # noqa: F401

DIE = "import os, signal; die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"


def child(overrides: list[str], patch: str, output: str) -> None:
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["cab.run", *overrides]
    code = 99
    try:
        exec(DIE + patch, {})
        code = run.command()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


for line in sys.stdin:
    job = json.loads(line)
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        lock.MACHINE = Path(job["output"]).parent
        child(job["overrides"], job["patch"], job["output"])
    status = None
    if job["seconds"] is not None:
        while time.monotonic() - start < job["seconds"] and status is None:
            time.sleep(0.002)
            found, ended = os.waitpid(pid, os.WNOHANG)
            status = ended if found else None
        if status is None:
            os.kill(pid, signal.SIGKILL)
    if status is None:
        status = os.waitpid(pid, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - start]), flush=True)
