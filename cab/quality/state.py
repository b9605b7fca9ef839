"""The state of a training under way: what changes from step to step, and how a checkpoint keeps it.

Rank 0 reads and writes the file. A checkpoint has the random state of every process and the losses that each has added
up since the last point of the curve, so that a training that is resumed by as many processes gives the same numbers bit
for bit. With another number of processes it is resumed with new random streams.
"""

import copy
import time
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import distributed, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from cab.config import Training
from cab.quality.selection import Selection
from cab.store import checkpoint
from cab.store.checkpoint import Checkpoint
from tasks.base import Metric

BROADCAST_INTERVAL = 10
"""Steps after which several processes agree on whether a checkpoint is due. One process looks at every step."""

Point = dict[str, Any]
"""A point of the training curve: step, loss, learning_rate, seconds and, at some steps, validation metrics."""


class TrainingState:
    """`model` is one that `fabric` has set up."""

    def __init__(self, model: nn.Module, training: Training, fabric: Fabric, metric: Metric) -> None:
        """`metric` is the task's headline."""
        self.model, self.training, self.fabric = model, training, fabric
        optimizer, self.schedule = make_optimizer(model, training)
        self.optimizer: Optimizer = fabric.setup_optimizers(optimizer)  # type: ignore[assignment]
        self.step = 0
        self.seconds = 0.0
        """Time in training steps alone, over all runs of a training that was resumed."""
        self.curve: list[Point] = []
        self.loss_sum = torch.zeros((), device=fabric.device)
        """Losses of this process since the last point of the curve."""
        self.selection = Selection(training, metric)
        self._timer_start = self._last_save = time.monotonic()

    def start_timer(self) -> None:
        self._timer_start = time.monotonic()

    def stop_timer(self) -> None:
        self.seconds += time.monotonic() - self._timer_start

    def next_point(self) -> Point:
        """The next point of the curve, with the mean loss since the last one. Waits for the device; stops the timer."""
        if self.fabric.world_size > 1:
            distributed.all_reduce(self.loss_sum)
        last_step = self.curve[-1]["step"] if self.curve else 0
        loss = self.loss_sum.item() / (self.step - last_step)
        self.stop_timer()
        self.loss_sum.zero_()
        learning_rate = self.schedule.get_last_lr()[0]
        return {"step": self.step, "loss": loss, "learning_rate": learning_rate, "seconds": round(self.seconds, 3)}

    def resume(self, file: Checkpoint, seed: int) -> None:
        """Loads the checkpoint, if there is one, and gives every process its random state."""
        fabric = self.fabric
        saved = fabric.broadcast(file.load() if fabric.is_global_zero else None)
        if saved is not None and not self._fits(saved):
            if fabric.is_global_zero:
                file.set_aside("no state of this training")
            saved = None
        if saved is None:
            if fabric.world_size > 1:
                checkpoint.seed_process(seed, fabric.global_rank, 0)
            return
        processes = len(saved["random"])
        if fabric.is_global_zero:
            print(f"continues at step {self.step:,} of {self.training.steps:,}")
            if processes != fabric.world_size:
                print(f"it was trained by {processes} processes, now by {fabric.world_size}: other dropout masks")
        if processes != fabric.world_size:
            checkpoint.seed_process(seed, fabric.global_rank, self.step)

    def _fits(self, saved: dict[str, Any]) -> bool:
        """Loads a state; if that fails on rank 0, everything is again as it was before."""
        before = copy.deepcopy(self._state([self.loss_sum.item()], [checkpoint.random_state(self.fabric.device)]))
        fits = True
        try:
            self._load(saved)
        except Exception:  # of a file with the right digest that this program did not write
            fits = False
        if not self.fabric.broadcast(fits):
            self._load(before)
            return False
        return True

    def _load(self, saved: dict[str, Any]) -> None:
        fabric = self.fabric
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.step, self.seconds, self.curve = int(saved["step"]), float(saved["seconds"]), list(saved["curve"])
        if fabric.is_global_zero:
            self.selection.load_state_dict(saved["selection"])
        together = len(saved["random"]) == fabric.world_size
        losses = saved["losses"][fabric.global_rank] if together else sum(saved["losses"])
        self.loss_sum.fill_(losses if together or fabric.is_global_zero else 0.0)
        if together:
            checkpoint.restore_random_state(saved["random"][fabric.global_rank], fabric.device)

    def save_if_due(self, file: Checkpoint) -> None:
        """Saves a checkpoint every `training.checkpoint_seconds`, but not after the last step."""
        if not self._save_is_due():
            return
        losses = self._gather(self.loss_sum.item())  # waits for the device
        random = self._gather(checkpoint.random_state(self.fabric.device))
        self.stop_timer()
        if self.fabric.is_global_zero:
            file.save(self._state(losses, random))
        self.start_timer()
        self._last_save = self._timer_start

    def _state(self, losses: list[float], random: list[dict[str, Any]]) -> dict[str, Any]:
        """What a checkpoint keeps, given the losses and random states of all processes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random,
            "losses": losses,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "selection": self.selection.state_dict(),
        }

    def _save_is_due(self) -> bool:
        """The same answer on all ranks, by the clock of rank 0."""
        seconds = self.training.checkpoint_seconds
        interval = BROADCAST_INTERVAL if self.fabric.world_size > 1 and seconds > 0 else 1
        if self.step == self.training.steps or self.step % interval:
            return False
        return self.fabric.broadcast(time.monotonic() - self._last_save >= seconds)

    def _gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order."""
        values = [value] * self.fabric.world_size
        if self.fabric.world_size > 1:
            distributed.all_gather_object(values, value)
        return values


def make_optimizer(model: nn.Module, training: Training) -> tuple[Optimizer, LRScheduler]:
    """AdamW with weight decay on matrices only; linear warm-up, then cosine decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=training.lr, betas=(training.betas[0], training.betas[1]), fused=True)
    warmup = LinearLR(optimizer, 1 / (training.warmup + 1), total_iters=training.warmup)
    decay = CosineAnnealingLR(optimizer, training.steps - training.warmup, eta_min=training.lr * training.final_lr)
    return optimizer, SequentialLR(optimizer, [warmup, decay], milestones=[training.warmup])
