"""One quality cell: builds the model, trains it, evaluates it, and writes its record last.

Every way to end becomes a record: a combination that is not supported, a loss that is not finite, memory that runs out,
an error. Exceptions are a request that cannot be met (UserError) and a folder that cannot be written (OSError).
"""

import traceback
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from attentions.base import Unsupported, core_parameters
from attentions.ops.short_convolution import ShortConvolution
from attentions.slots import Slots, is_stack
from cab.check.gate import gate
from cab.config import Request, user_errors
from cab.errors import UserError
from cab.machine import chosen_precision, free_memory, resolve_device
from cab.quality import distributed
from cab.quality.tracker import Tracker
from cab.quality.train import Trained, evaluate, train
from cab.store.checkpoint import Checkpoint
from cab.store.failure import cannot_write, failure
from cab.store.fingerprint import fingerprint
from cab.store.identity import quality_key
from cab.store.provenance import Clock, provenance
from cab.store.record import Status
from cab.store.store import Outcome, Store
from tasks.base import Source, Task
from tasks.data.progress import announced

EXCESS_LIMIT = 0.10
"""CAB's rule: the share of the backbone's parameters that an attention may add where no `hidden` makes up for it."""


def quality_cell(request: Request, module: str, overrides: Sequence[str]) -> Outcome:
    """The record of the cell, which is trained and evaluated if it is not done.

    Raises UserError for a request that cannot be met, and Busy if another process runs the cell.
    """
    clock = Clock()
    device = resolve_device(request.device.name)
    with user_errors():
        task = request.build_task()
        for setting in task.without_effect:
            if any(override.lstrip("+").startswith(f"{setting}=") for override in overrides):
                raise UserError(f"{setting}: has no effect on {task.name} in {request.pattern}: leave it out")
        source = task.prepare()
    check_memory(request, task, device)
    key = quality_key(request, device)
    store = Store(request.results, request.rerun)
    if record := store.state(key, source.content).record:
        store.remove_checkpoint_left_over(key, record)
        return Outcome(record, was_done=True)
    with store.claim(key, source.content) as state:
        if state.record:
            return Outcome(state.record, was_done=True)
        tracker = Tracker(request.tracking, key.cell, request.resolved, key.hash, request.results)
        checkpoint = store.checkpoint(key, _origin(request, task, source))
        status, reason, result = _run(request, task, source, device, checkpoint, tracker)
        classes = (request.family.func, type(task))
        origin = provenance(module, overrides, device, clock, classes)
        record = key.record(status, reason, request.resolved, result, origin)
        store.write(record)
    tracker.finish(record)
    return Outcome(record, was_done=False)


def check_memory(request: Request, task: Task, device: torch.device) -> None:
    """Raises UserError if a vocabulary is too large for a CPU's memory, where the system would end the process."""
    examples = request.training.micro_batch or request.training.batch
    need, have = 4 * task.vocabulary_numbers(examples), free_memory(device)
    if device.type == "cpu" and need > have:
        chosen = f"task.vocabulary={request.resolved['task'].get('vocabulary')}, train.micro_batch={examples}"
        sizes = f"needs {need / 1e9:,.1f} GB for it, {have / 1e9:,.1f} GB are free"
        raise UserError(f"{chosen}: a training step {sizes}: use a smaller one")


def _origin(request: Request, task: Task, source: Source) -> str:
    """What a checkpoint has in common with the run that resumes from it: the code that trains, torch and the data."""
    return f"{fingerprint(request.family.func, type(task), train)} {torch.__version__} {source.content}"


def _run(
    request: Request, task: Task, source: Source, device: torch.device, checkpoint: Checkpoint, tracker: Tracker
) -> tuple[Status, str, dict[str, Any]]:
    """Status, reason and result of the record. The result of a cell that failed is what was known by then."""
    result: dict[str, Any] = {"data": {"source": request.data.source, **asdict(source)}}
    try:
        model, result["model"] = build_model(request, task)
        status, reason = gate(request)
        if status != "ok":
            return status, reason, result
        precision = chosen_precision(request.device.precision, device)
        fabric = distributed.single_process_fabric(device, precision)
        wrapped = fabric.setup_module(model)
        if distributed.world_size() == 1:
            trained = train(wrapped, task, request.training, fabric, checkpoint, tracker.log)
        else:
            trained = _train_together(request, task, model, wrapped, device.type, precision, checkpoint, tracker)
        result |= {"curve": trained.curve, "training": _training(trained, request)}
        if trained.status != "ok":
            return trained.status, trained.reason, result
        test = evaluate(wrapped, task, "test", fabric.to_device)
        with announced("scoring predictors"):
            predictors = [asdict(predictor) for predictor in task.predictors()]
        result |= {
            "metrics": test.metrics,
            "headline": task.metrics[0].name,
            "better": {metric.name: metric.better for metric in task.metrics},
            "predictors": predictors,
            "tables": test.tables,
        }
        return "ok", "", result
    except UserError:
        raise
    except Exception as error:
        if cannot_write(error):
            raise
        status, reason = failure(error)
        if status == "error":
            traceback.print_exc()
        return status, reason, result


def _training(trained: Trained, request: Request) -> dict[str, Any]:
    return {
        "steps": trained.steps,
        "stopped_early": trained.stopped_early,
        "selected_step": trained.selected_step,
        "validation": trained.validation,
        "seconds": trained.seconds,
        "examples_per_second": trained.steps * request.training.batch / trained.seconds,
        "processes": distributed.world_size(),
    }


def build_model(request: Request, task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """The model with its initial weights, and what the record says about it.

    Raises Unsupported if the family cannot fill the slots, UserError for an option whose value does not fit.
    """
    slots = Slots(request.family, request.pattern)
    torch.manual_seed(request.seed)
    with user_errors():
        model = task.build(slots)
    if request.shape.conv and not any(isinstance(module, ShortConvolution) for module in model.modules()):
        raise UserError(
            f"model.conv={request.shape.conv}: the backbone of task={request.task} has no place for it: use 0"
        )
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
        "positions": positions(request),
        "state": slots.state,
    }
    return model, facts


def positions(request: Request) -> str:
    """How positions are told apart: what the family under test does, or what the task adds to the input."""
    if not request.shape.rotary:
        return f"input: {request.resolved['task'].get('positions', 'of the backbone')}"
    family = request.family.func
    return "none" if request.pattern.cross and not is_stack(request.family) else family.positions


def _train_together(
    request: Request,
    task: Task,
    model: nn.Module,
    alone: nn.Module,
    kind: str,
    precision: str,
    checkpoint: Checkpoint,
    tracker: Tracker,
) -> Trained:
    """Tells the other ranks what to train, and trains with them."""
    distributed.broadcast(distributed.TrainingJob(request, kind, precision))
    try:
        fabric = distributed.multi_process_fabric(kind, precision)
        return train(fabric.setup_module(model), task, request.training, fabric, checkpoint, tracker.log, alone)
    except Exception as error:
        distributed.abort(kind)
        if distributed.is_peer_failure(error):
            raise RuntimeError("another process of this cell ended: see its error in the output") from error
        raise
