"""What a process beside the first one does (see cab.ranks): it lends its device to the training of one cell after the
other, and leaves the decisions, the words and the files to the first one."""

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from cab import ranks
from cab.cell import build_model
from cab.checkpoint import Checkpoint
from cab.config import Request
from cab.machine import set_threads
from cab.train import train

GRACE = 15.0
"""Seconds before the process ends after a failure: `torchrun` then ends the first one, which has a record to write."""


def lend() -> int:
    """Trains what it hears of until there is nothing left; returns an exit code."""
    kind = "cpu"
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            while (job := ranks.hear()) is not None:
                kind = job[1]
                _train(*job)
        return 0
    except Exception as error:
        if ranks.lost(error):
            print(f"process {ranks.rank()}: another one ended, and so does this", file=sys.stderr)
        else:
            print(f"process {ranks.rank()}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    ranks.part(kind)
    if kind == "cpu":
        time.sleep(GRACE)
    return 1


def _train(request: Request, kind: str, precision: str) -> None:
    set_threads(request.device.threads)
    task = request.build_task()
    task.prepare()
    model, _ = build_model(request, task)
    fabric = ranks.fabric_together(kind, precision)
    nowhere = Checkpoint(Path(), "")  # the first process keeps it
    train(fabric.setup_module(model), task, request.training, fabric, nowhere, lambda point: None)
