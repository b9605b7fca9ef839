"""One training loop for every task.

AdamW without decay on vectors, linear warm-up, cosine decay, gradient clipping and accumulation, bfloat16 autocast,
checkpoints with exact resume. Devices and precision are left to Lightning Fabric. The loss is the mean over all targets
of the global batch, however that is divided into micro-batches and over processes.

Each of several processes (see cab.quality.distributed) takes its share of every batch, `micro_batch` examples at a
time. Gradients, losses and the statistics of attentions are summed over all processes, so that all have the same model
after every step. Each has its own random stream for dropout. Rank 0 evaluates and writes while the others wait, and its
model has the selected weights at the end (see cab.quality.selection).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from attentions.base import after_step
from cab.config import Training
from cab.quality.progress import Progress
from cab.quality.state import Point, TrainingState
from cab.store.checkpoint import Checkpoint
from tasks.base import Batch, Evaluation, Task

POINTS = 50
"""Points of the training curve."""


@dataclass(frozen=True)
class Trained:
    status: Literal["ok", "diverged"]
    reason: str
    curve: list[Point]
    seconds: float
    """Time in training steps alone, over all runs of a training that was resumed."""
    steps: int
    """Those that were run."""
    stopped_early: bool
    """Whether a validation reached `stop_at` before the last step."""
    selected_step: int | None
    """Where the weights that are tested are from; None where no validation was."""
    validation: float | None
    """The headline metric on validation at that step."""


def train(
    model: nn.Module,
    task: Task,
    training: Training,
    fabric: Fabric,
    checkpoint: Checkpoint,
    log: Callable[[Point], None],
    evaluation_model: nn.Module | None = None,
) -> Trained:
    """Trains a model that `fabric` has set up. Resumes from the checkpoint if there is one, and keeps it up to date.

    Rank 0 passes every point of the curve to `log`, first those from before an interruption. It does the validation,
    and ends with the selected weights in the model. Where there are several processes, it needs `evaluation_model` for
    that: the same model, set up for this process alone.
    """
    headline = task.metrics[0]
    state = TrainingState(model, training, fabric, headline)
    state.resume(checkpoint, task.seed)
    progress = Progress(state.step, training.steps, headline.name) if fabric.is_global_zero else None
    for point in state.curve if progress else ():  # from before an interruption
        log(point)
    all_reduce = distributed.all_reduce if fabric.world_size > 1 else None
    point_interval = max(1, training.steps // POINTS)
    validation_steps = {
        math.ceil(training.steps * i / training.validations) for i in range(1, training.validations + 1)
    }
    status: Literal["ok", "diverged"] = "ok"
    reason = ""
    reached = False

    model.train()
    state.start_timer()
    while state.step < training.steps and not reached:
        state.loss_sum += optimizer_step(model, task, training, fabric, state.optimizer, state.step)
        state.schedule.step()
        after_step(model, all_reduce)
        state.step += 1
        if state.step % point_interval == 0 or state.step in validation_steps:
            point = state.next_point()
            if not math.isfinite(point["loss"]):
                status, reason = "diverged", f"loss {point['loss']} at step {state.step}"
                break
            state.curve.append(point)
            if progress:
                if state.step in validation_steps:
                    evaluation = evaluate(evaluation_model or model, task, "validation", fabric.to_device)
                    point["validation"] = evaluation.metrics
                    reached = state.selection.update(state.step, evaluation.metrics[headline.name], model)
                log(point)
                progress.update(point)
            if training.stop_at is not None and state.step in validation_steps:
                reached = fabric.broadcast(reached)
            state.start_timer()
        if not reached:  # like the last step, the one that ends the training is run again by a training that resumes
            state.save_if_due(checkpoint)
    if progress:
        progress.close(reached)
    stopped_early = reached and state.step < training.steps
    selected = state.selection
    if status == "ok":
        selected.load_into(evaluation_model or model)
    return Trained(
        status, reason, state.curve, state.seconds, state.step, stopped_early, selected.step, selected.validation
    )


def optimizer_step(
    model: nn.Module, task: Task, training: Training, fabric: Fabric, optimizer: Optimizer, step: int
) -> Tensor:
    """One step over the global batch. Returns the mean loss over it, of several processes this one's part of the mean,
    without waiting for the device."""
    processes = fabric.world_size
    share = training.batch // processes
    micro = min(training.micro_batch or share, share)
    first = step * training.batch + fabric.global_rank * share
    batches = [task.batch("train", range(start, start + micro)) for start in range(first, first + share, micro)]
    targets: int | Tensor = sum(task.targets(batch) for batch in batches)
    if processes > 1:
        targets = torch.tensor(float(targets), device=fabric.device)
        distributed.all_reduce(targets)
    total = torch.zeros((), device=fabric.device)
    for index, batch in enumerate(batches):
        is_last = index == len(batches) - 1
        with fabric.no_backward_sync(model, enabled=processes > 1 and not is_last):  # type: ignore[arg-type]
            loss, auxiliary = task.loss(model, fabric.to_device(batch))
            mean = loss / targets
            # Gradients are averaged over processes, so the factor makes their sum.
            fabric.backward(processes * mean + auxiliary / len(batches))
        total += mean.detach()
    fabric.clip_gradients(model, optimizer, max_norm=training.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return total


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, split: Literal["validation", "test"], move: Callable[[Batch], Batch]
) -> Evaluation:
    """The task's evaluation in eval mode. The model returns to the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        return task.evaluate(model, split, move)
    finally:
        model.train(was_training)
