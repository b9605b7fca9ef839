"""What the command lines share: composing the configuration, and ending with a clear line instead of a traceback.

Exit codes: 0 if all cells are done (an unsupported one is), 1 if a cell failed, which is recorded, and 2 if the request
cannot be met, in which case nothing is recorded.
"""

import copy
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from cab import ROOT
from cab.config import Request, load, one_line
from cab.errors import UserError
from cab.store.failure import cannot_write
from cab.store.record import Record

FAILED = 1
REFUSED = 2


class ExitCode:
    """The exit code of a command that runs cells: the worst one of them. Hydra does not hand on what a job returns."""

    def __init__(self) -> None:
        self.worst = 0

    def record(self, code: int) -> None:
        self.worst = max(self.worst, code)


exit_code = ExitCode()
"""That of this process."""


def command_line(work: Callable[[], int]) -> int:
    """Runs `work` and returns the exit code. With CAB_TRACEBACK=1 a user error shows its traceback."""
    try:
        return work()
    except UserError as error:
        if os.environ.get("CAB_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        if error.errno is None:
            raise
        if not cannot_write(error):
            print(f"error: {error.filename or 'writing'}: {error.strerror}", file=sys.stderr)
            return FAILED
        advice = (
            "free some space, or choose another folder with results=; the same command resumes where this one ended"
        )
        print(f"error: {error.filename or 'writing'}: {error.strerror}: {advice}", file=sys.stderr)
        return REFUSED


def title(request: Request) -> str:
    """How command lines name a cell."""
    return f"{request.attention} · {request.pattern} · {request.task} · {request.size} · seed {request.seed}"


def cell_exit_code(*records: Record) -> int:
    """The exit code of a cell with these records."""
    return 0 if all(record.status in ("ok", "unsupported") for record in records) else FAILED


def compose_requests(overrides: Sequence[str]) -> list[Request]:
    """The requests of every cell of a sweep. Raises UserError."""
    request_of = Requests()
    return [request_of(chosen) for chosen in expand(overrides)]


def compose_one(overrides: Sequence[str]) -> Request:
    """The request of one cell. Raises UserError."""
    return Requests()(overrides)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one cell, that of Hydra itself included. Raises UserError."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            return compose("config", list(overrides), return_hydra_config=True)
        except HydraException as error:
            raise UserError(one_line(error)) from error


class Requests:
    """The requests of many cells. A configuration is composed once for all seeds: that takes longer than all else."""

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig] = composed) -> None:
        self.compose = compose
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, cell: Sequence[str]) -> Request:
        """The request of a cell, given by its overrides. Raises UserError."""
        rest = tuple(override for override in cell if not override.startswith("seed="))
        seeds = [override.removeprefix("seed=") for override in cell if override.startswith("seed=")]
        key, given = (rest, int(seeds[0])) if len(seeds) == 1 and seeds[0].isdecimal() else (tuple(cell), None)
        if key not in self.composed:
            self.composed[key] = self.compose(key)
        config = copy.deepcopy(self.composed[key])
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config.hydra
            if given is not None:
                config.seed = given
        return load(config, choices["attention"], choices["task"])


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every cell of a sweep, as Hydra's own sweeper makes them, those that experiment= gives first."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            config = hydra.compose_config("config", list(overrides), RunMode.MULTIRUN, with_log_configuration=False)
            preset = [f"{name}={values}" for name, values in (config.hydra.sweeper.params or {}).items()]
            parsed = OverridesParser.create(hydra.config_loader).parse_overrides([*preset, *overrides])
            [batch] = BasicSweeper.split_arguments(parsed, None)
        except HydraException as error:
            raise UserError(one_line(error)) from error
    return batch
