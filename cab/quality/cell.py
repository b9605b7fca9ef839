"""One quality cell: builds the model, trains it, evaluates it, and writes its record last.

Whatever happens after the request has been understood becomes a record: a combination that cannot be built, a loss that
is not finite, memory that runs out, an error. Only an impossible request (UserError) leaves none.
"""

import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attentions.base import Unsupported, core_parameters
from attentions.slots import Slots
from cab.check.gate import gate
from cab.config import Request, user_errors
from cab.errors import UserError
from cab.machine import chosen_precision, resolve_device
from cab.quality import distributed
from cab.quality.tracker import Tracker
from cab.quality.train import Trained, evaluate, train
from cab.store import checkpoint
from cab.store.failure import cannot_write, failure
from cab.store.fingerprint import fingerprint
from cab.store.identity import quality_identity, recorded, same_data
from cab.store.lock import Busy, cell_lock
from cab.store.provenance import provenance
from cab.store.record import RECORD, Record, Status, identity_hash, record_path, remove_unfinished
from tasks.base import Source, Task

EXCESS_LIMIT = 0.10
"""CAB's rule: an attention may add at most this share of the backbone's parameters, where nothing can be solved for."""


def quality_cell(request: Request, module: str, overrides: Sequence[str]) -> tuple[Record, bool]:
    """The cell's record, and whether it was there already.

    Raises UserError for a request that cannot be met, Busy if another process is at it.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    device = resolve_device(request.device.name)
    with user_errors():
        task = request.build_task()
        source = task.prepare()
    identity = quality_identity(request, device)
    path = record_path(request.results, "quality", identity_hash(identity)).with_name(checkpoint.NAME)
    if known := _known(request, identity, source):
        if path.exists():
            with suppress(Busy), cell_lock(path.parent):
                _remove_left(path)
        return known, True
    with cell_lock(path.parent):
        if known := _known(request, identity, source):  # of another process, meanwhile
            return known, True
        remove_unfinished(path.parent)
        _remove_left(path)
        cell = {
            "attention": request.attention,
            "pattern": str(request.pattern),
            "task": request.task,
            "size": request.size,
            "seed": request.seed,
        }
        tracker = Tracker(request.tracking, cell, request.resolved, path.parent.name, request.results)
        result: dict[str, Any] = {"data": {"source": request.data.source, **asdict(source)}}
        status: Status = "ok"
        reason = ""
        try:
            kept = checkpoint.Checkpoint(path, _origin(request, task, source))
            status, reason = _train_and_evaluate(request, task, device, kept, tracker, result)
        except UserError:
            raise
        except Exception as error:
            if cannot_write(error):
                raise
            status, reason = failure(error)
            if status == "error":
                traceback.print_exc()
        record = Record(
            kind="quality",
            status=status,
            reason=reason,
            cell=cell,
            identity=identity,
            config=request.resolved,
            result=result,
            provenance=provenance(module, overrides, device, started, time.monotonic() - clock),
        )
        record.write(request.results)
        path.unlink(missing_ok=True)
    tracker.finish(record)
    return record, False


def _known(request: Request, identity: dict[str, Any], source: Source) -> Record | None:
    """The record of the cell, if it is of this data."""
    if (known := recorded(request, "quality", identity)) and not same_data(known, source.content):
        print("the data changed since this cell was recorded: it runs again")
        return None
    return known


def _origin(request: Request, task: Task, source: Source) -> str:
    """What a checkpoint must share with the run that goes on from it: the code that trains, torch, data."""
    return f"{fingerprint(request.family.func, type(task), train)} {torch.__version__} {source.content}"


def _remove_left(path: Path) -> None:
    """A checkpoint older than the record: its run was killed right after it wrote that, and nothing goes on from it."""
    record = path.with_name(RECORD)
    if path.exists() and record.exists() and path.stat().st_mtime_ns <= record.stat().st_mtime_ns:
        path.unlink()


def build_model(request: Request, task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """The model with its initial weights, and the record's facts about it.

    Raises Unsupported where the family cannot fill the slots, UserError where an option's value cannot be.
    """
    slots = Slots(request.family, request.pattern)
    torch.manual_seed(request.seed)
    with user_errors():
        model = task.build(slots)
    core = core_parameters(model)
    if slots.excess > EXCESS_LIMIT * (core - slots.excess):
        share = slots.excess / (core - slots.excess)
        raise Unsupported(f"adds {share:.0%} of the backbone's parameters, at most {EXCESS_LIMIT:.0%} is allowed")
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "core_parameters": core,
        "slots": slots.took,
        "hidden": slots.hidden,
        "excess": slots.excess,
    }
    return model, facts


def _train_and_evaluate(
    request: Request,
    task: Task,
    device: torch.device,
    kept: checkpoint.Checkpoint,
    tracker: Tracker,
    result: dict[str, Any],
) -> tuple[Status, str]:
    """Fills `result` step by step, so that what is known of a failed cell is kept."""
    model, result["model"] = build_model(request, task)
    status, reason = gate(request)
    if status != "ok":
        return status, reason
    precision = chosen_precision(request.device.precision, device)
    fabric = distributed.single_process_fabric(device, precision)
    wrapped = fabric.setup_module(model)
    if distributed.world_size() == 1:
        trained = train(wrapped, task, request.training, fabric, kept, tracker.log)
    else:
        trained = _train_together(request, task, model, wrapped, device.type, precision, kept, tracker)
    examples = request.training.steps * request.training.batch
    result["curve"] = trained.curve
    result["training"] = {
        "steps": request.training.steps,
        "seconds": trained.seconds,
        "examples_per_second": examples / trained.seconds,
        "processes": distributed.world_size(),
    }
    if trained.status != "ok":
        return trained.status, trained.reason
    test = evaluate(wrapped, task, "test", fabric.to_device)
    trivial = task.trivial()
    result |= {
        "metrics": test.metrics,
        "headline": task.metrics[0].name,
        "better": {metric.name: metric.better for metric in task.metrics},
        "trivial": asdict(trivial),
        "tables": test.tables,
    }
    return "ok", ""


def _train_together(
    request: Request,
    task: Task,
    model: nn.Module,
    alone: nn.Module,
    kind: str,
    precision: str,
    kept: checkpoint.Checkpoint,
    tracker: Tracker,
) -> Trained:
    """Tells the other ranks what to train, and trains with them."""
    distributed.broadcast(distributed.TrainingJob(request, kind, precision))
    try:
        fabric = distributed.multi_process_fabric(kind, precision)
        return train(fabric.setup_module(model), task, request.training, fabric, kept, tracker.log, alone)
    except Exception as error:
        distributed.abort(kind)
        if distributed.is_peer_failure(error):
            raise RuntimeError("another process of this cell ended: see its error in the output") from error
        raise
