"""From a composed configuration to typed objects: what a command is to do, checked.

A value that does not fit is a UserError of one line that names it.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from attentions.base import Attention, Pattern, Shape, Stack
from attentions.slots import Family
from cab import ROOT
from cab.checked import checked, mapping, user_errors
from cab.errors import NoSuchPattern, UserError, instead, one_line
from cab.store.fingerprint import own_fingerprint
from tasks.base import Data, Options, Task, TaskContext, leaves_positions
from tasks.data.set_aside import make_way

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What both numpy and torch take."""

CHECK = "check"
"""Key in a family's YAML: options so small that a few tokens cross several blocks. Not part of any result."""

MAPPINGS = ("attention", "task", "model", "train", "tune", "data", "device", "efficiency", "wandb")
VALUES = ("pattern", "size", "seed", "results", "rerun", "measure")
"""The parts of a configuration."""

OmegaConf.register_new_resolver("cab.root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("cab.share", lambda share, whole: max(1, round(share * whole)), replace=True)


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained. The options after `tuned_over` do not change the result, only how it is reached, except
    that `validations` counts where a validation decides which weights are tested or when training ends."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=2, max_length=2)
    clip: float = Field(gt=0)
    final_lr: float = Field(ge=0, le=1)
    """Last learning rate as a fraction of `lr`, reached by a cosine."""
    select: Literal["best", "last"] = "last"
    """The weights that are tested: those with the best headline metric on validation, or those of the last step."""
    stop_at: float | None = None
    """Training ends at the first validation whose headline metric is as good as this; null = after `steps`."""
    tuned_over: list[float] = Field(default_factory=list)
    """The grid of rates from which cab.tune chooses or chose `lr`; empty = `lr` was given."""
    micro_batch: int | None = None
    """Examples per forward pass; null = the whole batch."""
    validations: int = Field(default=5, ge=1)
    checkpoint_seconds: float = Field(default=20.0, ge=0)
    """Time between checkpoints; 0 = one after every step."""

    def __post_init__(self) -> None:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be below steps={self.steps}")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise ValueError(f"micro_batch={self.micro_batch} must divide batch={self.batch}")

    def identity(self) -> dict[str, Any]:
        excluded = ["micro_batch", "checkpoint_seconds"]
        if self.select == "last" and self.stop_at is None:
            excluded.append("validations")
        return {key: value for key, value in asdict(self).items() if key not in excluded}


@dataclass(frozen=True, config=STRICT)
class Tune:
    rates: list[float] | None
    """The grid of learning rates that cab.tune tries; None = the recipe has none."""

    def __post_init__(self) -> None:
        rates = self.rates
        if rates is not None and (len(rates) < 2 or rates[0] <= 0 or any(b <= a for a, b in pairwise(rates))):
            raise ValueError(f"rates={rates}: at least two, above 0 and ascending")


@dataclass(frozen=True, config=STRICT)
class Device:
    name: str
    precision: Literal["auto", "float32", "bfloat16"]
    threads: int | None = Field(ge=1, le=1024)
    """More than any machine has: OpenMP hangs or crashes with some thousands."""


@dataclass(frozen=True, config=STRICT)
class Efficiency:
    """What to measure; cab.efficiency.plan.Plan checks the values."""

    level: str
    phases: list[str]
    lengths: list[int]
    batch: int
    decode_batches: list[int]
    rounds: int
    budget: float = Field(gt=0)


@dataclass(frozen=True, config=STRICT)
class Tracking:
    mode: Literal["offline", "online", "disabled"]
    project: str
    group: str | None


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Request:
    """What the command line of one cell asks for, checked."""

    attention: str
    """The family's name in records; its options are in `resolved`."""
    task: str
    size: str
    family: Any  # attentions.slots.Family, which pydantic cannot look into
    small_family: Any
    """The family with the options under `check:` in its YAML, for cab.check.gate."""
    own_arguments: list[str]
    """The arguments of a command line with which the user's own files are found."""
    family_arguments: list[str]
    """The arguments that choose the family and its options, those included."""
    pattern: Pattern
    make_task: Callable[[TaskContext], Task]
    shape: Shape
    data: Data
    seed: int
    training: Training
    rates: list[float] | None
    """The grid that cab.tune tries."""
    efficiency: Efficiency
    device: Device
    tracking: Tracking
    results: Path
    rerun: bool
    measure: bool
    resolved: dict[str, Any]
    """The configuration without interpolations. A family or task of the user's own has the hash of its source in
    attention._source_ or task._source_, so that a changed file makes a new cell."""

    def build_task(self) -> Task:
        make_way(self.results / "cache", "folder")
        return self.make_task(TaskContext(self.pattern, self.shape, self.data, self.seed, self.results / "cache"))


def resolve(config: DictConfig) -> dict[str, Any]:
    """A composed configuration without interpolations, whose parts are there and no others. Raises UserError."""
    with user_errors():
        for key in OmegaConf.missing_keys(config):
            raise UserError(f"{key} is missing: give it as {key}=...")
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    resolved = {str(key): value for key, value in plain.items()}
    for key, value in resolved.items():
        if key not in (*MAPPINGS, *VALUES):
            raise UserError(f"{key}={value!r}: no such option; {instead(key, [*MAPPINGS, *VALUES])}")
        if key in MAPPINGS:
            mapping(key, value)
    for key in (*MAPPINGS, *VALUES):
        if key not in resolved:
            raise UserError(f"{key} is missing: give it as {key}=...")
    return resolved


def load(
    resolved: Mapping[str, Any],
    attention: str,
    task: str,
    own_arguments: Sequence[str] = (),
    family_arguments: Sequence[str] = (),
) -> Request:
    """The request of what `resolve` returned, given the names of family and task. Raises UserError."""
    resolved = {**resolved, "attention": dict(resolved["attention"])}
    small = mapping(f"attention.{CHECK}", resolved["attention"].pop(CHECK, {}))
    with user_errors("pattern: "):
        pattern = Pattern(resolved["pattern"])
    make_task = task_factory(resolved["task"])
    patterns = make_task.func.patterns  # type: ignore[attr-defined]
    if pattern not in patterns:
        raise NoSuchPattern(f"task {task} has no pattern {pattern}: use pattern={' or pattern='.join(patterns)}")
    if "rotary" in resolved["model"]:
        raise UserError("model.rotary: follows from the task, use task.positions=rotary")
    resolved["model"] = {**resolved["model"], "rotary": leaves_positions(make_task.keywords["options"])}
    family = make_family(resolved["attention"])
    small_family = make_family(resolved["attention"] | small, f"attention.{CHECK}")
    for group, kind in (("attention", family.func), ("task", make_task.func)):
        if not is_built_in(kind.__module__):
            resolved[group] = {**resolved[group], "_source_": own_fingerprint(kind)}
    return Request(
        attention=attention,
        task=task,
        size=checked("size", str, resolved["size"]),
        family=family,
        small_family=small_family,
        own_arguments=list(own_arguments),
        family_arguments=list(family_arguments),
        pattern=pattern,
        make_task=make_task,
        shape=checked("model", Shape, resolved["model"]),
        data=checked("data", Data, resolved["data"]),
        seed=checked("seed", Seed, resolved["seed"]),
        training=checked("train", Training, resolved["train"]),
        rates=checked("tune", Tune, resolved["tune"]).rates,
        efficiency=checked("efficiency", Efficiency, resolved["efficiency"]),
        device=checked("device", Device, resolved["device"]),
        tracking=checked("wandb", Tracking, resolved["wandb"]),
        results=results_folder(resolved.pop("results")),
        rerun=checked("rerun", bool, resolved["rerun"]),
        measure=checked("measure", bool, resolved["measure"]),
        resolved=resolved,
    )


def is_built_in(module: str) -> bool:
    """Whether a module, or a class given by its path, is one of ours."""
    return module.partition(".")[0] in ("attentions", "tasks")


def results_folder(value: Any) -> Path:
    """The folder for results, which need not be there. Raises UserError if it cannot be."""
    if not checked("results", str, value):
        raise UserError("results='': a folder is needed")
    try:
        folder = Path(value).expanduser().absolute()
    except RuntimeError as error:  # ~ without a home
        raise UserError(f"results={value}: {one_line(error)}") from error
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not os.path.isdir(place):
            raise UserError(f"results={value}: {place} is no folder: choose another one")
    return folder


def make_family(options: Mapping[str, Any], name: str = "attention") -> Family:
    """The family with its options, which are checked against the type hints of its constructor. Raises UserError."""
    family = constructor(name, options, Attention, Stack)
    parameters = inspect.signature(family.func).parameters
    known = [key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    hints = get_type_hints(family.func.__init__)
    for key, value in family.keywords.items():
        if key in parameters and key not in known:
            raise UserError(f"{name}.{key}: the constructor has to take it as an option, after `*`")
        if key not in known:
            raise UserError(f"{name}.{key}={value!r}: no such option; {instead(key, known)}")
        if key not in hints:
            raise UserError(f"{name}.{key}: the constructor does not say of what type it is, as in `{key}: float`")
        checked(f"{name}.{key}", hints[key], value)
    return family


def task_factory(options: Mapping[str, Any]) -> partial[Task]:
    """The task's class with its options, checked against the class that it declares as `options`. Raises UserError."""
    made = constructor("task", options, Task)
    declared = get_type_hints(made.func).get("options")
    if not (isinstance(declared, type) and issubclass(declared, Options)):
        raise UserError(
            f"task: {options['_target_']} has to be a Task with `options: MyOptions`, a subclass of Options"
        )
    return partial(made.func, options=checked("task", declared, made.keywords))


def constructor(name: str, options: Mapping[str, Any], *kinds: type) -> partial[Any]:
    """The class that `_target_` names, one of these kinds, with the other options of a YAML as keyword arguments."""
    target, is_partial = options.get("_target_"), options.get("_partial_")
    if is_partial is not True:
        raise UserError(f"{name}._partial_={is_partial!r}: its YAML needs _partial_: true")
    if not isinstance(target, str):
        raise UserError(f"{name}._target_={target!r}: the path of a class is needed, as in my_module.MyClass")
    if "name" in options:
        own = "task" if name == "task" else "family"
        raise UserError(f"{name}.name: in records that is what the {own} is called, rename the option")
    module, _, kind = target.rpartition(".")
    try:
        found = getattr(import_module(module), kind)
    except Exception as error:  # whatever a module of the user's own raises
        raise UserError(f"{name}._target_={target}: {type(error).__name__}: {one_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, kinds)):
        names = " or ".join(each.__name__ for each in kinds)
        raise UserError(f"{name}._target_={target}: a subclass of {names} is needed")
    return partial(found, **{key: value for key, value in options.items() if key not in ("_target_", "_partial_")})
