"""From a command line to requests: Hydra composes the configuration, cab.config checks it.

A command line is a list of Hydra overrides and at most one `--config-dir=DIR`, a folder with a user's own YAML
(DIR/attention/mine.yaml). Python files of a user's own are found in the current folder and in DIR.
"""

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.conf import ConfigSourceInfo, HydraConf
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from cab import ROOT
from cab.config import CHECK, Request, is_built_in, load, user_errors
from cab.errors import UserError, one_line

CONFIG_DIR = "--config-dir="
FROM_CONFIG_DIR, FROM_SEARCH_PATH = "command-line", "hydra.searchpath in command-line"
"""What Hydra calls the origins of folders with a user's own YAML."""


def parse_arguments(module: str, description: str | None, arguments: Sequence[str] | None) -> list[str]:
    """The command line of a command that takes the arguments of cab.run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="not needed: commands for cab.run can be pasted")
    parser.add_argument("overrides", nargs="*", help="as in cab.run")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", help="a folder with YAML of your own: DIR/attention/mine.yaml"
    )
    given = parser.parse_intermixed_args(arguments)
    return ([] if given.config_dir is None else [_config_dir(given.config_dir)]) + given.overrides


def compose_requests(command_line: Sequence[str]) -> list[Request]:
    """The requests of every cell of a sweep. Raises UserError."""
    composer = Composer()
    return [composer.request(cell) for cell in expand(command_line)]


def compose_one(command_line: Sequence[str]) -> Request:
    """The request of one cell. Raises UserError."""
    return Composer().request(command_line)


def compose(command_line: Sequence[str]) -> DictConfig:
    """The configuration of one cell, that of Hydra itself included. Raises UserError."""
    with _hydra(command_line) as (hydra, overrides):
        return hydra.compose_config("config", overrides, RunMode.RUN, with_log_configuration=False)


class Composer:
    """Makes the requests of many cells. Cells that differ in their seed only share a composed configuration, because
    composing takes longer than all else."""

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig] = compose) -> None:
        self.compose = compose
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def request(self, cell: Sequence[str]) -> Request:
        """The request of the cell with this command line. Raises UserError."""
        rest, seed = tuple(cell), None
        seeds = [override.removeprefix("seed=") for override in cell if override.startswith("seed=")]
        if len(seeds) == 1 and seeds[0].isdecimal():
            rest, seed = tuple(override for override in cell if not override.startswith("seed=")), int(seeds[0])
        if rest not in self.composed:
            self.composed[rest] = self.compose(rest)
        config = copy.deepcopy(self.composed[rest])
        if seed is not None:
            config.seed = seed
        return request_of(config, config.hydra)


def request_of(config: DictConfig, hydra: HydraConf) -> Request:
    """The request of a composed configuration, from which `hydra`, Hydra's own part of it, is removed.

    Raises UserError.
    """
    _use_own_folders(hydra)
    choices = hydra.runtime.choices
    own = own_arguments(config, hydra)
    name, family_arguments = _family(choices["attention"], config, hydra, own)
    with open_dict(config):
        config.pop("hydra", None)
    return load(config, name, choices["task"], own, family_arguments)


def built_in_families() -> list[str]:
    """The names in our conf/attention: baselines first, the control last."""
    names = [path.stem for path in (ROOT / "conf" / "attention").glob("*.yaml")]
    return sorted(names, key=lambda name: ({"vanilla": 0, "eager": 1, "none": 3}.get(name, 2), name))


def own_arguments(config: DictConfig, hydra: HydraConf) -> list[str]:
    """The arguments with which the user's own YAML and Python files are found from anywhere, for commands in records.

    The current folder is one of them if the family or the task is in a file there.
    """
    sources = hydra.runtime.config_sources
    found = [source.path for source in sources if source.provider == FROM_CONFIG_DIR]
    others = [f"{source.schema}://{source.path}" for source in sources if source.provider == FROM_SEARCH_PATH]
    here = os.getcwd()
    known = {os.path.abspath(path.removeprefix("file://")) for path in [*found, *others]}
    if here not in known and any(
        _is_in(here, str(OmegaConf.select(config, f"{group}._target_"))) for group in ("attention", "task")
    ):
        others.append(f"file://{here}")
    return [*map(_config_dir, found), *([f"hydra.searchpath=[{','.join(others)}]"] if others else [])]


def _is_in(folder: str, target: str) -> bool:
    """Whether the class `target` is in a file or package of the user's own in a folder."""
    module = Path(folder, target.partition(".")[0])
    return not is_built_in(target) and (module.is_dir() or module.with_suffix(".py").is_file())


