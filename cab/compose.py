"""From a command line to requests: Hydra composes the configuration, cab.config checks it.

A command line is a list of Hydra overrides and at most one `--config-dir=DIR`, a folder with a user's own YAML
(DIR/attention/mine.yaml). Python files of a user's own are found in the current folder and in DIR. Whatever Hydra says
of a line becomes a UserError here, for every command.
"""

import copy
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.conf import ConfigSourceInfo, HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from cab import ROOT
from cab.arguments import CONFIG_DIR, is_own
from cab.checked import user_errors
from cab.config import CHECK, Request, is_built_in, load, resolve
from cab.errors import UserError, instead, one_line
from cab.overrides import is_for_sweeps, parse, products, refuse_sweep

FROM_CONFIG_DIR, FROM_SEARCH_PATH = "command-line", "hydra.searchpath in command-line"
"""What we, as Hydra, call the origins of folders with a user's own YAML."""


def compose_requests(command_line: Sequence[str]) -> list[Request]:
    """The requests of every cell of a sweep. Raises UserError."""
    composer = Composer()
    return [composer.request(cell) for cell in expand(command_line)]


def compose_one(command_line: Sequence[str]) -> Request:
    """The request of one cell. Raises UserError."""
    config = compose(command_line)
    given = {argument.partition("=")[0] for argument in command_line}
    if swept := [name for name in config.hydra.sweeper.params or {} if name not in given]:
        name = f"experiment={config.hydra.runtime.choices.get('experiment')}"
        raise UserError(f"{name} is a sweep over {', '.join(swept)}: add -m (python -m cab.run -m {name} ...)")
    return request_of(config, config.hydra)


def compose(command_line: Sequence[str]) -> DictConfig:
    """The configuration of one cell, that of Hydra itself included. Raises UserError."""
    loader, overrides = _parse(command_line)
    refuse_sweep(overrides)
    return _compose(loader, overrides, RunMode.RUN)


class Composer:
    """Makes the requests of many cells. Cells that differ in their seed only share a composed configuration, because
    composing takes longer than all else."""

    def __init__(self) -> None:
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def request(self, cell: Sequence[str]) -> Request:
        """The request of the cell with this command line. Raises UserError."""
        rest, seed = tuple(cell), None
        seeds = [override.removeprefix("seed=") for override in cell if override.startswith("seed=")]
        if len(seeds) == 1 and seeds[0].isdecimal():
            rest, seed = tuple(override for override in cell if not override.startswith("seed=")), int(seeds[0])
        if rest not in self.composed:
            self.composed[rest] = compose(rest)
        config = copy.deepcopy(self.composed[rest])
        if seed is not None:
            config.seed = seed
        return request_of(config, config.hydra)


def request_of(config: DictConfig, hydra: HydraConf) -> Request:
    """The request of a composed configuration, from which `hydra`, Hydra's own part of it, is removed.

    Raises UserError.
    """
    from cab.efficiency.cell import make_plan

    _use_own_folders(hydra)
    with open_dict(config):
        config.pop("hydra", None)
    resolved, choices = resolve(config), hydra.runtime.choices
    own = own_arguments(resolved, hydra)
    name, family_arguments = _family(choices["attention"], resolved["attention"], hydra, own)
    request = load(resolved, name, choices["task"], own, family_arguments)
    make_plan(request, torch.device("cpu"), families=1)  # what is wrong with `efficiency` is wrong for every command
    return request


def check_task(request: Request) -> None:
    """Raises UserError for options of the task that do not fit the sizes of the model."""
    with user_errors():
        request.build_task()


def built_in_families() -> list[str]:
    """The names in our conf/attention: baselines first, the control last."""
    names = [path.stem for path in (ROOT / "conf" / "attention").glob("*.yaml")]
    return sorted(names, key=lambda name: ({"vanilla": 0, "eager": 1, "none": 3}.get(name, 2), name))


