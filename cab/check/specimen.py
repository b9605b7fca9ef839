"""What the battery examines: small models in float64 with every parameter drawn anew, and inputs for them.

Two settings. SMALL has design lengths of two dozen tokens and the family's small options (`check:` in its YAML), so
that inputs of 29 tokens cross several blocks, windows or groups and are longer than the design; all its lengths divide
nothing. REAL has the family's real options at the least design length that they allow, from 256 on.

Two levels. The stack is what backbones get from `Slots.stack` (in cross patterns it holds self attention too); the
layer is the family alone, where the family is not a whole stack.

Parameters are drawn anew because initial ones hide faults: a projection or gate that starts at zero hides every
dependence. Matrices get standard deviation 1 / sqrt(fan-in) and vectors 0.3 around 0, or around 1 where they are ones
(the weights of norms), so that activations keep their size. Every second draw also has two steps of `after_step` behind
it, so that running statistics and sampling counters have left their starting point.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, State, Unsupported, after_step
from attentions.slots import Family, Slots, is_stack

DIM, HEADS, HIDDEN, DEPTH = 32, 4, 256, 2
"""The feed-forward is wide, so that a family with more parameters than vanilla still meets the equal budget."""
LONGEST_DESIGN = 2**16
MODES = ("eval", "train")


@dataclass(frozen=True)
class Setting:
    """Lengths, and how thoroughly to look at them."""

    name: str
    length: int
    memory: int
    """Design lengths."""
    n: int
    m: int
    """Lengths of the inputs and of the memory."""
    sources: Sequence[int]
    memory_sources: Sequence[int]
    """Positions that are changed in turn."""
    cuts: Sequence[int]
    """Lengths of prefixes."""
    splits: Sequence[int]
    """Lengths of prompts."""
    draws: int
    exhaustive: bool
    """Whether `sources` are all positions, so that each one can be asked for its influence."""


SMALL = Setting("small", 24, 20, 29, 23, range(29), range(23), range(1, 29), (1, 3, 8, 13, 20, 24, 28), 2, True)
REAL = Setting(
    "real",
    256,
    256,
    259,
    259,
    sources=(10, 63, 64, 129, 130, 200, 256, 258),
    memory_sources=(0, 60, 130, 170, 200, 258),
    cuts=(1, 64, 130, 257),
    splits=(197, 256),
    draws=1,
    exhaustive=False,
)


@dataclass(frozen=True)
class Specimen:
    """One model and how it may be called. Calls repeat: the global random state is the same before each of them."""

    module: Any
    pattern: Pattern
    setting: Setting
    level: str
    draw: int

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
        """Random x (B, n, D), and memory (B, m, D) in cross patterns."""
        random = self.random("inputs")
        x = normal(random, batch, self.setting.n, DIM)
        return x, normal(random, batch, self.setting.m, DIM) if self.pattern.cross else None

    def random(self, purpose: str) -> torch.Generator:
        """A generator of its own for every purpose and draw."""
        return torch.Generator().manual_seed(sum(map(ord, purpose)) * 1000 + self.draw)

    @contextmanager
    def mode(self, mode: str) -> Iterator[None]:
        before = self.module.training
        self.module.train(mode == "train")
        try:
            yield
        finally:
            self.module.train(before)


def normal(random: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=random, dtype=torch.float64)


def specimens(family: Family, pattern: Pattern, setting: Setting) -> list[Specimen]:
    """All models of a setting. Raises Unsupported, or ValueError where the options do not fit the design length."""
    levels = ["stack", "layer"] if setting.exhaustive and not is_stack(family) else ["stack"]
    made = []
    with kept_random_state():
        for level in levels:
            for draw in range(setting.draws):
                torch.default_generator.manual_seed(draw)
                module = build(family, pattern, setting, level).double().eval()
                specimen = Specimen(module, pattern, setting, level, draw)
                redraw(module, specimen.random("parameters"))
                if draw % 2:
                    age(specimen)
                made.append(specimen)
    return made


def build(family: Family, pattern: Pattern, setting: Setting, level: str) -> nn.Module:
    depth = max(DEPTH, family.func.min_depth) if is_stack(family) else DEPTH  # type: ignore[attr-defined]
    shape = Shape(DIM, HEADS, depth, HIDDEN, setting.length, setting.memory if pattern.cross else 0)
    if level == "layer":
        return Slots(family, pattern).layer("check", pattern, replace(shape, hidden=0), 0, depth)
    own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
    while True:
        try:
            return Slots(family, pattern).stack("check", shape, own, pattern if pattern.cross else None)
        except Unsupported:
            raise
        except ValueError:  # options that are longer than the design length
            if setting.exhaustive or shape.length >= LONGEST_DESIGN:
                raise
            shape = replace(shape, length=2 * shape.length, memory=2 * shape.memory)


def redraw(module: nn.Module, random: torch.Generator) -> None:
    """Gives every parameter a new value of a size that keeps activations sane."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = normal(random, *parameter.shape).to(parameter)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_((parameter == 1).all() + 0.3 * noise)


def age(specimen: Specimen, steps: int = 2) -> None:
    """Training steps as far as statistics know: forward in training mode, then `after_step`."""
    with specimen.mode("train"):
        for _ in range(steps):
            specimen(*specimen.inputs(3))
            after_step(specimen.module)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """What is examined in between leaves no trace in anyone's random numbers."""
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)
