"""Mirrors records to Weights & Biases. Nothing is read back: the records in `results` are the store.

There is one run per cell. Its id is the hash of the record, so that a cell that runs again continues its run, and the
cells of a sweep are one group. Offline runs (the default) are folders in results/wandb that `wandb sync` uploads. A
cell that resumes after an interruption gets a new offline run with the whole curve. If W&B fails, the tracker prints
one warning and the cell continues without it.
"""

import contextlib
import hashlib
import io
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.errors import one_line
from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cab.config import Tracking

INIT_SECONDS = 10.0
"""How long an online run waits for the server when it starts. With a wrong key W&B would wait for half a minute."""
FINISH_SECONDS = 60.0
SUCCESSFUL = ("ok", "unsupported")
"""Statuses of a run that exits with 0."""
TAGS = ("attention", "pattern", "task")
GROUP_VARIABLE = "WANDB_RUN_GROUP"
"""W&B's variable for the group of runs without one of their own. Jobs on a cluster inherit it."""


@contextlib.contextmanager
def sweep_group(arguments: Sequence[str], experiment: str | None) -> Iterator[None]:
    """Puts the cells started within into one group, named after the experiment and the arguments.

    The same sweep gets the same group when it is started again. A group set by the user is kept.
    """
    relevant = sorted(one for one in arguments if not one.startswith(("results=", "rerun=", "wandb.", "hydra")))
    name = f"{experiment or 'sweep'}-{hashlib.sha256(' '.join(relevant).encode()).hexdigest()[:8]}"
    if GROUP_VARIABLE in os.environ:
        yield
        return
    os.environ[GROUP_VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[GROUP_VARIABLE]


class Tracker:
    """Mirrors one cell. Imports wandb and starts the run with the first value to log, in mode "disabled" never."""

    def __init__(
        self, options: "Tracking", cell: Mapping[str, Any], config: Mapping[str, Any], name: str, results: Path
    ) -> None:
        """`name` is the hash of the future record, `results` the folder in which `wandb` is created."""
        self.options, self.cell, self.config, self.name, self.results = options, cell, config, name, results
        self._run: Any = None
        self._disabled = options.mode == "disabled"

    def log(self, point: Mapping[str, Any]) -> None:
        """Logs the numbers of one point of the curve. Nested ones are named like `validation/perplexity`.

        In the order of steps: the summary has the last that was logged. A training that resumes begins with the points
        from before, so that its own offline run is whole; an online one that goes on has these twice.
        """
        numbers = {key: value for key, value in _flatten(point).items() if _is_number(value)}
        self._attempt(lambda run: run.log(numbers))

    def finish(self, record: Record, figure: "Figure | None" = None) -> None:
        """Logs the figure and the record's summary and tables, and ends the run, also that of a failed cell."""
        self._attempt(lambda run: run.summary.update(_summary(record)))
        self._attempt(lambda run: _log_tables(run, record))
        if figure is not None:
            self._attempt(lambda run: _log_figure(run, figure))
        run, self._run = self._run, None
        if run is not None:
            with self._one_warning():
                run.finish(exit_code=0 if record.status in SUCCESSFUL else 1)
        self._disabled = True

    def _attempt(self, action: Callable[[Any], object]) -> None:
        """Applies an action to the run, which it starts first if necessary."""
        if self._disabled:
            return
        with self._one_warning():
            if self._run is None:
                self._run = self._start_run()
            action(self._run)

    @contextlib.contextmanager
    def _one_warning(self) -> Iterator[None]:
        """Turns an exception of wandb into a warning and disables the tracker; suppresses what wandb prints."""
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                yield
        except Exception as error:
            self._disabled = True
            print(
                f"warning: no W&B mirror of this cell ({one_line(error)[:200]}); its record is not affected",
                file=sys.stderr,
            )

    def _start_run(self) -> Any:
        (self.results / "wandb").mkdir(parents=True, exist_ok=True)
        import wandb

        online = self.options.mode == "online"
        run = wandb.init(
            mode="online" if online else "offline",
            project=self.options.project,
            group=self.options.group,
            id=self.name,
            name=" ".join(str(self.cell[key]) for key in (*TAGS, "size", "seed") if key in self.cell),
            tags=[str(self.cell[key]) for key in TAGS if key in self.cell],
            config={**self.config, "cell": dict(self.cell), "record": self.name},
            dir=self.results,
            resume="allow" if online else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                login_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS if online else 0.0,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                x_disable_stats=True,  # no background sampling while something is timed
            ),
        )
        run.define_metric("*", step_metric="step")  # an online run may go back a few steps
        return run


def _summary(record: Record) -> dict[str, Any]:
    """All single numbers and strings of the record's result, with status and reason."""
    parts = ("metrics", "model", "training", "data", "headline", "gemm_gflops", "allocator")
    predictors = {each["name"]: each["metrics"] for each in record.result.get("predictors") or []}
    values = _flatten({name: record.result[name] for name in parts if name in record.result})
    values |= _flatten({"predictors": predictors})
    plain = {key: value for key, value in values.items() if isinstance(value, str | bool) or _is_number(value)}
    return plain | {"status": record.status, "reason": record.reason}


def _log_tables(run: Any, record: Record) -> None:
    import wandb

    tables = dict(record.result.get("tables") or {})
    measurements = record.result.get("measurements") or []
    tables["measurements"] = [row | {"seconds": _upper_median(row.get("seconds"))} for row in measurements]
    for name, rows in tables.items():
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table = wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in rows])
            run.log({f"tables/{name}": table})


def _upper_median(values: Sequence[float] | None) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _log_figure(run: Any, figure: "Figure") -> None:
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        figure.savefig(path)
        run.log({"plots/cost": wandb.Image(str(path))})  # wandb copies the file


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": item for name, item in _flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
