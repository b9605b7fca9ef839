"""Efficiency cells: the costs of families of one shape and pattern, measured in turns with the baselines.

Waits for whoever measures the same or uses the device, measures in one process (see cab.efficiency.sweep), writes one
record per family, and mirrors it. Cost does not depend on data or seed.
"""

import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from attentions.eager import Eager
from attentions.slots import Family
from attentions.vanilla import Vanilla
from cab.check.gate import gate
from cab.config import Request
from cab.efficiency.plan import Plan
from cab.efficiency.sweep import sweep
from cab.errors import UserError
from cab.machine import chosen_precision, gemm_gflops, resolve_device, set_allocator
from cab.store.identity import efficiency_cell, efficiency_identity, recorded
from cab.store.lock import LOCK, measuring, waited_for
from cab.store.provenance import provenance
from cab.store.record import Record, Status, identity_hash, record_path, remove_unfinished

BASELINES: dict[str, Family] = {"vanilla": partial(Vanilla), "eager": partial(Eager)}


def efficiency_cells(requests: Sequence[Request], module: str, overrides: Sequence[str]) -> list[tuple[Record, bool]]:
    """One record per request, in order, and whether it was there already. The requests differ in their family only.

    Waits while another process measures one of them, or anything else on the same device of this machine.
    """
    device, allocator = resolve_device(requests[0].device.name), set_allocator()
    identities = {request.attention: efficiency_identity(request, device, allocator) for request in requests}
    records: dict[str, Record] = {}
    measured: list[Record] = []

    def look() -> list[Request]:
        for request in requests:
            if known := recorded(request, "efficiency", identities[request.attention]):
                records[request.attention] = known
        return [request for request in requests if request.attention not in records]

    if pending := look():
        with contextlib.ExitStack() as locks:
            for name in sorted(identity_hash(identities[request.attention]) for request in pending):  # all in one order
                path = record_path(requests[0].results, "efficiency", name).with_name(LOCK)
                locks.enter_context(waited_for(path, "the same is being measured by"))
                remove_unfinished(path.parent)
            locks.enter_context(measuring(device))
            if pending := look():
                measured = _measured(pending, device, allocator, module, overrides)
    for request, record in zip(pending, measured, strict=True):
        records[request.attention] = record
    return [(records[request.attention], records[request.attention] not in measured) for request in requests]


def _measured(
    requests: Sequence[Request], device: torch.device, allocator: str, module: str, overrides: Sequence[str]
) -> list[Record]:
    """Measures the families and writes a record of each."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    refused = {r.attention: answer for r in requests if (answer := gate(r))[0] != "ok"}
    if len(refused) < len(requests):
        families = BASELINES | {r.attention: r.family for r in requests if r.attention not in refused}
        plan = make_plan(requests[0], device, families=len(requests) - len(refused))
        gemm = gemm_gflops(device, torch.bfloat16 if plan.precision == "bfloat16" else torch.float32)
        rows = [row.to_dict() for row in sweep(families, plan, lambda line: print(f"  {line}", flush=True))]
    records = []
    for request in requests:
        result: dict[str, Any] = {}
        if request.attention in refused:
            status, reason = refused[request.attention]
        else:
            own = [row for row in rows if row["subject"] in (request.attention, *BASELINES)]
            status, reason = summary([row for row in own if row["subject"] == request.attention])
            result = {"measurements": own, "gemm_gflops": gemm, "allocator": allocator}
        record = Record(
            kind="efficiency",
            status=status,
            reason=reason,
            cell=efficiency_cell(request, device),
            identity=efficiency_identity(request, device, allocator),
            config=request.resolved,
            result=result,
            provenance=provenance(module, overrides, device, started, time.monotonic() - clock),
        )
        record.write(request.results)
        records.append(record)
    return records


def make_plan(request: Request, device: torch.device, families: int) -> Plan:
    """The sweep for this many families; phases without meaning in the pattern are left out."""
    wanted = request.efficiency
    phases = tuple(p for p in wanted.phases if request.pattern.causal or p in ("forward", "train"))
    if not phases:
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
    )


def summary(rows: Sequence[dict[str, Any]]) -> tuple[Status, str]:
    """ok if anything was measured; else the first reason why not."""
    if any(row["status"] == "ok" for row in rows):
        return "ok", ""
    first = rows[0]
    status: Status = first["status"] if first["status"] in ("unsupported", "out_of_memory", "error") else "timeout"
    return status, first["reason"]
