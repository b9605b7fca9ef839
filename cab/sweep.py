"""A sweep: all combinations of the values on a command line, but only cells that are not done are launched.

Cells that are done are found before any other is started: their state is asked of the store, and their data is prepared
once for all cells that share it. So are cells that ask for what cannot be done. A cell is also left out if its task has
no such pattern, as a product of values cannot leave out pairs. Whether efficiency is done is decided for this machine:
a launcher that sends cells to other machines may send some for nothing, which find their records there.
"""

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cab.arguments import CONFIG_DIR
from cab.checked import user_errors
from cab.command import FAILED, REFUSED, cell_exit_code, make_results, summary, title
from cab.compose import Composer, check_task, sweep_of
from cab.config import Request
from cab.errors import NoSuchPattern, UserError
from cab.machine import resolve_device
from cab.overrides import LAUNCHER
from cab.quality.tracker import sweep_group
from cab.run import run_cell
from cab.store.record import Record
from cab.store.store import Store
from cab.trials import refuse_rates, tune

Cell = Sequence[str]
"""A command line."""
Launch = Callable[[Sequence[Cell]], int]
"""Runs cells, waits for them and returns the worst exit code."""
SHOWN = 3
"""The most errors that are shown of a sweep."""


def sweep(line: Sequence[str], tuned: bool = False) -> int:
    """Runs the cells of a command line that are not done, with `tuned` at rates that are chosen on validation (see
    cab.trials). Returns the worst exit code. Raises UserError."""
    if tuned:
        refuse_rates(line)
    cells, hydra = sweep_of(line)
    composer = Composer()
    launch = launcher(hydra, composer)
    experiment = hydra.runtime.choices.get("experiment")

    def launch_missing(cells: Sequence[Cell]) -> int:
        todo, worst = cells_to_run(cells, composer)
        size = hydra.sweeper.max_batch_size or max(1, len(todo))
        for first in range(0, len(todo), size):
            worst = max(worst, launch(todo[first : first + size]))
        return worst

    with sweep_group([argument for argument in line if not argument.startswith(CONFIG_DIR)], experiment):
        return tune(cells, composer, launch_missing) if tuned else launch_missing(cells)


def launcher(hydra: Any, composer: Composer) -> Launch:
    """What `hydra/launcher=` asks for: jobs of SLURM or, by default, this process. Raises UserError."""
    with user_errors("hydra.launcher: "):
        parameters: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    target = parameters.pop("_target_")
    if target == "cab.slurm.launch":
        from cab import slurm

        return lambda cells: slurm.launch(parameters, cells)
    if not target.endswith(".BasicLauncher"):
        choice = hydra.runtime.choices[LAUNCHER]
        raise UserError(f"{LAUNCHER}={choice}: use slurm, slurm_gpu or a YAML of your own that starts from them")
    return lambda cells: run_here(cells, composer)


def run_here(cells: Sequence[Cell], composer: Composer) -> int:
    """Runs cells in this process, one after the other."""
    errors = Errors()
    worst = 0
    for cell in cells:
        try:
            code = run_cell(composer.request(cell), cell)
        except UserError as error:
            code = errors.add(error)
        except OSError:
            raise
        except Exception:  # a bug, which is no reason not to run the others
            traceback.print_exc()
            code = FAILED
        worst = max(worst, code)
    return max(worst, errors.summary())


class Errors:
    """The errors of a sweep, of which many cells may have the same."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def add(self, error: UserError) -> int:
        self.found[str(error)] += 1
        if self.found[str(error)] == 1 and len(self.found) <= SHOWN:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return REFUSED

    def summary(self) -> int:
        """Says how many there are, if that is not to be seen. Returns the exit code."""
        if self.found.total() > 1:
            reasons = f", for {len(self.found)} reasons" if len(self.found) > SHOWN else ""
            print(f"error: {self.found.total()} cells are refused{reasons}", file=sys.stderr, flush=True)
        return REFUSED if self.found else 0


def cells_to_run(cells: Sequence[Cell], composer: Composer) -> tuple[list[Cell], int]:
    """The cells that are to run, and the worst exit code of the others, of which lines are printed."""
    todo: list[Cell] = []
    no_pattern: list[str] = []
    errors = Errors()
    done, worst = 0, 0
    stores: dict[tuple[Path, bool], Store] = {}
    for cell in cells:
        try:
            request = composer.request(cell)
            check_task(request)
            record = stored(request, stores)
        except NoSuchPattern as error:
            no_pattern.append(str(error))
        except UserError as error:
            errors.add(error)
        else:
            if record is None:
                make_results(request.results)
                todo.append(cell)
                continue
            done += 1
            worst = max(worst, cell_exit_code(record))
            print(f"{title(request)}: {summary(record)} (already done)", flush=True)
    reasons = list(dict.fromkeys(no_pattern))
    if not todo and not done and not errors.found:
        raise UserError(f"no cell is left: {'; '.join(reasons)}")
    for reason in reasons:
        print(f"left out: {reason}")
    if done:
        print(f"{done} of {len(cells)} cells are done, {len(todo)} to run; rerun=true runs all again", flush=True)
    return todo, max(worst, errors.summary())


def stored(request: Request, stores: dict[tuple[Path, bool], Store]) -> Record | None:
    """The record of a cell that is done. Raises UserError."""
    store = stores.setdefault((request.results, request.rerun), Store(request.results, request.rerun))
    return store.request_state(request, resolve_device(request.device.name)).record
