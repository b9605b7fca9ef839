"""From a composed configuration to typed objects, with one clear line for every value that does not fit.

The only module besides the command lines that knows Hydra. Anything wrong with what the user asked for is a UserError.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass, is_pydantic_dataclass

from attentions.base import Pattern, Shape, Unsupported
from attentions.slots import Family
from cab import ROOT
from cab.errors import NoSuchPattern, UserError
from tasks.base import Data, Options, Task, TaskContext

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What both numpy and torch take."""

CHECK = "check"
"""Key in a family's YAML: options so small that a few tokens cross several blocks. Not part of any result."""

OmegaConf.register_new_resolver("cab.root", lambda: str(ROOT), replace=True)


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained. `micro_batch` and `validations` do not change the result, only how it is reached."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    betas: list[float] = Field(min_length=2, max_length=2)
    clip: float = Field(gt=0)
    final_lr: float = Field(ge=0, le=1)
    """Last learning rate as a fraction of `lr`, reached by a cosine."""
    micro_batch: int | None = None
    """Examples per forward pass; null = the whole batch."""
    validations: int = Field(default=5, ge=1)

    def __post_init__(self) -> None:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be below steps={self.steps}")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise ValueError(f"micro_batch={self.micro_batch} must divide batch={self.batch}")

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("micro_batch", "validations")}


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
    """Everything a command line asks for, checked."""

    attention: str
    """Name of the group choice; the options are in `resolved`."""
    task: str
    size: str
    family: Any  # attentions.slots.Family, which pydantic cannot look into
    small: Any
    """The family with the options under `check:` in its YAML, for cab.check.gate."""
    pattern: Pattern
    make_task: Callable[[TaskContext], Task]
    shape: Shape
    data: Data
    seed: int
    training: Training
    efficiency: Efficiency
    device: Device
    tracking: Tracking
    results: Path
    rerun: bool
    measure: bool
    resolved: dict[str, Any]

    def build_task(self) -> Task:
        return self.make_task(TaskContext(self.pattern, self.shape, self.data, self.seed, self.results / "cache"))


def load(config: DictConfig, attention: str, task: str) -> Request:
    """`attention` and `task` are the names of the group choices. Raises UserError for anything that does not fit."""
    with user_errors():
        for key in OmegaConf.missing_keys(config):
            raise UserError(f"{key} is missing: give it as {key}=...")
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    resolved: dict[str, Any] = {str(key): value for key, value in plain.items()}
    resolved["attention"].pop(CHECK, None)
    pattern = Pattern(resolved["pattern"])
    make_task = task_factory(config.task)
    known = make_task.func.patterns  # type: ignore[attr-defined]
    if pattern not in known:
        raise NoSuchPattern(f"task {task} has no pattern {pattern}: use pattern={' or pattern='.join(known)}")
    return Request(
        attention=attention,
        task=task,
        size=checked("size", str, resolved["size"]),
        family=family(config),
        small=family(config, small=True),
        pattern=pattern,
        make_task=make_task,
        shape=checked("model", Shape, resolved["model"]),
        data=checked("data", Data, resolved["data"]),
        seed=checked("seed", Seed, resolved["seed"]),
        training=checked("train", Training, resolved["train"]),
        efficiency=checked("efficiency", Efficiency, resolved["efficiency"]),
        device=checked("device", Device, resolved["device"]),
        tracking=checked("wandb", Tracking, resolved["wandb"]),
        results=Path(checked("results", str, resolved["results"])).expanduser().absolute(),
        rerun=checked("rerun", bool, resolved["rerun"]),
        measure=checked("measure", bool, resolved["measure"]),
        resolved=resolved,
    )


def family(config: DictConfig, small: bool = False) -> Family:
    """The family with its options; `small` puts those under `check:` in their place."""
    options = copy.deepcopy(config.attention)
    with open_dict(options), user_errors(f"attention.{CHECK}: "):
        for key, value in (options.pop(CHECK, None) or {}).items():
            if small:
                options[key] = value
    return part(f"attention.{CHECK}" if small else "attention", options)


def task_factory(config: DictConfig) -> partial[Task]:
    """The task's class with its options, checked against the class that it declares as `options`."""
    with user_errors("task: "):
        made = instantiate(config, _convert_="all")
    if not isinstance(made, partial):
        raise UserError("task: its YAML needs _partial_: true")
    options = get_type_hints(made.func).get("options")
    if not (isinstance(options, type) and issubclass(options, Options)):
        raise UserError(f"task: {config._target_} has to be a Task with `options: MyOptions`, a subclass of Options")
    return partial(made.func, options=checked("task", options, made.keywords))


def part(name: str, config: DictConfig) -> Any:
    """A family, its options filled in and checked against its constructor."""
    with user_errors(f"{name}: "):
        made = instantiate(config, _convert_="all")
    if not isinstance(made, partial):
        raise UserError(f"{name}: its YAML needs _partial_: true")
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


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
