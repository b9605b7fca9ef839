"""What a sweep would do, before it does it: `python -m cab.plan attention=vanilla,fit task=lm,recall seed=0,1,2`.

Takes the arguments of `python -m cab.run`, -m and experiment= too, and writes nothing. Every cell of the product is

  done          recorded, and not run again
  unsupported   recorded as such
  left out      the task has no such pattern
  resumes       a checkpoint is there
  again         its last run failed, timed out or did not pass the checks
  new           nothing is known of it

The time to come is that of earlier records in the same folder: the median of cells with the same task, model and
training, of the same family where there are any. Precision and machine are those of the computer that is asked.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cab.command import command_line
from cab.compose import Composer, expand, parse_arguments
from cab.config import Request
from cab.errors import NoSuchPattern
from cab.store.record import DamagedRecord, Record, identity_hash, read_record, record_path

State = Literal["done", "unsupported", "left out", "resumes", "again", "new"]
TO_RUN: tuple[State, ...] = ("resumes", "again", "new")


@dataclass(frozen=True)
class Cell:
    overrides: tuple[str, ...]
    state: State
    reason: str = ""
    seconds: float | None = None
    """That it will take, None where it will not run or nothing is known."""


def plan(overrides: Sequence[str]) -> list[Cell]:
    """Every cell that `cab.run -m` would run with these overrides, in its order."""
    from cab.report.load import load

    known: dict[Path, list[Record]] = {}
    cells, composer = [], Composer()
    for chosen in expand(overrides):
        try:
            request = composer.request(chosen)
        except NoSuchPattern as error:
            cells.append(Cell(tuple(chosen), "left out", str(error)))
            continue
        if request.results not in known:
            known[request.results] = load(request.results).quality
        cells.append(_cell(chosen, request, known[request.results]))
    return cells


def _cell(chosen: Sequence[str], request: Request, records: Iterable[Record]) -> Cell:
    from cab.machine import resolve_device
    from cab.quality.cell import quality_identity
    from cab.store import checkpoint

    identity = quality_identity(request, resolve_device(request.device.name))
    path = record_path(request.results, "quality", identity_hash(identity))
    state: State = "resumes" if path.with_name(checkpoint.NAME).exists() else "new"
    reason = ""
    try:
        record = read_record(path)
        if not record.final:
            state, reason = "again", f"{record.status}: {record.reason}"
        elif not request.rerun:
            return Cell(tuple(chosen), "unsupported" if record.status == "unsupported" else "done", record.reason)
    except FileNotFoundError:
        pass
    except DamagedRecord as error:
        state, reason = "again", f"damaged record: {error}"
    return Cell(tuple(chosen), state, reason, estimate(identity, records))


def estimate(identity: Mapping[str, object], records: Iterable[Record]) -> float | None:
    """Seconds of the earlier cells that were most like it."""

    def alike(record: Record, *names: str) -> bool:
        return all(record.identity.get(name) == identity.get(name) for name in names)

    ran = [record for record in records if record.status == "ok" and alike(record, "task", "model", "train")]
    own = [record for record in ran if alike(record, "attention")]
    seconds = [record.provenance["seconds"] for record in own or ran if "seconds" in record.provenance]
    return statistics.median(seconds) if seconds else None


def lines(cells: Sequence[Cell]) -> list[str]:
    """A line per combination and state, its seeds together, and the sums. What is left out is only counted."""
    from tabulate import tabulate

    split = [dict(override.partition("=")[::2] for override in cell.overrides) for cell in cells]
    varied = [name for name in split[0] if len({values[name] for values in split}) > 1 and name != "seed"]
    together: dict[tuple[str, ...], list[tuple[str, Cell]]] = {}
    for values, cell in zip(split, cells, strict=True):
        if cell.state == "left out" and len(cells) > 1:
            continue
        key = (*(values[name] for name in varied), cell.state, cell.reason)
        together.setdefault(key, []).append((values.get("seed", ""), cell))
    seeds = "seed" in split[0]
    body = []
    for (*names, state, reason), members in together.items():
        seconds = [cell.seconds for _, cell in members if cell.seconds is not None]
        shown = [*names, *([" ".join(seed for seed, _ in members)] if seeds else [])]
        body.append([*shown, f"{state}: {reason}" if reason else state, duration(sum(seconds)) if seconds else ""])
    head = [*varied, *(["seed"] if seeds else []), "state", "time"]
    counts = Counter(cell.state for cell in cells)
    sums = ", ".join(f"{count} {state}" for state, count in counts.items())
    to_run = [cell for cell in cells if cell.state in TO_RUN]
    known = [cell.seconds for cell in to_run if cell.seconds is not None]
    says = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}: {sums}"
    if known:
        says += f"; about {duration(sum(known))} one after the other"
    if len(known) < len(to_run):
        says += f"; no earlier time for {len(to_run) - len(known)}"
    return [tabulate(body, headers=head, tablefmt="simple", disable_numparse=True), "", says]


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="goes without saying: a line of cab.run fits as it is"
    )
    overrides = parse_arguments(parser, arguments)

    def work() -> int:
        print("\n".join(lines(plan(overrides))))
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
