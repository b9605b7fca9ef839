"""What the training loop costs over a bare one: `python -m dev.overhead [task=lm attention=vanilla ...]`.

The same model, data and optimiser in the project's loop and in the shortest loop that does the same work, in turns, in
one process. Prints each pair's ratio, their median and range. Takes the overrides of `cab.run`.
"""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from lightning_fabric import Fabric
from torch import nn

from cab.command import command_line
from cab.compose import compose_requests
from cab.config import Request
from cab.machine import set_allocator
from cab.quality.cell import build_model
from cab.quality.train import make_optimizer, train
from cab.store.checkpoint import Checkpoint
from cab.store.lock import measuring
from tasks.base import Task

STEPS, PAIRS = 40, 7


def bare_loop(model: nn.Module, task: Task, request: Request) -> None:
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


def project_loop(model: nn.Module, task: Task, request: Request) -> float:
    fabric = Fabric(accelerator="cpu", devices=1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        kept = Checkpoint(Path(folder) / "checkpoint.pt", "")
        return train(fabric.setup_module(model), task, request.training, fabric, kept, lambda point: None).seconds


def pair(request: Request, task: Task) -> tuple[float, float]:
    """Seconds of training by the bare loop and by the project's, validation not counted."""
    model, _ = build_model(request, task)
    clock = time.perf_counter()
    bare_loop(model, task, request)
    bare = time.perf_counter() - clock
    model, _ = build_model(request, task)
    return bare, project_loop(model, task, request)


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> int:
        [request] = compose_requests(sys.argv[1:] if arguments is None else arguments)
        warmup = min(request.training.warmup, STEPS - 1)
        request = replace(request, training=replace(request.training, steps=STEPS, warmup=warmup, validations=1))
        set_allocator()
        task = request.build_task()
        task.prepare()
        ratios = []
        with measuring(torch.device("cpu")):
            pair(request, task)  # warms up
            for _ in range(PAIRS):
                bare, ours = pair(request, task)
                ratios.append(ours / bare)
                print(
                    f"bare {1e3 * bare / STEPS:6.2f} ms a step, ours {1e3 * ours / STEPS:6.2f}, ratio {ratios[-1]:.3f}",
                    flush=True,
                )
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"ratio: median {median(ratios):.3f}, {spread}, {PAIRS} pairs of {STEPS} steps")
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
