"""A sweep in which every family gets its own learning rate. For every cell apart from its seed:

  1. every rate of the recipe's grid (tune.rates) is tried with the first seed
  2. if the best on validation is the least or greatest of them, one more is tried on that side
  3. all seeds run at the rate with the best validation (see cab.tuning); that of the first seed is there already

Every trial is an ordinary record, and what is done is not run again, so that the same command resumes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cab.command import FAILED, REFUSED, title
from cab.compose import Composer
from cab.config import Request
from cab.errors import NoSuchPattern, UserError
from cab.machine import resolve_device
from cab.report.text import MISSING, number
from cab.store.record import Record
from cab.store.store import Store
from cab.tuning import Tuning, next_rates, tuning_of

Cell = list[str]
"""A command line: overrides."""
CHOSEN_HERE = ("train.lr", "train.tuned_over")


@dataclass
class Sweep:
    """The cells that differ in their seed only."""

    first: Request
    """That of the first seed, before it has a rate."""
    grid: list[float]
    cells: list[Cell] = field(default_factory=list)
    launched: list[float] = field(default_factory=list)
    """The rates tried by this command."""

    def at(self, rate: float) -> list[Cell]:
        """The cells of all seeds at a rate. With rerun=true that of the first seed has just been run."""
        first, *others = [changed(cell, self._overrides(rate)) for cell in self.cells]
        return [changed(first, {"rerun": "false"}) if self.first.rerun else first, *others]

    def trial(self, rate: float) -> Cell:
        """That of the first seed. What a family costs does not depend on its rate."""
        return changed(self.cells[0], self._overrides(rate) | {"measure": "false"})

    def _overrides(self, rate: float) -> dict[str, str]:
        return {"train.lr": repr(rate), "train.tuned_over": f"[{','.join(map(repr, self.grid))}]"}


def tune(cells: Sequence[Cell], composer: Composer, launch: Callable[[Sequence[Cell]], int]) -> int:
    """Runs the cells with rates chosen on validation. `launch` runs those that are not done, waits for them and returns
    the worst exit code, as this does. Raises UserError."""
    sweeps = sweeps_of(cells, composer)
    trials = Trials(composer)
    worst = 0
    for _ in ("the grid", "what makes it wider"):
        missing = {
            place: [rate for rate in trials.tuning(sweep).missing if rate not in sweep.launched]
            for place, sweep in enumerate(sweeps)
        }
        todo = [sweeps[place].trial(rate) for place, rates in missing.items() for rate in rates]
        for place, rates in missing.items():
            sweeps[place].launched += rates
        if todo and launch(todo) == REFUSED:  # a trial that fails is no failure of the command
            worst = REFUSED
    chosen = []
    for sweep, options in zip(sweeps, differing_options(sweeps), strict=True):
        tuning = trials.tuning(sweep)
        print(line(sweep, options, tuning), flush=True)
        if tuning.rate is not None:
            chosen += sweep.at(tuning.rate)
        elif tuning.missing or any(record.status != "unsupported" for record in trials.records(sweep)):
            worst = max(worst, FAILED)
    return max(worst, launch(chosen) if chosen else 0)


def sweeps_of(cells: Sequence[Cell], composer: Composer) -> list[Sweep]:
    """Prints which cells are left out. Raises UserError."""
    found: dict[tuple[str, ...], Sweep] = {}
    no_pattern: dict[tuple[str, ...], str] = {}
    for cell in cells:
        key = tuple(override for override in cell if _name(override) not in ("seed", *CHOSEN_HERE))
        if key in no_pattern:
            continue
        try:
            request = composer.request(cell)
        except NoSuchPattern as error:
            no_pattern[key] = str(error)
            continue
        if not request.rates:
            size = f"task={request.task} size={request.size}"
            raise UserError(f"{size} has no grid of learning rates: give one as tune.rates=[1e-3,2e-3,4e-3]")
        sweep = found.setdefault(key, Sweep(request, request.rates))
        if cell not in sweep.cells:
            sweep.cells.append(cell)
    reasons = list(dict.fromkeys(no_pattern.values()))
    if not found:
        raise UserError(f"no cell is left: {'; '.join(reasons)}")
    for reason in reasons:
        print(f"left out: {reason}")
    return list(found.values())


class Trials:
    """What the records say of trials."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.stores: dict[str, Store] = {}

    def tuning(self, sweep: Sweep) -> Tuning:
        return tuning_of(records) if (records := self.records(sweep)) else Tuning(sweep.grid, {}, "lower")

    def records(self, sweep: Sweep) -> list[Record]:
        """Of the trials that are done; with rerun=true only of those that this command has run."""
        rates = sweep.launched if sweep.first.rerun else [*sweep.grid, *next_rates(sweep.grid)]
        return [record for rate in rates if (record := self._record(sweep.trial(rate)))]

    def _record(self, trial: Cell) -> Record | None:
        request = self.composer.request(trial)
        store = self.stores.setdefault(str(request.results), Store(request.results))
        return store.request_state(request, resolve_device(request.device.name)).record


def line(sweep: Sweep, options: str, tuning: Tuning) -> str:
    """What was tried, and what is chosen."""
    name = f"{title(sweep.first)}{f' · {options}' if options else ''}"
    values = [f"{rate:g}: {number(value)}" for rate, value in sorted(tuning.validations.items())]
    edge = " (edge: nothing was tried beyond it)" if tuning.at_edge else ""
    chosen = f"rate {tuning.rate:g}{edge}" if tuning.rate is not None else tuning.problem
    return f"{name} · validation by rate: {', '.join(values) or MISSING} · {chosen}"


def differing_options(sweeps: Sequence[Sweep]) -> list[str]:
    """What not all sweeps have, besides what their titles say."""
    in_title = ("attention", "pattern", "task", "size", "seed")
    first = [[override for override in sweep.cells[0] if _name(override) not in in_title] for sweep in sweeps]
    return [" ".join(one for one in own if not all(one in overrides for overrides in first)) for own in first]


def changed(cell: Cell, values: Mapping[str, str]) -> Cell:
    """The cell with these values in place of others."""
    return [override for override in cell if _name(override) not in values] + [f"{k}={v}" for k, v in values.items()]


def refuse_rates(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument that says what is chosen here."""
    for argument in arguments:
        if _name(argument) in CHOSEN_HERE:
            raise UserError(f"{argument}: cab.tune chooses the learning rate: give tune.rates=[1e-3,2e-3,4e-3]")


def _name(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
