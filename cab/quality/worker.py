"""What a process other than rank 0 does (see cab.quality.distributed): it takes part in the training of one cell after
the other, and leaves decisions, output and files to rank 0."""

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from cab.config import Request
from cab.machine import set_threads
from cab.quality import distributed
from cab.quality.cell import build_model
from cab.quality.train import train
from cab.store.checkpoint import Checkpoint

GRACE = 15.0
"""Seconds before the process ends after a failure: `torchrun` then ends the first one, which has a record to write."""


def lend() -> int:
    """Trains what it hears of until there is nothing left; returns an exit code."""
    kind = "cpu"
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            while (job := distributed.hear()) is not None:
                kind = job[1]
                _train(*job)
        return 0
    except Exception as error:
        if distributed.lost(error):
            print(f"process {distributed.rank()}: another one ended, and so does this", file=sys.stderr)
        else:
            print(f"process {distributed.rank()}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    distributed.part(kind)
    if kind == "cpu":
        time.sleep(GRACE)
    return 1


def _train(request: Request, kind: str, precision: str) -> None:
    set_threads(request.device.threads)
    task = request.build_task()
    task.prepare()
    model, _ = build_model(request, task)
    fabric = distributed.fabric_together(kind, precision)
    nowhere = Checkpoint(Path(), "")  # the first process keeps it
    train(fabric.setup_module(model), task, request.training, fabric, nowhere, lambda point: None)