def expand(command_line: Sequence[str]) -> list[list[str]]:
    """The command lines of all cells of a sweep, as Hydra's own sweeper makes them, those that experiment= gives
    first. Raises UserError."""
    with _hydra(command_line) as (hydra, overrides):
        config = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=False)
        preset = [f"{name}={values}" for name, values in (config.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create(hydra.config_loader).parse_overrides([*preset, *overrides])
        [cells] = BasicSweeper.split_arguments(parsed, None)
    own = [argument for argument in command_line if argument.startswith(CONFIG_DIR)]
    return [[*own, *cell] for cell in cells]


@contextmanager
def _hydra(command_line: Sequence[str]) -> Iterator[tuple[Hydra, list[str]]]:
    """Hydra with the folders of a command line, and the overrides in it. Its errors become UserErrors of one line."""
    folders = [argument.removeprefix(CONFIG_DIR) for argument in command_line if argument.startswith(CONFIG_DIR)]
    search_path = create_config_search_path(str(ROOT / "conf"))
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
        search_path.prepend(FROM_CONFIG_DIR, f"file://{folder}", SearchPathQuery(provider="schema"))
    outer = get_gh_backup()
    setbase("1.3")
    try:
        hydra = Hydra.create_main_hydra2("cab", search_path)
        yield hydra, [argument for argument in command_line if not argument.startswith(CONFIG_DIR)]
    except HydraException as error:
        raise UserError(one_line(error).partition(" Config search path:")[0]) from error
    finally:
        GlobalHydra.instance().clear()
        restore_gh_from_backup(outer)


def _config_dir(folder: str) -> str:
    return f"{CONFIG_DIR}{Path(folder).expanduser().absolute()}"


def _use_own_folders(hydra: HydraConf) -> None:
    """Makes Python look for modules in the current folder and in those of the user's own YAML.

    Raises UserError if a file there has the name of one of ours, because Hydra would silently use ours.
    """
    folders = [os.getcwd()]
    for source in hydra.runtime.config_sources:
        if source.provider in (FROM_CONFIG_DIR, FROM_SEARCH_PATH):
            _check_names(source)
            folders += [source.path] if source.schema == "file" else []
    sys.path += [folder for folder in folders if folder not in sys.path]


def _folder(source: ConfigSourceInfo) -> Traversable:
    try:
        return Path(source.path) if source.schema == "file" else files(source.path.replace("/", "."))
    except ModuleNotFoundError as error:
        raise UserError(f"{source.schema}://{source.path}: {error}") from error


def _check_names(source: ConfigSourceInfo) -> None:
    folder = _folder(source)
    for path in sorted((ROOT / "conf").glob("*/**/*.yaml")):
        name = path.relative_to(ROOT / "conf")
        own = folder.joinpath(str(name))
        if own.is_file():
            raise UserError(f"{own}: CAB has {name.parent}={name.stem} already, rename yours")


def _family(choice: str, config: DictConfig, hydra: HydraConf, own: Sequence[str]) -> tuple[str, list[str]]:
    """The name of a cell's family, and the arguments that choose it and its options.

    The name is that of the YAML; if attention._target_= replaces the class that is named there, it is the class's.
    """
    with user_errors():
        resolved = OmegaConf.to_container(config.attention, resolve=True)
    assert isinstance(resolved, dict)
    options: dict[str, Any] = {str(key): value for key, value in resolved.items() if key not in (CHECK, "_partial_")}
    target = str(options.pop("_target_", ""))
    arguments = [*own, f"attention={choice}"]
    if target == _target_in_yaml(choice, hydra) or target == "":
        return choice, arguments + [f"attention.{key}={json.dumps(value)}" for key, value in options.items()]
    if is_built_in(target):
        raise UserError(f"attention._target_={target}: choose a family of CAB with attention=")
    name = target.rpartition(".")[2]
    if (other := name.lower()) in built_in_families():
        raise UserError(f"attention._target_={target}: CAB has attention={other} already, rename the class")
    arguments += [f"attention._target_={target}"]
    return name, arguments + [f"++attention.{key}={json.dumps(value)}" for key, value in options.items()]


def _target_in_yaml(choice: str, hydra: HydraConf) -> str | None:
    """The class that the YAML of a family names."""
    for source in hydra.runtime.config_sources:
        if source.schema in ("file", "pkg"):
            path = _folder(source).joinpath(f"attention/{choice}.yaml")
            if path.is_file():
                return str(OmegaConf.select(OmegaConf.create(path.read_text()), "_target_"))
    return None
