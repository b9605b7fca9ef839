"""The contract between a task and the runner: data, a backbone, a loss, metrics.

A task is one file. It asks `Slots` for attention through a backbone and never names a family. Examples are a pure
function of (seed, split, id): the runner asks for ids, so that resuming, gradient accumulation and several processes
see the same examples without any loader state. Invalid values and data raise ValueError with one line that names the
value, what is allowed and what to do.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from attentions.base import Pattern, Shape
from attentions.slots import Slots

Batch = dict[str, Tensor]
Move = Callable[[Batch], Batch]
"""Brings a batch to the model's device."""
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Metric:
    name: str
    better: Literal["lower", "higher"]
    unit: str = ""


@dataclass(frozen=True)
class Data:
    """Where data comes from: `embedded` (no network), `local` (a folder at `path`), `hub` (a `datasets` id)."""

    source: Literal["embedded", "local", "hub"] = "embedded"
    path: str | None = None
    id: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """What was really used, for the record."""

    description: str
    real: bool
    """False for generated data."""
    content: str
    """SHA-256 of the content, so that results on different data are never mixed."""
    facts: dict[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    metrics: dict[str, float]
    tables: dict[str, list[dict[str, int | float | str]]] = field(default_factory=dict)
    """Finer results, a list of rows each: accuracy by distance, for example."""


@dataclass(frozen=True)
class Trivial:
    """A predictor that needs no learning, and what it scores on the test split: what a result must beat."""

    name: str
    metrics: dict[str, float]


class Task(ABC):
    """One task in one pattern. Subclasses add their own options, keyword only.

    What `prepare` finds (`tokens: Tokens`) is declared in the class without a value, and absent before.
    """

    name: ClassVar[str]
    patterns: ClassVar[tuple[Pattern, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    """The first one is the task's headline."""

    def __init__(self, pattern: Pattern, shape: Shape, data: Data, seed: int, cache: Path) -> None:
        if pattern not in self.patterns:
            raise ValueError(f"task {self.name} has no pattern {pattern}: use one of {', '.join(self.patterns)}")
        self.pattern, self.shape, self.data, self.seed, self.cache = pattern, shape, data, seed, cache

    @abstractmethod
    def prepare(self) -> Source:
        """Loads or makes the data; what is costly is cached below `cache` by content, safe against parallel jobs."""

    @abstractmethod
    def build(self, slots: Slots) -> nn.Module:
        """The backbone, its attention taken from `slots`. Needs no data but what `prepare` found (a vocabulary)."""

    @abstractmethod
    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """The examples with these ids, on the CPU. Train ids go up without end; see `examples` for the others."""

    @abstractmethod
    def examples(self, split: Split) -> int:
        """How many examples an evaluation of this split uses."""

    @abstractmethod
    def targets(self, batch: Batch) -> int:
        """Number of predictions that `loss` sums over, so that the mean over a global batch is exact."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss over targets, and the auxiliary loss of the model (a mean, 0 for most families)."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        """Metrics over the split's examples. The model is in eval mode and gradients are off."""

    @abstractmethod
    def trivial(self) -> Trivial:
        """The trivial predictor's score on the test split."""

    def batches(self, split: Split, size: int, move: Move) -> Iterator[Batch]:
        """All examples of a split in order, `size` at a time."""
        count = self.examples(split)
        for start in range(0, count, size):
            yield move(self.batch(split, range(start, min(start + size, count))))
