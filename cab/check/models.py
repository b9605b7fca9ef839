"""Models under test: small, in float64, every parameter randomized, with inputs for them.

There are two settings. SMALL has design lengths of about 20 tokens and the family's small options (`check:` in its
YAML), so that inputs of 29 tokens are longer than the design and cross several blocks, windows or groups. Its lengths
divide nothing. REAL has the family's real options at the smallest design length that they allow, from 256 on.

There are two levels. The stack is what backbones get from `Slots.stack`; in cross patterns it has self attention too.
The layer is the family alone, if it is not a whole stack.

Parameters are randomized because their initial values hide faults: a projection or gate that starts at zero hides every
dependence. Matrices get the standard deviation 1 / sqrt(fan-in). Vectors get 0.3 around 0, or around 1 if they are all
ones (weights of norms). So activations keep their scale.

Every second model has rotary positions, norms on q and k and a short convolution. It has had two calls of `after_step`,
so that running statistics and sampling counters are no longer at their initial values.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, State, Unsupported, after_step
from attentions.slots import Family, Slots, is_stack

DIM, HEADS, HIDDEN, DEPTH, CONV = 32, 4, 256, 2, 4
"""The feed-forward is wide, so that a family with more parameters than vanilla can still meet the equal budget."""
MAX_DESIGN_LENGTH = 2**16
MODES = ("eval", "train")


@dataclass(frozen=True)
class Setting:
    """Lengths, and how thoroughly to check."""

    name: str
    length: int
    """Design length."""
    memory: int
    """Design length of the memory."""
    n: int
    """Length of the inputs."""
    m: int
    """Length of the memory."""
    sources: Sequence[int]
    """Positions of the input that are changed in turn."""
    memory_sources: Sequence[int]
    cuts: Sequence[int]
    """Lengths of prefixes."""
    prompts: Sequence[int]
    """Lengths of prompts."""
    seeds: int
    """Number of models per level."""
    exhaustive: bool
    """Whether `sources` are all positions, so that every single one can be required to have influence."""


SMALL = Setting(
    "small",
    length=24,
    memory=20,
    n=29,
    m=23,
    sources=range(29),
    memory_sources=range(23),
    cuts=range(1, 29),
    prompts=(1, 3, 8, 13, 20, 24, 28),
    seeds=2,
    exhaustive=True,
)
REAL = Setting(
    "real",
    length=256,
    memory=256,
    n=259,
    m=259,
    sources=(10, 63, 64, 129, 130, 200, 256, 258),
    memory_sources=(0, 60, 130, 170, 200, 258),
    cuts=(1, 64, 130, 257),
    prompts=(197, 256),
    seeds=1,
    exhaustive=False,
)


@dataclass(frozen=True)
class ModelUnderTest:
    """A model and how to call it. Every call starts from the same global random state, so that calls are repeatable."""

    module: Any
    pattern: Pattern
    setting: Setting
    level: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.level}, {self.setting.name} options"

    def __call__(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> Tensor:
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            y, _ = self.module(x, memory, valid, memory_valid)
        return y

    def prefill(self, x: Tensor, memory: Tensor | None, memory_valid: Tensor | None) -> tuple[Tensor, State]:
        with torch.no_grad():
            return self.module.prefill(x, memory, memory_valid)

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        with torch.no_grad():
            return self.module.step(x_t, state)

    def inputs(self, batch: int) -> tuple[Tensor, Tensor | None]:
        """Random x (B, n, D), and in cross patterns a memory (B, m, D)."""
        generator = self.generator("inputs")
        x = normal(generator, batch, self.setting.n, DIM)
        return x, normal(generator, batch, self.setting.m, DIM) if self.pattern.cross else None

    def generator(self, purpose: str) -> torch.Generator:
        """A generator with its own seed for every purpose and model."""
        return torch.Generator().manual_seed(sum(map(ord, purpose)) * 1000 + self.seed)

    @contextmanager
    def mode(self, mode: str) -> Iterator[None]:
        was_training = self.module.training
        self.module.train(mode == "train")
        try:
            yield
        finally:
            self.module.train(was_training)

    def advance_statistics(self, steps: int = 2) -> None:
        """Training steps as statistics see them: a forward pass in train mode, then `after_step`."""
        with self.mode("train"):
            for _ in range(steps):
                self(*self.inputs(3))
                after_step(self.module)


def normal(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def models_under_test(family: Family, pattern: Pattern, setting: Setting) -> list[ModelUnderTest]:
    """All models of a setting. Raises Unsupported, or ValueError for options that do not fit the design length."""
    levels = ["stack", "layer"] if setting.exhaustive and not is_stack(family) else ["stack"]
    models = []
    with preserved_random_state():
        for level in levels:
            for seed in range(setting.seeds):
                torch.default_generator.manual_seed(seed)
                module = _build(family, pattern, setting, level, plain=seed % 2 == 0).double().eval()
                model = ModelUnderTest(module, pattern, setting, level, seed)
                _randomize_parameters(module, model.generator("parameters"))
                if seed % 2:
                    model.advance_statistics()
                models.append(model)
    return models


def _build(family: Family, pattern: Pattern, setting: Setting, level: str, plain: bool) -> nn.Module:
    depth = max(DEPTH, family.func.min_depth) if is_stack(family) else DEPTH  # type: ignore[attr-defined]
    shape = Shape(DIM, HEADS, depth, HIDDEN, setting.length, setting.memory if pattern.cross else 0)
    if not plain:
        shape = replace(shape, rotary=True, qk_norm=True, conv=CONV)
    if level == "layer":
        return Slots(family, pattern).layer("check", pattern, replace(shape, hidden=0), 0, depth)
    self_pattern = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
    while True:
        try:
            return Slots(family, pattern).stack("check", shape, self_pattern, pattern if pattern.cross else None)
        except Unsupported:
            raise
        except ValueError:  # an option that is larger than the design length
            if setting.exhaustive or shape.length >= MAX_DESIGN_LENGTH:
                raise
            shape = replace(shape, length=2 * shape.length, memory=2 * shape.memory)


def _randomize_parameters(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            noise = normal(generator, *parameter.shape).to(parameter)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_((parameter == 1).all() + 0.3 * noise)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores torch's global random state at the end."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
