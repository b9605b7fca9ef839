"""The sweeper of `cab.run -m`: Hydra's own, but only cells that are not done are launched.

Cells that are done are found before any other is started: their state is asked of the store, and their data is prepared
once for all cells that share it. A cell is also left out if its task has no such pattern, as a product of values cannot
leave out pairs. Whether efficiency is done is decided for this machine: a launcher that sends cells to other machines
may send some for nothing, which find their records there.

With `tune`, which cab.tune sets, the learning rates are chosen (see cab.tune).

The folder has to be called hydra_plugins: Hydra looks for sweepers nowhere else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn

if TYPE_CHECKING:
    from cab.compose import Composer
    from cab.store.record import Record


class CabSweeper(BasicSweeper):
    """The options are `tune` and those of Hydra's: `params`, and `max_batch_size`, the number of cells launched at
    once."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None, tune: bool) -> None:
        super().__init__(max_batch_size, params)
        self.tune = tune

    def sweep(self, arguments: list[str]) -> Any:
        from cab.command import command_line, exit_code
        from cab.compose import Composer
        from cab.quality.tracker import sweep_group
        from cab.tune import refuse_rates, tune
        from tasks.data.set_aside import make_way

        context, launcher, config = self.hydra_context, self.launcher, self.config
        assert context is not None
        assert launcher is not None
        assert config is not None
        parser = OverridesParser.create(context.config_loader)
        [cells] = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        composer = Composer(lambda cell: context.config_loader.load_sweep_config(config, list(cell)))
        returns: list[JobReturn] = []
        jobs = 0

        def launch(cells: Sequence[list[str]]) -> None:
            nonlocal jobs
            todo = cells_to_run(cells, composer)
            size = self.max_batch_size or max(1, len(todo))
            own: list[JobReturn] = []
            for first in range(0, len(todo), size):
                batch = todo[first : first + size]
                make_way(Path(config.results) / "sweeps", "folder")
                ended = launcher.launch(batch, initial_job_idx=jobs)
                jobs += len(batch)
                own.extend(ended)
            returns.extend(own)
            for returned in own:
                exit_code.record(returned.return_value)  # raises what ended the job

        def work() -> int:
            if self.tune:
                refuse_rates(arguments)
                tune(cells, composer, launch)
            else:
                launch(cells)
            return 0

        with sweep_group(arguments, config.hydra.runtime.choices.get("experiment")):
            exit_code.record(command_line(work))
        return returns


def cells_to_run(cells: Sequence[list[str]], composer: "Composer") -> list[list[str]]:
    """The cells, given as lists of overrides, that are not done. Prints a line about each of the others."""
    from cab.command import REFUSED, cell_exit_code, exit_code, title
    from cab.errors import NoSuchPattern, UserError
    from cab.machine import resolve_device
    from cab.store.store import Store

    todo: list[list[str]] = []
    no_pattern: list[str] = []
    done = 0
    stores: dict[tuple[Path, bool], Store] = {}
    for cell in cells:
        try:
            request = composer.request(cell)
            store = stores.setdefault((request.results, request.rerun), Store(request.results, request.rerun))
            record = store.request_state(request, resolve_device(request.device.name)).record
        except NoSuchPattern as error:
            no_pattern.append(str(error))
            continue
        except UserError:
            record = None  # the cell runs, and reports what is wrong with it
        if record is None:
            todo.append(cell)
        else:
            done += 1
            exit_code.record(cell_exit_code(record))
            print(f"{title(request)}: {summary(record)} (already done)", flush=True)
    for reason in dict.fromkeys(no_pattern):
        print(f"left out: {reason}")
    if done:
        print(f"{done} of {len(cells)} cells are done, {len(todo)} to run; rerun=true runs all again", flush=True)
    if not todo and not done:
        exit_code.record(REFUSED)
    return todo


def summary(record: "Record") -> str:
    """The result of a quality cell in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    name = record.result["headline"]
    return f"{name.replace('_', ' ')} {record.result['metrics'][name]:.4g}"
