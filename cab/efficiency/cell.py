"""Efficiency cells: time, memory, FLOPs and state of families of one shape and pattern, measured beside the baselines.

All families of one call are measured in one process, in rounds with the baselines (see cab.efficiency.sweep), and each
gets a record of its own. Efficiency does not depend on data or seed.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from attentions.eager import Eager
from attentions.slots import Family
from attentions.vanilla import Vanilla
from cab.check.gate import gate
from cab.config import Request
from cab.efficiency.efficiency_length import ROUNDS
from cab.efficiency.plan import Plan
from cab.efficiency.sweep import sweep
from cab.errors import UserError
from cab.machine import chosen_precision, gemm_gflops, resolve_device, set_allocator, set_threads
from cab.store.identity import efficiency_key
from cab.store.lock import locked_device
from cab.store.provenance import Clock, provenance
from cab.store.record import Record, Status
from cab.store.store import Outcome, Store

BASELINES: dict[str, Family] = {"vanilla": partial(Vanilla), "eager": partial(Eager)}


def efficiency_cells(requests: Sequence[Request], module: str, overrides: Sequence[str]) -> list[Outcome]:
    """The records of requests that differ in their family only, in the same order. Measures those that are not done.

    Waits while another process measures one of them, or anything else on the same device of this machine.
    """
    set_threads(requests[0].device.threads)
    device, allocator = resolve_device(requests[0].device.name), set_allocator()
    store = Store(requests[0].results, requests[0].rerun)
    keys = {request.attention: efficiency_key(request, device, allocator) for request in requests}
    outcomes: dict[str, Outcome] = {}
    with ExitStack() as claims:
        for name in sorted(keys, key=lambda name: keys[name].hash):  # in the same order in every process: no deadlock
            state = store.state(keys[name])
            if state.record is None:
                state = claims.enter_context(store.claim(keys[name], wait="the same is being measured by"))
            if state.record is not None:
                outcomes[name] = Outcome(state.record, was_done=True)
        missing = {request.attention: request for request in requests if request.attention not in outcomes}
        if missing:
            claims.enter_context(locked_device(device))
            for name, record in _measure(missing, device, allocator, module, overrides).items():
                store.write(record)
                outcomes[name] = Outcome(record, was_done=False)
    return [outcomes[request.attention] for request in requests]


def _measure(
    requests: dict[str, Request], device: torch.device, allocator: str, module: str, overrides: Sequence[str]
) -> dict[str, Record]:
    """Measures the families, given by name, together; returns their records."""
    clock = Clock()
    verdicts = {name: gate(request) for name, request in requests.items()}
    families: dict[str, Family] = {
        name: request.family for name, request in requests.items() if verdicts[name][0] == "ok"
    }
    rows: list[dict[str, Any]] = []
    gemm = 0.0
    if families:
        plan = make_plan(next(iter(requests.values())), device, families=len(families))
        gemm = gemm_gflops(device, torch.bfloat16 if plan.precision == "bfloat16" else torch.float32)
        found = sweep(BASELINES | families, plan, lambda line: print(f"  {line}", flush=True))
        rows = [row.to_dict() for row in found]
    records = {}
    for name, request in requests.items():
        result: dict[str, Any] = {}
        status, reason = verdicts[name]
        if status == "ok":
            status, reason = summary([row for row in rows if row["subject"] == name])
            measurements = [row for row in rows if row["subject"] in (name, *BASELINES)]
            result = {"measurements": measurements, "gemm_gflops": gemm, "allocator": allocator}
        origin = provenance(module, overrides, device, clock, [request.family.func])
        key = efficiency_key(request, device, allocator)
        records[name] = key.record(status, reason, request.resolved, result, origin)
    return records


def make_plan(request: Request, device: torch.device, families: int) -> Plan:
    """The sweep for this many families. Leaves out phases that the pattern does not have; raises UserError for values
    that do not fit."""
    wanted = request.efficiency
    phases = tuple(phase for phase in wanted.phases if request.pattern.causal or phase in ("forward", "train"))
    if wanted.phases and not phases:
        raise UserError(f"efficiency.phases={wanted.phases}: {request.pattern} has forward and train only")
    return Plan(
        pattern=request.pattern,
        level=wanted.level,
        phases=phases,
        lengths=tuple(wanted.lengths),
        shape=request.shape,
        device=device,
        budget_seconds=wanted.budget * families,
        batch=wanted.batch,
        decode_batches=tuple(wanted.decode_batches),
        precision=chosen_precision(request.device.precision, device),
        rounds=wanted.rounds,
        min_rounds=min(ROUNDS, wanted.rounds),
    )


def summary(rows: Sequence[dict[str, Any]]) -> tuple[Status, str]:
    """The status and reason of a family's record: ok if anything was measured, else why its first row was not."""
    if any(row["status"] == "ok" for row in rows):
        return "ok", ""
    first = rows[0]
    status: Status = first["status"] if first["status"] in ("unsupported", "out_of_memory", "error") else "timeout"
    return status, first["reason"]
