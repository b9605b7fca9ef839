"""Efficiency cells: `python -m cab.efficiency attention=vanilla,lightning pattern=causal_self [task=lm ...]`.

Measures time, memory, FLOPs, parameters and decoding state of several families in one process, in rounds with the
baselines vanilla and eager (see cab.measuring.rounds), and writes one record per family. The task and size choose the
shape; cost does not depend on data or seed. `cab.run` does the same for its one family.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from attentions.eager import Eager
from attentions.slots import Family
from attentions.vanilla import Vanilla
from cab import ranks
from cab.check import gate
from cab.config import Request
from cab.errors import UserError
from cab.identity import efficiency_cell, efficiency_identity, recorded
from cab.lock import LOCK, measuring, waited_for
from cab.machine import chosen_precision, gemm_gflops, resolve_device, set_allocator
from cab.measuring.measurement import Plan
from cab.measuring.rounds import sweep
from cab.provenance import provenance
from cab.record import Record, Status, identity_hash, record_path, remove_unfinished
from cab.track import Tracker

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
        Tracker(request.tracking, record.cell, request.resolved, record.hash, request.results).finish(record)
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


def main(arguments: Sequence[str] | None = None) -> int:
    from cab.command import FAILED, command_line, compose_one, expand
    from cab.report import efficiency_lines

    parser = argparse.ArgumentParser(
        prog="python -m cab.efficiency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", help="as in cab.run -m; what differs in attention= only is measured in turns"
    )
    overrides = parser.parse_args(arguments).overrides

    def work() -> int:
        if (count := ranks.world()) > 1:
            raise UserError(
                f"started as {count} processes: cost is that of one device, start it without torchrun or srun"
            )
        together: dict[tuple[str, ...], list[Request]] = {}
        for chosen in expand(overrides):
            rest = tuple(one for one in chosen if not one.startswith("attention="))
            together.setdefault(rest, []).append(compose_one(chosen))
        failed = False
        for rest, requests in together.items():
            families = ",".join(request.attention for request in requests)
            for record, before in efficiency_cells(requests, "cab.efficiency", [f"attention={families}", *rest]):
                title = f"{record.cell['attention']} · {record.cell['pattern']}"
                print("\n".join([title, *efficiency_lines(record, before)]), flush=True)
                failed |= record.status not in ("ok", "unsupported")
        return FAILED if failed else 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
