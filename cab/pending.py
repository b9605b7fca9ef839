"""Which cells of a sweep are left to run, found before any is started.

Data is prepared once for all cells that use it. A cell is left out of the sweep if its task has no such pattern: a
product of values cannot leave out pairs. What cannot be decided here is left to run and says itself what is wrong with
it. Measurements are looked for as this machine would make them: where a launcher sends cells to others, those that want
`measure` may be sent for nothing, and find their records there.
"""

import json
from collections.abc import Callable, Sequence

import torch
from omegaconf import DictConfig

from cab.command import FAILED, REFUSED, exit_codes
from cab.compose import Composer
from cab.config import Request, user_errors
from cab.errors import NoSuchPattern, UserError
from cab.machine import resolve_device, set_allocator, set_threads
from cab.store.identity import MEASURED, efficiency_identity, quality_identity, recorded, same_data, title
from cab.store.record import Record

Compose = Callable[[Sequence[str]], DictConfig]
Contents = dict[str, str]


def pending(cells: Sequence[list[str]], compose: Compose) -> list[list[str]]:
    """The cells, lists of overrides, that have to run. Says of the others in a line each what they gave."""
    left, reasons, before = [], [], 0
    composer = Composer(compose)
    contents: Contents = {}
    threads = torch.get_num_threads()
    for cell in cells:
        try:
            request = composer.request(cell)
            set_threads(request.device.threads or threads)
            record = done(request, contents)
        except NoSuchPattern as error:
            reasons.append(str(error))
            continue
        except UserError:
            record = None
        if record is None:
            left.append(cell)
            continue
        before += 1
        exit_codes.append(0 if record.status in ("ok", "unsupported") else FAILED)
        print(f"{title(request)}: {_brief(record)} (recorded before)", flush=True)
    set_threads(threads)
    for reason in dict.fromkeys(reasons):
        print(f"left out: {reason}")
    if before:
        print(f"{before} of {len(cells)} cells were there already, {len(left)} to run; rerun=true runs all", flush=True)
    if not left and not before:
        exit_codes.append(REFUSED)
    return left


def done(request: Request, contents: Contents) -> Record | None:
    """The quality record of a cell that need not run, else None. `contents` remembers what data there is."""
    device = resolve_device(request.device.name)
    record = recorded(request, "quality", quality_identity(request, device))
    if record is None or not same_data(record, _content(request, contents)):
        return None
    if not request.measure or record.status not in MEASURED:
        return record
    cost = recorded(request, "efficiency", efficiency_identity(request, device, set_allocator()))
    return record if cost else None


def _content(request: Request, contents: Contents) -> str:
    what = {name: request.resolved[name] for name in ("pattern", "task", "data", "model")}
    key = json.dumps({"name": request.task, "cache": str(request.results), **what}, sort_keys=True)
    if key not in contents:
        with user_errors():
            contents[key] = request.build_task().prepare().content
    return contents[key]


def _brief(record: Record) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    name = record.result["headline"]
    return f"{name.replace('_', ' ')} {record.result['metrics'][name]:.4g}"
