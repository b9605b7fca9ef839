"""Who influences whom: leaks and dependence, measured by changing one input after the other.

Changes are finite, never derivatives: a token that a hard choice (top-k, argmax) moves in or out of a group leaks
without any gradient. An input is replaced by another token of four times the size, which flips such choices, and also
moved by a thousandth, which finds what saturates. For leaks everything from a position on is replaced as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from attentions.base import Pattern
from cab.check.specimen import DIM, Specimen, normal

LARGE, SMALL = 4.0, 1e-3
ROWS = 2
Worst = tuple[float, str]
"""A figure, and where it was found."""


@dataclass(frozen=True)
class Influence:
    """Reactions relative to the largest output, the greatest over rows, features and kinds of change.

    own      (n, sources): of y_t to x_s
    memory   (n, memory sources): of y_t to m_s; None without memory
    suffix   the greatest of y_<s to a change of all x_>=s; 0 in patterns that are not causal
    """

    own: Tensor
    memory: Tensor | None
    suffix: float

    def __or__(self, other: "Influence") -> "Influence":
        """The greater of both, for several draws of one setting."""
        memory = None
        if self.memory is not None and other.memory is not None:
            memory = self.memory.maximum(other.memory)
        return Influence(self.own.maximum(other.own), memory, max(self.suffix, other.suffix))


def influence(specimen: Specimen, mode: str) -> Influence:
    """In this mode and with a frozen sample: nothing calls `after_step` in between."""
    causal, setting = specimen.pattern.causal, specimen.setting
    random = specimen.random("changes")
    x, memory = specimen.inputs(ROWS)
    with specimen.mode(mode):
        base = specimen(x, memory)
        scale = size(base)
        own, suffix = torch.zeros(setting.n, len(setting.sources)), 0.0
        for column, s in enumerate(setting.sources):
            for place in (_replaced(x, s, random), *([_moved(x, s, random)] if causal else [])):
                own[:, column] = own[:, column].maximum(reaction(specimen(place, memory), base) / scale)
            if causal and s:
                replaced = x.clone()
                replaced[:, s:] = LARGE * normal(random, ROWS, setting.n - s, DIM)
                suffix = max(suffix, float((reaction(specimen(replaced, memory), base) / scale)[:s].max()))
        if memory is None:
            return Influence(own, None, suffix)
        read = torch.zeros(setting.n, len(setting.memory_sources))
        for column, s in enumerate(setting.memory_sources):
            read[:, column] = reaction(specimen(x, _replaced(memory, s, random)), base) / scale
    return Influence(own, read, suffix)


def leak(specimen: Specimen, found: Influence) -> Worst:
    """The greatest reaction of an output to a later input."""
    t, s = torch.arange(specimen.setting.n).unsqueeze(1), torch.tensor(specimen.setting.sources)
    future = found.own.where(t < s, 0)
    worst = float(future.max())
    if worst == found.suffix == 0:
        return 0.0, "no reaction at all"
    if found.suffix > worst:
        return found.suffix, "reacts to a changed suffix"
    row, column = divmod(int(future.argmax()), future.shape[1])
    return worst, f"output {row} reacts to input {int(s[column])}"


def truncation(specimen: Specimen) -> Worst:
    """The greatest difference between the outputs of a prefix and the prefix of the outputs."""
    x, memory = specimen.inputs(ROWS)
    base = specimen(x, memory)
    errors = [(apart(specimen(x[:, :cut], memory), base[:, :cut]), cut) for cut in specimen.setting.cuts]
    worst, cut = max(errors)
    return worst, f"prefix of {cut}"


def dependence(specimen: Specimen, found: Sequence[Influence], mode: str) -> Worst:
    """The least reaction among those that the pattern demands, over several draws together.

    In eval mode every third of the outputs must react to every third of the inputs that it may use, to the input just
    before (and after), and to every third of the memory; every single input must be read by another output and every
    single output must read another input. In train mode, where a method may sample, and sample what is near, every
    third of the outputs must read something before it (and after), and every third of inputs and memory must be read.

    A cross-attention layer by itself owes a reaction to its own input and the memory only: rows need not meet there.
    """
    setting, pattern = specimen.setting, specimen.pattern
    union = reduce(Influence.__or__, found)
    t, s = torch.arange(setting.n).unsqueeze(1), torch.tensor(setting.sources)
    wanted = _marginals(union.own.where(t == s, 0), setting.sources, setting.n, "own inputs")
    if not pattern.cross or specimen.level == "stack":
        past, future = union.own.where(t > s, 0), union.own.where(t < s, 0)
        sides = [(past, "earlier inputs")] if pattern.causal else [(past, "earlier inputs"), (future, "later inputs")]
        if mode == "train":
            wanted += [worst for side, word in sides for worst in _marginals(side, setting.sources, setting.n, word)]
        else:
            others = past if pattern.causal else past + future
            wanted += _regions(others, setting.sources, setting.n, "inputs", pattern.causal)
            if setting.exhaustive:
                wanted += _near(union.own, pattern) + _each(others, "another input", pattern.causal)
    if union.memory is not None:
        if mode == "train":
            wanted += _marginals(union.memory, setting.memory_sources, setting.m, "memory")
        else:
            wanted += _regions(union.memory, setting.memory_sources, setting.m, "memory")
            if setting.exhaustive:
                wanted += _each(union.memory, "memory")
    return min(wanted)


def _marginals(reactions: Tensor, sources: Sequence[int], size: int, word: str) -> list[Worst]:
    """The greatest reaction of every third of outputs, and to every third of sources."""
    columns = [[column for column, s in enumerate(sources) if third(s, size) == part] for part in range(3)]
    reads = [(float(outputs.max()), f"{PARTS[part]} outputs to {word}") for part, outputs in _thirds(reactions)]
    return reads + [(float(reactions[:, columns[part]].max()), f"outputs to {PARTS[part]} {word}") for part in range(3)]


def _regions(reactions: Tensor, sources: Sequence[int], size: int, word: str, causal: bool = False) -> list[Worst]:
    """The greatest reaction for every third of outputs and third of sources."""
    wanted = []
    for part, outputs in _thirds(reactions):
        for region in range(part + 1 if causal else 3):
            columns = [column for column, s in enumerate(sources) if third(s, size) == region]
            wanted.append((float(outputs[:, columns].max()), f"{PARTS[part]} outputs to {PARTS[region]} {word}"))
    return wanted


def _near(own: Tensor, pattern: Pattern) -> list[Worst]:
    """Reactions y_t to x_{t-1}, and where it is allowed to x_{t+1}, by thirds."""
    shifts = ((1, "before"),) if pattern.causal else ((1, "before"), (-1, "after"))
    return [
        (float(values.max()), f"{PARTS[part]} outputs to the input just {word}")
        for shift, word in shifts
        for part, values in _thirds(own.diagonal(-shift))
    ]


def _each(reactions: Tensor, word: str, causal: bool = False) -> list[Worst]:
    """Every source is read, and every output reads; if causal not the last source, and not the first output."""
    read, reads = reactions.amax(0), reactions.amax(1)
    read, first = (read[:-1], 1) if causal else (read, 0)
    return [
        (float(read.min()), f"any output to {word}, number {int(read.argmin())}"),
        (float(reads[first:].min()), f"output {first + int(reads[first:].argmin())} to {word}"),
    ]


def _thirds(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    return enumerate(values.tensor_split(3))


PARTS = ("early", "middle", "late")


def third(position: int, size: int) -> int:
    """Which third a position lies in, as `tensor_split` cuts them."""
    ends = torch.arange(size).tensor_split(3)
    return next(part for part, places in enumerate(ends) if position <= int(places[-1]))


def reaction(y: Tensor, base: Tensor) -> Tensor:
    """(n,): the greatest difference over rows and features; not a number counts as infinite."""
    return (y - base).abs().nan_to_num(nan=torch.inf).amax((0, 2))


def apart(y: Tensor, base: Tensor) -> float:
    """The greatest difference relative to the largest value expected; infinite for what is not a number."""
    if y.shape != base.shape:
        raise ValueError(f"outputs are {tuple(y.shape)}, expected {tuple(base.shape)}")
    return float(reaction(y, base).max()) / size(base)


def size(y: Tensor) -> float:
    """The largest absolute value, 1 where all are 0."""
    return float(y.abs().nan_to_num(nan=0.0, posinf=0.0).max()) or 1.0


def _replaced(x: Tensor, s: int, random: torch.Generator) -> Tensor:
    changed = x.clone()
    changed[:, s] = LARGE * normal(random, ROWS, DIM)
    return changed


def _moved(x: Tensor, s: int, random: torch.Generator) -> Tensor:
    changed = x.clone()
    changed[:, s] += SMALL * normal(random, ROWS, DIM)
    return changed
