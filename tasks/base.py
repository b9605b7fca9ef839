"""The contract between a task and the runner: data, a backbone, a loss, metrics.

A task is one file with two classes: its `Options` and a `Task`. A backbone takes its attention from `Slots`; a task
never names a family. Examples are a pure function of (seed, split, id): the runner asks for ids, so that resuming,
gradient accumulation and several processes see the same examples without any loader state.

Invalid values and data raise ValueError with one line that names the value, what is allowed and what to do.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from attentions.base import Pattern, Shape
from attentions.slots import Slots

Batch = dict[str, Tensor]
Move = Callable[[Batch], Batch]
"""Moves a batch to the model's device."""
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
NO_LABEL = -100
"""The label of a position where nothing is predicted."""
Row = dict[str, int | float | str]
"""A row of a table in a record."""


@dataclass(frozen=True)
class Metric:
    name: str
    better: Literal["lower", "higher"]


@dataclass(frozen=True)
class Data:
    """Where data comes from: `embedded` (no network), `local` (a folder at `path`), `hub` (a `datasets` id)."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    path: str | None = None
    id: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        own = {"embedded": (), "local": ("path",), "hub": ("id", "revision")}[self.source]
        for name, kind in (("path", "local"), ("id", "hub"), ("revision", "hub")):
            value = getattr(self, name)
            if value is not None and name not in own:
                effect = f"{name}={value}: has no effect with data={self.source}"
                raise ValueError(f"{effect}: leave it out, or use data={kind}")


@dataclass(frozen=True)
class Source:
    """The data that a task used, for the record."""

    description: str
    real: bool
    """False for synthetic data."""
    content: str
    """SHA-256 of the content, so that results on different data are never mixed."""
    facts: dict[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    metrics: dict[str, float]
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """Finer results, a list of rows each: accuracy by distance, for example."""


@dataclass(frozen=True)
class Predictor:
    """A predictor without attention or a network, and its scores on the test split: what a model has to beat."""

    name: str
    metrics: dict[str, float]
    """The headline, and those of the others that it has."""


@dataclass(frozen=True)
class TaskContext:
    """What every task needs besides its own options."""

    pattern: Pattern
    shape: Shape
    data: Data
    seed: int
    cache: Path
    """Folder for prepared data."""


class Options(BaseModel):
    """Base class of a task's options: each field has a type, a default and its limits (`Field(8, ge=1)`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def leaves_positions(options: Options) -> bool:
    """Whether a task's options leave positions to the attention."""
    return getattr(options, "positions", None) == "rotary"


class Task(ABC):
    """One task in one pattern.

    A subclass declares its options as `options: MyOptions`; the configuration is checked against that class. What
    `prepare` loads (`tokens: Tokens`) is declared in the class without a value.
    """

    name: ClassVar[str]
    patterns: ClassVar[tuple[Pattern, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    """The first one is the task's headline."""
    uses_memory: ClassVar[bool] = True
    """Whether `shape.memory` has an effect; where it has none, only 0 is accepted."""
    options: Any

    def __init__(self, context: TaskContext, options: Options) -> None:
        if context.pattern not in self.patterns:
            known = ", ".join(self.patterns)
            raise ValueError(f"task {self.name} has no pattern {context.pattern}: use one of {known}")
        if context.shape.memory and not self.uses_memory:
            raise ValueError(f"memory={context.shape.memory}: has no effect in {self.name}: use model.memory=0")
        self.shape = replace(context.shape, rotary=leaves_positions(options))
        self.pattern, self.data = context.pattern, context.data
        self.seed, self.cache, self.options = context.seed, context.cache, options

    @abstractmethod
    def prepare(self) -> Source:
        """Loads or makes the data. Slow preparation is cached below `cache` by content, safe against parallel jobs."""

    @abstractmethod
    def build(self, slots: Slots) -> nn.Module:
        """The backbone, its attention taken from `slots`. Needs no data but what `prepare` found (a vocabulary)."""

    @abstractmethod
    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """The examples with these ids, on the CPU. Train ids have no upper limit, others are below `examples`."""

    @abstractmethod
    def examples(self, split: Split) -> int:
        """The number of examples in an evaluation of this split."""

    @abstractmethod
    def targets(self, batch: Batch) -> int:
        """The number of predictions that `loss` sums over, so that the mean over a global batch is exact."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss over targets, and the auxiliary loss of the model (a mean, 0 for most families)."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        """Metrics over the split's examples. The model is in eval mode and gradients are off."""

    @abstractmethod
    def predictors(self) -> list[Predictor]:
        """Predictors without attention or a network, scored on the test split: what a trained model has to beat."""

    def vocabulary_numbers(self, examples: int) -> int:
        """How many numbers a training step on so many examples holds because of the size of a vocabulary: with each id
        four in a table (a weight, its gradient and two averages), three at each predicted position (a logit, its
        logarithm and its gradient)."""
        return 0

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Settings that a recipe gives for all patterns and that change nothing in this one, as `model.memory`: they
        may not be given on a command line."""
        return ()

    def refuse_option(self, name: str, where: str) -> None:
        """For an option without an effect: raises ValueError if it is not at its default. What has no effect must not
        make another cell of the same numbers."""
        value = getattr(self.options, name)
        if value != type(self.options).model_fields[name].default:
            raise ValueError(f"task.{name}={value}: has no effect {where}: leave it out")

    def batches(self, split: Split, size: int, move: Move) -> Iterator[Batch]:
        """All examples of a split in order, `size` at a time."""
        count = self.examples(split)
        for start in range(0, count, size):
            yield move(self.batch(split, range(start, min(start + size, count))))

    def random(self, split: Split, id: int) -> np.random.Generator:
        """The random numbers of one example. Those of validation and test are the same for every seed."""
        return np.random.default_rng((self.seed if split == "train" else 0, SPLITS.index(split), id))


def synthetic(description: str, parameters: Mapping[str, Any], facts: dict[str, int | float | str]) -> Source:
    """The source of data that is a function of `parameters`; one of them should be the version of the generator."""
    content = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return Source(description, False, content, facts)
