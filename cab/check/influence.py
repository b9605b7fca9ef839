"""Which inputs influence which outputs: leaks and dependence, measured by changing one input at a time.

Changes are finite, never derivatives: if a hard choice (top-k, argmax) moves a token into or out of a group, that is a
leak without any gradient. An input is replaced by another token of four times the size, which changes such choices. In
causal patterns it is also changed by a thousandth, which finds what saturates, and everything from a position on is
replaced as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from attentions.base import Pattern
from cab.check.models import DIM, ModelUnderTest, normal

LARGE, SMALL = 4.0, 1e-3
ROWS = 2
THIRDS = ("early", "middle", "late")


class Observation(NamedTuple):
    """An error or a reaction, and where it was found. Compares by its value."""

    value: float
    where: str


@dataclass(frozen=True)
class Influence:
    """Reactions relative to the largest output, maxima over rows, features and kinds of change.

    inputs   (n, sources): of y_t to x_s
    memory   (n, memory sources): of y_t to m_s; None without memory
    suffix   the largest of y_<s to a change of all x_>=s; 0 in patterns that are not causal
    """

    inputs: Tensor
    memory: Tensor | None
    suffix: float

    def __or__(self, other: "Influence") -> "Influence":
        """The maximum of both, for several models of one setting."""
        memory = None
        if self.memory is not None and other.memory is not None:
            memory = self.memory.maximum(other.memory)
        return Influence(self.inputs.maximum(other.inputs), memory, max(self.suffix, other.suffix))


def influence(model: ModelUnderTest, mode: str) -> Influence:
    """The influence in a mode, with a frozen sample: `after_step` is not called."""
    causal, setting = model.pattern.causal, model.setting
    generator = model.generator("changes")
    x, memory = model.inputs(ROWS)
    with model.mode(mode):
        y = model(x, memory)
        scale = _scale(y)
        inputs, suffix = torch.zeros(setting.n, len(setting.sources)), 0.0
        for column, s in enumerate(setting.sources):
            changes = [_with_token_replaced(x, s, generator)]
            if causal:
                changes.append(_with_token_moved(x, s, generator))
            for changed in changes:
                inputs[:, column] = inputs[:, column].maximum(_reaction(model(changed, memory), y) / scale)
            if causal and s:
                changed = x.clone()
                changed[:, s:] = LARGE * normal(generator, ROWS, setting.n - s, DIM)
                suffix = max(suffix, float((_reaction(model(changed, memory), y) / scale)[:s].max()))
        if memory is None:
            return Influence(inputs, None, suffix)
        of_memory = torch.zeros(setting.n, len(setting.memory_sources))
        for column, s in enumerate(setting.memory_sources):
            changed = _with_token_replaced(memory, s, generator)
            of_memory[:, column] = _reaction(model(x, changed), y) / scale
    return Influence(inputs, of_memory, suffix)


def leak(model: ModelUnderTest, found: Influence) -> Observation:
    """The largest reaction of an output to a later input."""
    t, s = torch.arange(model.setting.n).unsqueeze(1), torch.tensor(model.setting.sources)
    future = found.inputs.where(t < s, 0)
    largest = float(future.max())
    if largest == found.suffix == 0:
        return Observation(0.0, "no reaction at all")
    if found.suffix > largest:
        return Observation(found.suffix, "reacts to a changed suffix")
    row, column = divmod(int(future.argmax()), future.shape[1])
    return Observation(largest, f"output {row} reacts to input {int(s[column])}")


def truncation(model: ModelUnderTest) -> Observation:
    """The largest difference between the outputs of a prefix and the prefix of the outputs."""
    x, memory = model.inputs(ROWS)
    y = model(x, memory)
    worst, cut = max((relative_error(model(x[:, :cut], memory), y[:, :cut]), cut) for cut in model.setting.cuts)
    return Observation(worst, f"prefix of {cut}")


def dependence(model: ModelUnderTest, found: Sequence[Influence], mode: str) -> Observation:
    """The smallest of the reactions that the pattern requires, over several models together.

    In eval mode every third of the outputs has to react to every third of the inputs that it may use, to the input just
    before (and after), and to every third of the memory. Every single input has to be read by another output, and every
    single output has to read another input. In train mode, where a family may sample, and sample what is near, every
    third of the outputs has to read something before it (and after), and every third of inputs and memory has to be
    read.

    A family that declares its reach cannot react to everything. In eval mode, every output has to react to every input
    within the reach over all layers instead. A layer must not react to any other, so that declaring less is no way out.

    A cross-attention layer alone only has to react to its own input and the memory: its rows need not interact.
    """
    setting, pattern = model.setting, model.pattern
    union = reduce(Influence.__or__, found)
    t, s = torch.arange(setting.n).unsqueeze(1), torch.tensor(setting.sources)
    required = _thirds_of_each(union.inputs.where(t == s, 0), setting.sources, setting.n, "own inputs")
    reach = model.module.reach()
    if reach is not None and model.level == "layer":
        required += _none_beyond(union.inputs, setting.sources, reach)
    if not pattern.cross or model.level == "stack":
        past, future = union.inputs.where(t > s, 0), union.inputs.where(t < s, 0)
        if mode == "train":
            if reach is None or reach[0]:
                required += _thirds_of_each(past, setting.sources, setting.n, "earlier inputs")
            if not pattern.causal and (reach is None or reach[1]):
                required += _thirds_of_each(future, setting.sources, setting.n, "later inputs")
        elif reach is not None:
            required.append(_weakest_within(union.inputs, setting.sources, reach))
        else:
            others = past if pattern.causal else past + future
            required += _pairs_of_thirds(others, setting.sources, setting.n, "inputs", pattern.causal)
            if setting.exhaustive:
                required += _neighbours(union.inputs, pattern) + _singles(others, "another input", pattern.causal)
    if union.memory is not None:
        if mode == "train":
            required += _thirds_of_each(union.memory, setting.memory_sources, setting.m, "memory")
        else:
            required += _pairs_of_thirds(union.memory, setting.memory_sources, setting.m, "memory")
            if setting.exhaustive:
                required += _singles(union.memory, "memory")
    return min(required)


def _thirds_of_each(reactions: Tensor, sources: Sequence[int], size: int, word: str) -> list[Observation]:
    """The largest reaction of every third of the outputs, and to every third of the sources."""
    found = []
    for third, outputs in zip(THIRDS, reactions.tensor_split(3), strict=True):
        found.append(Observation(float(outputs.max()), f"{third} outputs to {word}"))
    for third, columns in zip(THIRDS, _columns_by_third(sources, size), strict=True):
        found.append(Observation(float(reactions[:, columns].max()), f"outputs to {third} {word}"))
    return found


def _pairs_of_thirds(
    reactions: Tensor, sources: Sequence[int], size: int, word: str, causal: bool = False
) -> list[Observation]:
    """The largest reaction for every third of the outputs and third of the sources."""
    found = []
    columns = _columns_by_third(sources, size)
    for index, outputs in enumerate(reactions.tensor_split(3)):
        for region in range(index + 1 if causal else 3):
            where = f"{THIRDS[index]} outputs to {THIRDS[region]} {word}"
            found.append(Observation(float(outputs[:, columns[region]].max()), where))
    return found


def _weakest_within(reactions: Tensor, sources: Sequence[int], reach: tuple[int, int]) -> Observation:
    """The smallest reaction of an output to an input within the reach."""
    inside = reactions.where(_within(reactions, sources, reach), torch.inf)
    output, column = divmod(int(inside.argmin()), len(sources))
    return Observation(float(inside.min()), f"output {output} to input {sources[column]}, within reach {reach}")


def _none_beyond(reactions: Tensor, sources: Sequence[int], reach: tuple[int, int]) -> list[Observation]:
    """A reaction of 0, which fails, where an output reacts to an input beyond the reach."""
    beyond = reactions.where(~_within(reactions, sources, reach), 0)
    if float(beyond.max()) == 0:
        return []
    output, column = divmod(int(beyond.argmax()), len(sources))
    return [Observation(0.0, f"output {output} reacts to input {sources[column]}, beyond reach {reach}")]


def _within(reactions: Tensor, sources: Sequence[int], reach: tuple[int, int]) -> Tensor:
    """(n, sources): whether the source is at most so many tokens before and after the output."""
    back, ahead = reach
    distance = torch.arange(len(reactions)).unsqueeze(1) - torch.tensor(sources)
    return (distance <= back) & (distance >= -ahead)


def _neighbours(reactions: Tensor, pattern: Pattern) -> list[Observation]:
    """The largest reaction of y_t to x_{t-1}, and where it is allowed to x_{t+1}, by thirds."""
    found = []
    for shift, word in ((1, "before"), (-1, "after")):
        if shift < 0 and pattern.causal:
            continue
        for third, values in zip(THIRDS, reactions.diagonal(-shift).tensor_split(3), strict=True):
            found.append(Observation(float(values.max()), f"{third} outputs to the input just {word}"))
    return found


def _singles(reactions: Tensor, word: str, causal: bool = False) -> list[Observation]:
    """The least-read source and the output that reads least. If causal without the last source and the first output."""
    of_sources, of_outputs = reactions.amax(0), reactions.amax(1)
    first = 0
    if causal:
        of_sources, of_outputs, first = of_sources[:-1], of_outputs[1:], 1
    source, output = int(of_sources.argmin()), first + int(of_outputs.argmin())
    return [
        Observation(float(of_sources.min()), f"any output to {word}, number {source}"),
        Observation(float(of_outputs.min()), f"output {output} to {word}"),
    ]


def _columns_by_third(sources: Sequence[int], size: int) -> list[list[int]]:
    """The indices of the sources in each third of `size` positions."""
    thirds = [set(positions.tolist()) for positions in torch.arange(size).tensor_split(3)]
    return [[column for column, s in enumerate(sources) if s in positions] for positions in thirds]


def relative_error(y: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest expected value; infinite for NaN. Raises ValueError for shapes
    that differ."""
    if y.shape != expected.shape:
        raise ValueError(f"outputs are {tuple(y.shape)}, expected {tuple(expected.shape)}")
    return float(_reaction(y, expected).max()) / _scale(expected)


def _reaction(y: Tensor, expected: Tensor) -> Tensor:
    """(n,): the largest difference over rows and features; infinite for NaN."""
    return (y - expected).abs().nan_to_num(nan=torch.inf).amax((0, 2))


def _scale(y: Tensor) -> float:
    """The largest absolute value; 1 if all are 0."""
    return float(y.abs().nan_to_num(nan=0.0, posinf=0.0).max()) or 1.0


def _with_token_replaced(x: Tensor, s: int, generator: torch.Generator) -> Tensor:
    changed = x.clone()
    changed[:, s] = LARGE * normal(generator, ROWS, DIM)
    return changed


def _with_token_moved(x: Tensor, s: int, generator: torch.Generator) -> Tensor:
    changed = x.clone()
    changed[:, s] += SMALL * normal(generator, ROWS, DIM)
    return changed
