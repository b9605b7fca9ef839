"""`python -m cab.run` in child processes that a test can kill.

The children are forked by multiprocessing's fork server: a process without threads that has imported the slow modules,
so that a child starts within milliseconds.
"""

import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["cab.run", "cab.quality.cell", "cab.efficiency.cell", "cab.report.terminal", "tasks.lm"]
PRELOADED += ["lightning_fabric", "tokenizers", "helpers.killable_runs"]
KILL = "import os, signal\ndef kill(*args, **kwargs):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
"""For patches: `kill()` ends the process as SIGKILL from outside would."""


def start(overrides: list[str], patch: str, output: Path) -> BaseProcess:
    """Runs cab.run after the lines of Python in `patch`; what it prints goes to the file `output`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=run, args=(overrides, patch, output))
    process.start()
    return process


def run(overrides: list[str], patch: str, output: Path) -> None:
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["cab.run", *overrides]
    exec(KILL + patch, {})
    runpy.run_module("cab.run", run_name="__main__", alter_sys=True)
