"""What ranks other than 0 do (see cab.quality.distributed): they take part in one training after the other. Decisions,
output and files are rank 0's."""

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

from cab.machine import set_threads
from cab.quality import distributed
from cab.quality.cell import build_model
from cab.quality.distributed import TrainingJob
from cab.quality.train import train
from cab.store.checkpoint import Checkpoint

GRACE_SECONDS = 15.0
"""Delay before the process ends after a failure: `torchrun` then ends rank 0, which first has to write a record."""


def run_worker() -> int:
    """Trains what rank 0 broadcasts until it broadcasts None; returns an exit code."""
    device_type = "cpu"
    try:
        with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
            while True:
                job = distributed.broadcast()
                if job is None:
                    return 0
                device_type = job.device_type
                _train(job)
    except Exception as error:
        if distributed.is_peer_failure(error):
            message = "ended because another process ended"
        else:
            message = f"failed:\n{traceback.format_exc()}"
        print(f"rank {distributed.rank()} {message}", file=sys.stderr, flush=True)
    distributed.abort(device_type)
    if device_type == "cpu":
        time.sleep(GRACE_SECONDS)
    return 1


def _train(job: TrainingJob) -> None:
    set_threads(job.request.device.threads)
    task = job.request.build_task()
    task.prepare()
    model, _ = build_model(job.request, task)
    fabric = distributed.multi_process_fabric(job.device_type, job.precision)
    unused = Checkpoint(Path(), "")  # rank 0 loads and saves
    train(fabric.setup_module(model), task, job.request.training, fabric, unused, lambda point: None)
