"""What decides a cell's numbers, and whether it is done: the one place that says which records need not be made again.

The hash of an identity names the record (see cab.store.record). Light to import: a sweep asks for hundreds of cells
that are done before it trains any.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from cab.config import Request
from cab.machine import chosen_precision, device_name
from cab.store.record import Kind, Record, find_record, identity_hash

MEASURED = ("ok", "diverged")
"""Statuses of a quality cell whose cost is measured too."""


def title(request: Request) -> str:
    """What a command line calls the cell."""
    return f"{request.attention} · {request.pattern} · {request.task} · {request.size} · seed {request.seed}"


def quality_identity(request: Request, device: torch.device) -> dict[str, Any]:
    """What decides a quality number: not the device, threads, logger, micro-batch or git revision."""
    return {
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


def efficiency_identity(request: Request, device: torch.device, allocator: str) -> dict[str, Any]:
    """What decides a measurement: the family, the work, the machine."""
    return {
        **efficiency_cell(request, device),
        "attention": {"name": request.attention, **request.resolved["attention"]},
        **asdict(request.efficiency),
        "threads": torch.get_num_threads(),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "torch": torch.__version__,
        "allocator": allocator,
    }


def efficiency_cell(request: Request, device: torch.device) -> dict[str, Any]:
    shape = request.shape
    return {
        "attention": request.attention,
        "pattern": str(request.pattern),
        "level": request.efficiency.level,
        "dim": shape.dim,
        "heads": shape.heads,
        "depth": shape.depth,
        "hidden": shape.hidden,
        "device": device_name(device),
        "precision": chosen_precision(request.device.precision, device),
    }


def recorded(request: Request, kind: Kind, identity: Mapping[str, Any]) -> Record | None:
    """The record that this request need not make again; one of quality only if it is of the `same_data`."""
    known = None if request.rerun else find_record(request.results, kind, identity_hash(identity))
    return known if known and known.final else None


def same_data(record: Record, content: str) -> bool:
    """Whether a quality record is of the data with this content; a record that ended before it saw any is."""
    return bool(record.result.get("data", {}).get("content", content) == content)
