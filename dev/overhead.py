"""Measures the overhead of the training loop: `python -m dev.overhead [task=lm attention=vanilla ...]`.

Trains the same model with the project's loop and with the shortest loop that does the same work, in turns, in one
process. Prints the ratio of each pair, their median and their range. Takes the overrides of `cab.run`.
"""

import contextlib
import io
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import nn

from cab.command import command_line
from cab.compose import compose_requests
from cab.config import Request
from cab.machine import set_allocator
from cab.quality.cell import build_model
from cab.quality.distributed import single_process_fabric
from cab.quality.state import make_optimizer
from cab.quality.train import train
from cab.store.checkpoint import Checkpoint
from cab.store.lock import locked_device
from tasks.base import Task

STEPS, PAIRS = 40, 7
CPU = torch.device("cpu")


def time_bare_loop(model: nn.Module, task: Task, request: Request) -> float:
    """Seconds of the shortest loop."""
    start = time.perf_counter()
    training = request.training
    optimizer, schedule = make_optimizer(model, training)
    model.train()
    for step in range(training.steps):
        batch = task.batch("train", range(step * training.batch, (step + 1) * training.batch))
        loss, _ = task.loss(model, batch)
        (loss / task.targets(batch)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return time.perf_counter() - start


def time_project_loop(model: nn.Module, task: Task, request: Request) -> float:
    """Seconds of the project's loop, without validation."""
    fabric = single_process_fabric(CPU, "float32")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        checkpoint = Checkpoint(Path(folder) / "checkpoint.pt", "")
        return train(fabric.setup_module(model), task, request.training, fabric, checkpoint, lambda point: None).seconds


def work() -> int:
    [request] = compose_requests(sys.argv[1:])
    warmup = min(request.training.warmup, STEPS - 1)
    request = replace(request, training=replace(request.training, steps=STEPS, warmup=warmup, validations=1))
    set_allocator()
    task = request.build_task()
    task.prepare()
    ratios = []
    with locked_device(CPU):
        for index in range(1 + PAIRS):
            bare = time_bare_loop(build_model(request, task)[0], task, request)
            ours = time_project_loop(build_model(request, task)[0], task, request)
            if index == 0:
                continue  # the first pair warms up
            ratios.append(ours / bare)
            times = f"bare {1e3 * bare / STEPS:6.2f} ms a step, ours {1e3 * ours / STEPS:6.2f}"
            print(f"{times}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"ratio: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, {PAIRS} pairs of {STEPS} steps")
    return 0


if __name__ == "__main__":
    sys.exit(command_line(work))
