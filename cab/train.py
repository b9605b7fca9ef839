"""One training loop for every task.

AdamW (no decay on vectors), linear warm-up, cosine decay, clipping, gradient accumulation, bfloat16 autocast where
asked, checkpoints with exact resume. Devices and precision are Lightning Fabric's business. The mean of the loss is
taken over all targets of the global batch, however it is cut into micro-batches.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from tqdm import tqdm

from attentions.base import after_step
from cab import checkpoint
from cab.config import Training
from tasks.base import Batch, Task

LOG_LINES = 10
"""Lines per training in a log that is no terminal."""
POINTS = 50
"""Points of the loss curve."""
CHECKPOINT_SECONDS = 20.0

Point = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    status: Literal["ok", "diverged"]
    reason: str
    curve: list[Point]
    seconds: float
    """Time in training steps alone, over all runs that a resumed training took."""


def train(
    model: nn.Module,
    task: Task,
    training: Training,
    fabric: Fabric,
    path: Path,
    log: Callable[[Point], None],
) -> Trained:
    """Trains a model that `fabric` has set up. A checkpoint at `path` is continued from, and kept up to date.

    `log` gets every point of the curve: step, loss (mean since the last point), learning_rate, seconds and, at some
    steps, validation metrics.
    """
    optimizer, schedule = make_optimizer(model, training)
    optimizer = fabric.setup_optimizers(optimizer)  # type: ignore[assignment]
    every = max(1, training.steps // POINTS)
    validate_at = {math.ceil(training.steps * i / training.validations) for i in range(1, training.validations + 1)}
    move: Callable[[Batch], Batch] = fabric.to_device
    step, seconds, curve, summed = 0, 0.0, [], torch.zeros((), device=fabric.device)

    if state := checkpoint.load(path, fabric.device):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        checkpoint.restore_random_state(state["random"])
        step, seconds, curve = state["step"], state["seconds"], state["curve"]
        print(f"continues at step {step:,} of {training.steps:,}")

    progress = Progress(step, training.steps)
    model.train()
    logged, saved, started = step, time.monotonic(), time.monotonic()
    while step < training.steps:
        summed += optimizer_step(model, task, training, fabric, optimizer, step, move)
        schedule.step()
        after_step(model)
        step += 1
        if step % every and step not in validate_at:
            continue
        loss = summed.item() / (step - logged)  # the only place where the host waits for the device
        seconds += time.monotonic() - started
        point: Point = {
            "step": step,
            "loss": loss,
            "learning_rate": schedule.get_last_lr()[0],
            "seconds": round(seconds, 3),
        }
        logged = step
        summed.zero_()
        if not math.isfinite(loss):
            progress.close()
            return Trained("diverged", f"loss {loss} at step {step}", curve, seconds)
        if step in validate_at:
            point["validation"] = evaluate(model, task, "validation", move).metrics
        curve.append(point)
        log(point)
        progress.update(point, task.metrics[0].name)
        if time.monotonic() - saved > CHECKPOINT_SECONDS and step < training.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            state |= {"random": checkpoint.random_state(), "step": step, "seconds": seconds, "curve": curve}
            checkpoint.save(path, state)
            saved = time.monotonic()
        started = time.monotonic()
    progress.close()
    return Trained("ok", "", curve, seconds)


def optimizer_step(
    model: nn.Module,
    task: Task,
    training: Training,
    fabric: Fabric,
    optimizer: Optimizer,
    step: int,
    move: Callable[[Batch], Batch],
) -> Tensor:
    """One step over the global batch; returns its mean loss without waiting for the device."""
    first, micro = step * training.batch, training.micro_batch or training.batch
    batches = [
        task.batch("train", range(start, start + micro)) for start in range(first, first + training.batch, micro)
    ]
    targets = sum(task.targets(batch) for batch in batches)
    total = torch.zeros((), device=fabric.device)
    for batch in batches:
        loss, auxiliary = task.loss(model, move(batch))
        fabric.backward(loss / targets + auxiliary / len(batches))
        total += loss.detach() / targets
    fabric.clip_gradients(model, optimizer, max_norm=training.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return total


def make_optimizer(model: nn.Module, training: Training) -> tuple[Optimizer, LRScheduler]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=training.lr, betas=(training.betas[0], training.betas[1]), fused=True)
    rise = LinearLR(optimizer, 1 / (training.warmup + 1), total_iters=training.warmup)
    fall = CosineAnnealingLR(optimizer, training.steps - training.warmup, eta_min=training.lr * training.final_lr)
    return optimizer, SequentialLR(optimizer, [rise, fall], milestones=[training.warmup])


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, split: Literal["validation", "test"], move: Callable[[Batch], Batch]) -> Any:
    """The task's Evaluation; the model is put back into the mode it was in."""
    before = model.training
    model.eval()
    try:
        return task.evaluate(model, split, move)
    finally:
        model.train(before)


class Progress:
    """A bar on a terminal; in a log a line now and then."""

    def __init__(self, step: int, steps: int) -> None:
        self.steps, self.shown = steps, step
        self.bar = tqdm(total=steps, initial=step, unit="step", leave=False) if sys.stderr.isatty() else None

    def update(self, point: Point, headline: str) -> None:
        text = f"loss {point['loss']:.3f}"
        if "validation" in point:
            text += f", validation {headline} {point['validation'][headline]:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(point["step"] - self.bar.n)
        elif point["step"] - self.shown >= self.steps / LOG_LINES or point["step"] == self.steps:
            print(f"  step {point['step']:,} of {self.steps:,}, {point['seconds']:.0f} s, {text}", flush=True)
            self.shown = point["step"]

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
