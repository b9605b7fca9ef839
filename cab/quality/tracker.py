"""A mirror of the records in Weights & Biases. Never the store: nothing here is read back by anything of ours.

One run per cell, its id the record's hash, so that a cell that runs again continues its run instead of adding one; the
cells of a sweep are one group. Offline (the default) it is a folder below results/wandb that `wandb sync` uploads; that
of a cell that went on after an interruption is a new one, with the whole curve. Whatever goes wrong with it is one
warning, and the cell goes on without a mirror.
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
from typing import TYPE_CHECKING, Any, Protocol

from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INIT_SECONDS = 10.0
FINISH_SECONDS = 60.0
"""How long an online run may wait for the server; a wrong key would hang for half a minute otherwise."""
FINE = ("ok", "unsupported")
"""Statuses of a run that did what it should."""
TAGS = ("attention", "pattern", "task")
SWEEP = "WANDB_RUN_GROUP"
"""W&B's own variable for the group of a run that is given none; jobs of a cluster inherit it."""


class Choice(Protocol):
    """The `wandb` part of the configuration."""

    @property
    def mode(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def group(self) -> str | None: ...


@contextlib.contextmanager
def sweep_group(arguments: Sequence[str], experiment: str | None) -> Iterator[None]:
    """Cells that are started meanwhile are one group, again the same when the sweep is started again: it is named after
    its experiment and what it asks for."""
    said = sorted(one for one in arguments if not one.startswith(("results=", "rerun=", "wandb.", "hydra")))
    name = f"{experiment or 'sweep'}-{hashlib.sha256(' '.join(said).encode()).hexdigest()[:8]}"
    before = os.environ.get(SWEEP)
    os.environ[SWEEP] = before or name
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWEEP]


class Tracker:
    """Mirrors one cell. wandb is imported, and the run begun, at the first thing to log; "disabled" never does."""

    def __init__(
        self, choice: Choice, cell: Mapping[str, Any], config: Mapping[str, Any], name: str, results: Path
    ) -> None:
        """`name` is the hash of the record to come, `results` the folder that `wandb` lies in."""
        self.choice, self.cell, self.config, self.name, self.results = choice, cell, config, name, results
        self._run: Any = None
        self._steps: set[int] = set()
        self._given_up = choice.mode == "disabled"

    def log(self, point: Mapping[str, Any]) -> None:
        """One point of the curve, its "step" included; what is nested becomes `validation/perplexity`. Numbers only."""
        numbers = {key: value for key, value in _flat(point).items() if _is_number(value)}
        self._attempt(lambda run: run.log(numbers))
        self._steps.add(point["step"])

    def finish(self, record: Record, figure: "Figure | None" = None) -> None:
        """Adds the figure, summary, tables and picture of the record and ends the run, also that of a failed cell."""
        for point in record.result.get("curve", []):  # of an interrupted run that this one went on from
            if point["step"] not in self._steps:
                self.log(point)
        self._attempt(lambda run: run.summary.update(_summary(record)))
        self._attempt(lambda run: _log_tables(run, record))
        if figure is not None:
            self._attempt(lambda run: _log_figure(run, figure))
        run, self._run = self._run, None
        if run is not None:
            with self._one_warning():
                run.finish(exit_code=0 if record.status in FINE else 1)
        self._given_up = True

    def _attempt(self, use: Callable[[Any], object]) -> None:
        if self._given_up:
            return
        with self._one_warning():
            if self._run is None:
                self._run = self._begin()
            use(self._run)

    @contextlib.contextmanager
    def _one_warning(self) -> Iterator[None]:
        """Whatever wandb raises ends the mirror and not the cell; what it prints goes nowhere."""
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                yield
        except Exception as error:
            self._given_up = True
            message = " ".join(str(error).split())[:200] or type(error).__name__
            print(f"warning: no W&B mirror of this cell ({message}); its record is not affected", file=sys.stderr)

    def _begin(self) -> Any:
        (self.results / "wandb").mkdir(parents=True, exist_ok=True)
        import wandb

        online = self.choice.mode == "online"
        run = wandb.init(
            mode="online" if online else "offline",
            project=self.choice.project,
            group=self.choice.group,
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
                x_disable_stats=True,  # no sampling of the machine while something is being timed
            ),
        )
        run.define_metric("*", step_metric="step")  # a resumed cell may go back a few steps
        return run


def _summary(record: Record) -> dict[str, Any]:
    """Everything in the record's result that is one number or text, with status and reason."""
    parts = ("metrics", "trivial", "model", "training", "data", "headline", "gemm_gflops", "allocator")
    values = _flat({name: record.result[name] for name in parts if name in record.result})
    plain = {key: value for key, value in values.items() if isinstance(value, str | bool) or _is_number(value)}
    return plain | {"status": record.status, "reason": record.reason}


def _log_tables(run: Any, record: Record) -> None:
    import wandb

    tables = dict(record.result.get("tables") or {})
    if measurements := record.result.get("measurements"):
        tables["measurements"] = [
            row | {"seconds": sorted(row["seconds"])[len(row["seconds"]) // 2] if row.get("seconds") else None}
            for row in measurements
        ]
    for name, rows in tables.items():
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table = wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in rows])
            run.log({f"tables/{name}": table})


def _log_figure(run: Any, figure: "Figure") -> None:
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        figure.savefig(path)
        run.log({"plots/cost": wandb.Image(str(path))})  # wandb copies the file


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": item for name, item in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
