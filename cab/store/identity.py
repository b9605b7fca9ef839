"""What identifies a cell: everything that decides its numbers, and nothing else.

The hash of an identity names the cell's folder (see cab.store.record).
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cab.config import Request
from cab.machine import chosen_precision, device_name
from cab.store.record import Kind, Record, Status, identity_hash


@dataclass(frozen=True)
class CellKey:
    """Identifies one cell of a results folder."""

    kind: Kind
    cell: dict[str, Any]
    """What people filter by (see cab.store.record)."""
    identity: dict[str, Any]

    @property
    def hash(self) -> str:
        return identity_hash(self.identity)

    def record(
        self, status: Status, reason: str, config: dict[str, Any], result: dict[str, Any], provenance: dict[str, Any]
    ) -> Record:
        return Record(self.kind, status, self.cell, self.identity, reason, result, config, provenance)


def quality_key(request: Request, device: torch.device) -> CellKey:
    """The quality cell of a request. Threads, logger, micro-batch and git revision do not count; of the device, only
    the precision does."""
    cell = {
        "attention": request.attention,
        "pattern": str(request.pattern),
        "task": request.task,
        "size": request.size,
        "seed": request.seed,
    }
    identity = {
        "attention": {"name": request.attention, **request.resolved["attention"]},
        "pattern": str(request.pattern),
        "task": {"name": request.task, **request.resolved["task"]},
        "data": request.resolved["data"],
        "size": request.size,
        "model": asdict(request.shape),
        "train": request.training.identity(),
        "precision": chosen_precision(request.device.precision, device),
        "seed": request.seed,
    }
    return CellKey("quality", cell, identity)


def efficiency_key(request: Request, device: torch.device, allocator: str) -> CellKey:
    """The efficiency cell of a request: the family, the workload and the machine. `allocator` is what
    cab.machine.set_allocator returns."""
    cell = {
        "attention": request.attention,
        "pattern": str(request.pattern),
        "level": request.efficiency.level,
        "dim": request.shape.dim,
        "heads": request.shape.heads,
        "depth": request.shape.depth,
        "hidden": request.shape.hidden,
        "conv": request.shape.conv,
        "qk_norm": request.shape.qk_norm,
        "rotary": request.shape.rotary,
        "device": device_name(device),
        "precision": chosen_precision(request.device.precision, device),
    }
    identity = {
        **cell,
        "attention": {"name": request.attention, **request.resolved["attention"]},
        **asdict(request.efficiency),
        "threads": request.device.threads or torch.get_num_threads(),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "torch": torch.__version__,
        "allocator": allocator,
    }
    return CellKey("efficiency", cell, identity)
