"""What a sweep would do: the state of every cell, and the time that is expected (see cab.plan)."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cab.compose import Composer, check_task, expand
from cab.config import Request
from cab.errors import NoSuchPattern, UserError
from cab.machine import resolve_device
from cab.store.identity import quality_key
from cab.store.record import Record
from cab.store.store import CellState, State, Store
from cab.trials import Trials, changed, sweeps_of

TO_TRAIN = (State.INTERRUPTED, State.STALE, State.NO_DATA, State.FAILED, State.DAMAGED, State.NEW)


@dataclass(frozen=True)
class Cell:
    overrides: tuple[str, ...]
    found: CellState
    seconds: float | None = None
    """The expected time of the training; None if there is none or nothing is known."""


TO_BE_CHOSEN = "to be chosen"


def plan(overrides: Sequence[str], tune: bool = False) -> list[Cell]:
    """Every cell that `cab.run -m`, or with `tune` cab.tune, would run with these overrides, in its order.

    Raises UserError, also if no cell is left.
    """
    from cab.report.load import load

    earlier: dict[Path, list[Record]] = {}
    stores: dict[tuple[Path, bool], Store] = {}
    cells, composer = [], Composer()
    for chosen in tuned_cells(expand(overrides), composer) if tune else expand(overrides):
        try:
            known = [override for override in chosen if not override.endswith(TO_BE_CHOSEN)]
            request = composer.request(known)
            check_task(request)
        except NoSuchPattern as error:
            cells.append(Cell(tuple(chosen), CellState(State.LEFT_OUT, str(error))))
            continue
        device = resolve_device(request.device.name)
        store = stores.setdefault((request.results, request.rerun), Store(request.results, request.rerun))
        found = store.request_state(request, device) if known == chosen else CellState(State.NEW)
        if request.results not in earlier:
            earlier[request.results] = load(request.results).quality
        seconds = estimate(request, device, earlier[request.results]) if found.state in TO_TRAIN else None
        cells.append(Cell(tuple(chosen), found, seconds))
    if all(cell.found.state is State.LEFT_OUT for cell in cells):
        raise UserError(f"no cell is left: {'; '.join(dict.fromkeys(cell.found.detail for cell in cells))}")
    return cells


def tuned_cells(cells: Sequence[list[str]], composer: Composer) -> list[list[str]]:
    """The trials of every family, and its cells at the chosen rate; `train.lr=to be chosen` if that is not known."""
    found, trials = [], Trials(composer)
    for sweep in sweeps_of(cells, composer):
        tuning = trials.tuning(sweep)
        rates = sorted({*sweep.grid, *tuning.missing, *tuning.validations})
        found += [sweep.trial(rate) for rate in rates if rate != tuning.rate]
        if tuning.rate is not None:
            found += sweep.at(tuning.rate)
        elif tuning.missing:
            found += [changed(cell, {"train.lr": TO_BE_CHOSEN}) for cell in sweep.cells[1:]]
    return found


def estimate(request: Request, device: torch.device, records: Iterable[Record]) -> float | None:
    """The median time in seconds of the records that are most similar to a request; None if none is."""
    identity = quality_key(request, device).identity

    def same(record: Record, *names: str) -> bool:
        return all(record.identity.get(name) == identity[name] for name in names)

    def without_rate(train: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in train.items() if key not in ("lr", "tuned_over")}

    train = without_rate(identity["train"])
    similar = [
        record
        for record in records
        if record.status == "ok"
        and same(record, "task", "model")
        and without_rate(record.identity.get("train") or {}) == train
    ]
    same_family = [record for record in similar if same(record, "attention")]
    seconds = [record.provenance["seconds"] for record in same_family or similar if "seconds" in record.provenance]
    return statistics.median(seconds) if seconds else None


def lines(cells: Sequence[Cell]) -> list[str]:
    """A table with a row per combination and state, which lists its seeds, and a line of sums.

    Cells that are left out are only counted.
    """
    from cab.report.plain_table import plain_table

    options = [dict(override.partition("=")[::2] for override in cell.overrides) for cell in cells]
    hidden = ("seed", "measure", "train.tuned_over")
    given = dict.fromkeys(name for values in options for name in values if name not in hidden)
    varied = [name for name in given if len({values.get(name) for values in options}) > 1]
    has_seeds = any("seed" in values for values in options)
    rows: dict[tuple[str, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        if cell.found.state is State.LEFT_OUT:
            continue
        key = (*(options[index].get(name, "") for name in varied), str(cell.found))
        rows.setdefault(key, []).append(index)
    body = []
    for (*names, state), members in rows.items():
        seeds = [" ".join(options[index]["seed"] for index in members)] if has_seeds else []
        body.append([*names, *seeds, state, total_duration([cells[index] for index in members])])
    head = [*varied, *(["seed"] if has_seeds else []), "state", "time"]
    return [plain_table(body, head), "", sums(cells)]


def sums(cells: Sequence[Cell]) -> str:
    counts = Counter(cell.found.state for cell in cells)
    text = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}: "
    text += ", ".join(f"{count} {state}" for state, count in counts.items())
    if time := total_duration(cells):
        text += f"; about {time} one after the other"
    unknown = sum(cell.found.state in TO_TRAIN and cell.seconds is None for cell in cells)
    if unknown:
        text += f"; no earlier time for {unknown}"
    return text


def total_duration(cells: Sequence[Cell]) -> str:
    """The expected time of the cells whose time is known; empty if that is none."""
    seconds = [cell.seconds for cell in cells if cell.seconds is not None]
    return duration(sum(seconds)) if seconds else ""


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