def own_arguments(resolved: Mapping[str, Any], hydra: HydraConf) -> list[str]:
    """The arguments with which the user's own YAML and Python files are found from anywhere, for commands in records.

    The current folder is one of them if the family or the task is in a file there.
    """
    sources = hydra.runtime.config_sources
    found = [source.path for source in sources if source.provider == FROM_CONFIG_DIR]
    others = [f"{source.schema}://{source.path}" for source in sources if source.provider == FROM_SEARCH_PATH]
    here = os.getcwd()
    known = {os.path.abspath(path.removeprefix("file://")) for path in [*found, *others]}
    if here not in known and any(_is_in(here, str(resolved[group].get("_target_"))) for group in ("attention", "task")):
        others.append(f"file://{here}")
    return [*map(_config_dir, found), *([f"hydra.searchpath=[{','.join(others)}]"] if others else [])]


def _is_in(folder: str, target: str) -> bool:
    """Whether the class `target` is in a file or package of the user's own in a folder."""
    module = Path(folder, target.partition(".")[0])
    return not is_built_in(target) and (module.is_dir() or module.with_suffix(".py").is_file())


def expand(command_line: Sequence[str]) -> list[list[str]]:
    """The command lines of all cells of a sweep, those that experiment= gives first. Raises UserError."""
    return sweep_of(command_line)[0]


def sweep_of(command_line: Sequence[str]) -> tuple[list[list[str]], HydraConf]:
    """The command lines of all cells of a sweep, and Hydra's own settings, which say how it is launched.

    Raises UserError.
    """
    loader, overrides = _parse(command_line)
    config = _compose(loader, overrides, RunMode.MULTIRUN)
    preset = [f"{name}={values}" for name, values in (config.hydra.sweeper.params or {}).items()]
    given = [override for override in overrides if not is_for_sweeps(override)]
    cells = products([*parse(preset, loader), *given])
    own = [argument for argument in command_line if is_own(argument)]
    return [[*own, *cell] for cell in cells], config.hydra


def _parse(command_line: Sequence[str]) -> tuple[ConfigLoader, list[Override]]:
    """Hydra with the folders of a command line, and its other arguments as overrides. Raises UserError."""
    setbase("1.3")
    setup_globals()
    search_path = create_config_search_path(str(ROOT / "conf"))
    schema = SearchPathQuery(provider="schema")
    for argument in command_line:
        if argument.startswith(CONFIG_DIR):
            own = argument.removeprefix(CONFIG_DIR)
            if not Path(own).is_dir():
                raise UserError(f"--config-dir {own}: no such folder")
            search_path.prepend(FROM_CONFIG_DIR, f"file://{own}", schema)
        elif is_own(argument):
            [override] = parse([argument], ConfigLoaderImpl(search_path))
            folders: Any = override.value()
            for folder in folders:
                search_path.prepend(FROM_SEARCH_PATH, folder, schema)
    loader = ConfigLoaderImpl(search_path)
    return loader, parse([argument for argument in command_line if not is_own(argument)], loader)


def _compose(loader: ConfigLoader, overrides: Sequence[Override], mode: RunMode) -> DictConfig:
    """What Hydra makes of overrides. Raises UserError: only what the user gave can be wrong."""
    try:
        lines = [str(override.input_line) for override in overrides]
        return loader.load_configuration("config", lines, mode, from_shell=False)
    except Exception as error:  # of many types, for values of a type that Hydra does not expect
        raise UserError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """An error of Hydra's in one line."""
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        known = [str(key) for key in cause.parent_node if key != "hydra"]
        return f"{cause.full_key}: no such option; {instead(str(cause.key), known)}"
    text = one_line(error).partition(" Config search path:")[0]
    if isinstance(cause, OmegaConfBaseException) and isinstance(error, HydraException):
        text = f"{text}: {one_line(cause)}" if str(error) else one_line(cause)
    return text.partition(" full_key:")[0].partition(" To append to your config")[0]


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


def _family(choice: str, given: Mapping[str, Any], hydra: HydraConf, own: Sequence[str]) -> tuple[str, list[str]]:
    """The name of a cell's family, and the arguments that choose it and its options.

    The name is that of the YAML; if attention._target_= replaces the class that is named there, it is the class's.
    """
    options = {key: value for key, value in given.items() if key not in (CHECK, "_partial_")}
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
