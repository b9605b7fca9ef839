"""From a composed configuration to typed objects: what a command is to do, checked.

A value that does not fit is a UserError of one line that names it.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass, is_pydantic_dataclass

from attentions.base import Attention, Pattern, Shape, Stack, Unsupported
from attentions.slots import Family
from cab import ROOT
from cab.errors import NoSuchPattern, UserError, one_line
from cab.store.fingerprint import own_fingerprint
from tasks.base import Data, Options, Task, TaskContext, leaves_positions
from tasks.data.set_aside import make_way

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What both numpy and torch take."""

CHECK = "check"
"""Key in a family's YAML: options so small that a few tokens cross several blocks. Not part of any result."""

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
    betas: list[float] = Field(min_length=2, max_length=2)
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
    threads: int | None = Field(ge=1)


@dataclass(frozen=True, config=STRICT)
class Efficiency:
    """What to measure; cab.efficiency.plan.Plan checks the values."""

    level: str
    phases: list[str]
    lengths: list[int]
    batch: int
    decode_batches: list[int]
    rounds: int
    budget: float


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


def load(
    config: DictConfig,
    attention: str,
    task: str,
    own_arguments: Sequence[str] = (),
    family_arguments: Sequence[str] = (),
) -> Request:
    """The request of a configuration, given the names of family and task. Raises UserError."""
    with user_errors():
        for key in OmegaConf.missing_keys(config):
            raise UserError(f"{key} is missing: give it as {key}=...")
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    resolved: dict[str, Any] = {str(key): value for key, value in plain.items()}
    resolved["attention"].pop(CHECK, None)
    pattern = Pattern(resolved["pattern"])
    make_task = task_factory(config.task)
    patterns = make_task.func.patterns  # type: ignore[attr-defined]
    if pattern not in patterns:
        raise NoSuchPattern(f"task {task} has no pattern {pattern}: use pattern={' or pattern='.join(patterns)}")
    if "rotary" in resolved["model"]:
        raise UserError("model.rotary: follows from the task, use task.positions=rotary")
    resolved["model"]["rotary"] = leaves_positions(make_task.keywords["options"])
    family = make_family(config)
    for group, kind in (("attention", family.func), ("task", make_task.func)):
        if not is_built_in(kind.__module__):
            resolved[group]["_source_"] = own_fingerprint(kind)
    return Request(
        attention=attention,
        task=task,
        size=checked("size", str, resolved["size"]),
        family=family,
        small_family=make_family(config, small=True),
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
        results=Path(checked("results", str, resolved.pop("results"))).expanduser().absolute(),
        rerun=checked("rerun", bool, resolved["rerun"]),
        measure=checked("measure", bool, resolved["measure"]),
        resolved=resolved,
    )


def is_built_in(module: str) -> bool:
    """Whether a module, or a class given by its path, is one of ours."""
    return module.partition(".")[0] in ("attentions", "tasks")


def make_family(config: DictConfig, small: bool = False) -> Family:
    """The family with its options; with `small`, those under `check:` replace others."""
    name = f"attention.{CHECK}" if small else "attention"
    options = copy.deepcopy(config.attention)
    with open_dict(options), user_errors(f"attention.{CHECK}: "):
        small_options = options.pop(CHECK, None) or {}
        if small:
            for key, value in small_options.items():
                options[key] = value
    family: Family = family_factory(name, options)
    if not (isinstance(family.func, type) and issubclass(family.func, Attention | Stack)):
        raise UserError(f"{name}._target_={options._target_}: a subclass of Attention or Stack is needed")
    return family


def instantiate_partial(name: str, config: DictConfig) -> partial[Any]:
    """What `_target_` names, with the options of the YAML as keyword arguments."""
    with user_errors(f"{name}: "):
        made = instantiate(config, _convert_="all")
    if not isinstance(made, partial):
        raise UserError(f"{name}: its YAML needs _partial_: true")
    return made


def task_factory(config: DictConfig) -> partial[Task]:
    """The task's class with its options, checked against the class that it declares as `options`."""
    made = instantiate_partial("task", config)
    options = get_type_hints(made.func).get("options")
    if not (isinstance(options, type) and issubclass(options, Options)):
        raise UserError(f"task: {config._target_} has to be a Task with `options: MyOptions`, a subclass of Options")
    if "name" in made.keywords:
        raise UserError("task.name: in records that is what the task is called, rename the option")
    return partial(made.func, options=checked("task", options, made.keywords))


def family_factory(name: str, config: DictConfig) -> partial[Any]:
    """The constructor of a family with its options, which are checked against its type hints."""
    made = instantiate_partial(name, config)
    if "name" in made.keywords:
        raise UserError(f"{name}.name: in records that is what the family is called, rename the option")
    parameters = inspect.signature(made.func).parameters
    known = [key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    hints = get_type_hints(made.func.__init__)
    for key, value in made.keywords.items():
        if key in parameters and key not in known:
            raise UserError(f"{name}.{key}: the constructor has to take it as an option, after `*`")
        if key not in known:
            raise UserError(f"{name}.{key}={value!r}: no such option; it has {', '.join(known) or 'none'}")
        if key not in hints:
            raise UserError(f"{name}.{key}: the constructor does not say of what type it is, as in `{key}: float`")
        checked(f"{name}.{key}", hints[key], value)
    return made


def checked(name: str, kind: Any, value: Any) -> Any:
    """The value as `kind`; a dataclass or pydantic model is made from a mapping of its fields."""
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    made_of_fields = is_dataclass(kind) or is_model
    if made_of_fields:
        known = list(kind.model_fields) if is_model else [field.name for field in fields(kind)]
        for key in value:
            if key not in known:
                raise UserError(f"{name}.{key}={value[key]!r}: no such option; it has {', '.join(known) or 'none'}")
    try:
        if is_model or is_pydantic_dataclass(kind):
            return kind(**value)
        return TypeAdapter(kind).validate_python(value, strict=not made_of_fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        no_value = first["type"] == "missing" or (made_of_fields and not first["loc"])
        shown = "" if no_value else f"={first['input']!r}"
        raise UserError(f"{where}{shown}: {first['msg'].removeprefix('Value error, ')}") from error


@contextmanager
def user_errors(where: str = "") -> Iterator[None]:
    """Turns errors about values into UserErrors: for places where only what the user gave can be wrong."""
    try:
        yield
    except Unsupported:
        raise
    except InstantiationException as error:
        raise UserError(where + one_line(error.__cause__ or error)) from error
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(where + one_line(error)) from error
