"""One training loop for every task.

AdamW (no decay on vectors), linear warm-up, cosine decay, clipping, gradient accumulation, bfloat16 autocast where
asked, checkpoints with exact resume. Devices and precision are Lightning Fabric's business. The mean of the loss is
taken over all targets of the global batch, however it is cut into micro-batches and over processes.

Of several processes (see cab.quality.distributed) each takes its share of every batch, `micro_batch` examples at a
time. Gradients, losses and the statistics of attentions are summed over all of them, so that every process holds the
same model after every step. Dropout has an own random stream in each. Rank 0 evaluates and writes while the others
wait.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from tqdm import tqdm

from attentions.base import after_step
from cab.config import Training
from cab.store import checkpoint
from tasks.base import Batch, Task

LOG_LINES = 10
"""Lines per training in a log that is no terminal."""
POINTS = 50
"""Points of the loss curve."""
LOOK = 10
"""Steps after which several processes agree on whether a checkpoint is due; one process looks at every step."""

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
    kept: checkpoint.Checkpoint,
    log: Callable[[Point], None],
    alone: nn.Module | None = None,
) -> Trained:
    """Trains a model that `fabric` has set up. The checkpoint is continued from if there is one, and
    kept up to date.

    `log` gets every point of the curve: step, loss (mean since the last point), learning_rate, seconds and, at some
    steps, validation metrics. Where there are several processes, it is for the first one only, as is `alone`: the same
    model, set up for this process alone.
    """
    optimizer, schedule = make_optimizer(model, training)
    optimizer = fabric.setup_optimizers(optimizer)  # type: ignore[assignment]
    every = max(1, training.steps // POINTS)
    validate_at = {math.ceil(training.steps * i / training.validations) for i in range(1, training.validations + 1)}
    move: Callable[[Batch], Batch] = fabric.to_device
    step, seconds, curve, summed = 0, 0.0, [], torch.zeros((), device=fabric.device)

    first = fabric.is_global_zero
    state = fabric.broadcast(kept.load() if first else None)
    random = state["random"] if state else []
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, seconds, curve = state["step"], state["seconds"], state["curve"]
        summed += _own_share(state["losses"], fabric)
        if first:
            print(f"continues at step {step:,} of {training.steps:,}")
    if len(random) == fabric.world_size:
        checkpoint.restore_random_state(random[fabric.global_rank], fabric.device)
    elif random or fabric.world_size > 1:
        checkpoint.seed_process(task.seed, fabric.global_rank, step)
        if random and first:
            print(f"it was trained by {len(random)} processes, now by {fabric.world_size}: dropout is drawn anew")

    progress = Progress(step, training.steps) if first else None
    add_up = distributed.all_reduce if fabric.world_size > 1 else None
    model.train()
    logged = curve[-1]["step"] if curve else 0
    saved = started = time.monotonic()
    while step < training.steps:
        summed += optimizer_step(model, task, training, fabric, optimizer, step, move)
        schedule.step()
        after_step(model, add_up)
        step += 1
        if step % every == 0 or step in validate_at:
            if add_up:
                add_up(summed)
            loss = summed.item() / (step - logged)  # the host waits for the device here, and for a checkpoint
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
                if progress:
                    progress.close()
                return Trained("diverged", f"loss {loss} at step {step}", curve, seconds)
            if step in validate_at and first:
                point["validation"] = evaluate(model if alone is None else alone, task, "validation", move).metrics
            curve.append(point)
            if progress:
                log(point)
                progress.update(point, task.metrics[0].name)
            started = time.monotonic()
        if step == training.steps or (fabric.world_size > 1 and step % LOOK):
            continue
        if fabric.broadcast(time.monotonic() - saved >= training.checkpoint_seconds):
            losses, random = _of_all(summed.item(), fabric), _of_all(checkpoint.random_state(fabric.device), fabric)
            seconds += time.monotonic() - started
            if first:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                }
                state |= {"random": random, "losses": losses, "step": step, "seconds": seconds, "curve": curve}
                kept.save(state)
            saved = started = time.monotonic()
    if progress:
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
    """One step over the global batch; returns its mean loss without waiting for the device: of several processes, the
    part of it that is this one's."""
    processes = fabric.world_size
    share = training.batch // processes
    first, micro = step * training.batch + fabric.global_rank * share, min(training.micro_batch or share, share)
    batches = [task.batch("train", range(start, start + micro)) for start in range(first, first + share, micro)]
    targets: int | Tensor = sum(task.targets(batch) for batch in batches)
    if processes > 1:
        targets = torch.tensor(float(targets), device=fabric.device)
        distributed.all_reduce(targets)
    total = torch.zeros((), device=fabric.device)
    for last, batch in zip(range(1 - len(batches), 1), batches, strict=True):
        with fabric.no_backward_sync(model, enabled=processes > 1 and last < 0):  # type: ignore[arg-type]
            loss, auxiliary = task.loss(model, move(batch))
            mean = loss / targets
            fabric.backward(processes * mean + auxiliary / len(batches))  # averaged over the processes
        total += mean.detach()
    fabric.clip_gradients(model, optimizer, max_norm=training.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return total


def _of_all(own: Any, fabric: Fabric) -> list[Any]:
    """One from each process, in order."""
    found = [own] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(found, own)
    return found


def _own_share(losses: list[float], fabric: Fabric) -> float:
    """What this process had added up since the last point; of another number of processes, the first takes all."""
    if len(losses) == fabric.world_size:
        return losses[fabric.global_rank]
    return sum(losses) if fabric.is_global_zero else 0.0


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
