"""What must not matter: padding, neighbours in the batch, how a sequence is fed; and that gradients are right.

Padding and batch are kept apart so that a fault shows in one of them: padding compares a row alone with the same row
alone and padded; batch compares a row in company with the same row, equally padded, alone.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from statistics import median

import torch
from torch import Tensor

from cab.check.influence import LARGE, Worst, apart
from cab.check.specimen import DIM, Specimen, normal

BIG = 100.0
"""Factor for contents of padding, and for inputs that gradients must survive."""
PADDINGS = ((1, BIG), (6, 1.0), (11, BIG))
"""Amounts and contents."""
DIRECTIONS, STEP = 5, 1e-7
"""For the comparison of derivatives with finite differences: a step so small that hard choices rarely flip in it."""


def padding(specimen: Specimen) -> Worst:
    """Neither content nor amount of padding changes an output, and outputs at padding are 0."""
    return max(_padding(specimen))


def _padding(specimen: Specimen) -> Iterator[Worst]:
    random = specimen.random("padding")
    n, m = specimen.setting.n, specimen.setting.m
    x, memory = specimen.inputs(1)
    alone = specimen(x, memory)
    all_memory = None if memory is None else real(memory, m)
    yield apart(specimen(x, memory, real(x, n), all_memory), alone), "a mask without padding"
    for kept in (n, n * 2 // 3, 5, 1):
        alone = specimen(x[:, :kept], memory)
        for extra, content in PADDINGS:
            longer = padded(x[:, :kept], extra, content, random)
            y = specimen(longer, memory, real(longer, kept), all_memory)
            yield apart(y[:, :kept], alone), f"{extra} tokens of padding after {kept}, content times {content:g}"
            yield apart(y[:, kept:], torch.zeros_like(y[:, kept:])), "outputs at padding are not 0"
    nothing = specimen(x, memory, real(x, 0), all_memory)
    yield apart(nothing, torch.zeros_like(nothing)), "a row of padding only"
    if memory is None:
        return
    for kept in (m, m // 2, 1):
        alone = specimen(x, memory[:, :kept])
        for extra, content in PADDINGS:
            longer = padded(memory[:, :kept], extra, content, random)
            y = specimen(x, longer, None, real(longer, kept))
            yield apart(y, alone), f"{extra} tokens of padding after {kept} of memory, content times {content:g}"
    empty = specimen(x, memory, None, real(memory, 0))
    yield apart(empty, specimen(x, BIG * memory, None, real(memory, 0))), "a memory of padding only"


def batch(specimen: Specimen) -> Worst:
    """Rows in company give what they give alone, with and without padding."""
    n, m = specimen.setting.n, specimen.setting.m
    x, memory = specimen.inputs(3)
    x[1] *= LARGE
    ragged = rows_valid((n, n * 2 // 3, 6), n)
    ragged_memory = None if memory is None else rows_valid((m // 2, m, 3), m)
    found = []
    for valid, memory_valid, word in ((None, None, "full rows"), (ragged, ragged_memory, "rows of unequal length")):
        together = specimen(x, memory, valid, memory_valid)
        for row in range(3):
            one = slice(row, row + 1)
            others = (None if part is None else part[one] for part in (memory, valid, memory_valid))
            alone = specimen(x[one], *others)
            found.append((apart(together[one], alone), word))
    return max(found)


def decode(specimen: Specimen) -> Worst:
    """A prompt and then token by token gives what the whole sequence gives."""
    m = specimen.setting.m
    x, memory = specimen.inputs(2)
    memory_valid = None if memory is None else rows_valid((m, m * 2 // 3), m)
    whole = specimen(x, memory, None, memory_valid)
    found = []
    for prompt in specimen.setting.splits:
        y, state = specimen.prefill(x[:, :prompt], memory, memory_valid)
        found.append((apart(y, whole[:, :prompt]), f"the prompt of {prompt}"))
        steps = []
        for t in range(prompt, x.shape[1]):
            y, state = specimen.step(x[:, t : t + 1], state)
            steps.append(y)
        found.append((apart(torch.cat(steps, 1), whole[:, prompt:]), f"steps after a prompt of {prompt}"))
    return max(found)


def gradients(specimen: Specimen) -> Worst:
    """Finite in float64 and float32, for ordinary and large inputs, with padding; and equal to finite differences.

    The derivative is compared along random directions in all inputs and parameters at once. The middle one of several
    counts, because a hard choice that happens to flip within a step is no fault.
    """
    for dtype in (torch.float64, torch.float32):
        for factor in (1.0, BIG):
            if bad := not_finite(specimen, dtype, factor):
                return math.inf, f"{bad} is not finite in {str(dtype)[6:]}, inputs times {factor:g}"
    return median(_differences(specimen)), "derivative along random directions"


def not_finite(specimen: Specimen, dtype: torch.dtype, factor: float) -> str:
    """The name of what is not finite; empty if all is well."""
    n, m = specimen.setting.n, specimen.setting.m
    module = copy.deepcopy(specimen.module).to(dtype).train()
    inputs = [None if part is None else (factor * part).to(dtype).requires_grad_() for part in specimen.inputs(3)]
    valid, memory_valid = rows_valid((n, n // 2, 0), n), rows_valid((m // 2, m, 0), m)
    y, auxiliary = module(*inputs, valid, memory_valid if specimen.pattern.cross else None)
    if not y.isfinite().all():
        return "the output"
    if not auxiliary.isfinite():
        return "the auxiliary loss"
    loss = (y * normal(specimen.random("loss"), *y.shape).to(dtype)).mean() + auxiliary
    if loss.requires_grad:
        loss.backward()
    named = [*module.named_parameters(), ("the input", inputs[0]), ("the memory", inputs[1])]
    for name, leaf in named:
        if leaf is not None and leaf.grad is not None and not leaf.grad.isfinite().all():
            return f"the gradient of {name.removeprefix('the ')}"
    return ""


def _differences(specimen: Specimen) -> list[float]:
    """Errors of derivatives, relative to the size of the gradient."""
    random = specimen.random("directions")
    module = copy.deepcopy(specimen.module).train()
    inputs = [None if part is None else part.requires_grad_() for part in specimen.inputs(2)]
    leaves = [leaf for leaf in (*module.parameters(), *inputs) if leaf is not None]

    weights = normal(specimen.random("loss"), 2, specimen.setting.n, DIM)

    def output() -> Tensor:
        torch.default_generator.manual_seed(0)
        return (module(*inputs)[0] * weights).sum()

    loss = output()
    if not loss.requires_grad:
        return [0.0]
    given = torch.autograd.grad(loss, leaves, allow_unused=True)
    slopes = [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, given, strict=True)]
    scale = float(sum((slope.square().sum() for slope in slopes), torch.zeros(()))) ** 0.5 or 1.0
    errors = []
    with torch.no_grad():
        for _ in range(DIRECTIONS):
            along = [normal(random, *leaf.shape) for leaf in leaves]
            ends = []
            for factor in (STEP, -2 * STEP, STEP):  # there, beyond, and back
                for leaf, direction in zip(leaves, along, strict=True):
                    leaf += factor * direction
                ends.append(float(output()))
            measured = (ends[0] - ends[1]) / (2 * STEP)
            expected = sum(float((slope * direction).sum()) for slope, direction in zip(slopes, along, strict=True))
            error = abs(measured - expected) / scale
            errors.append(error if math.isfinite(error) else math.inf)
    return errors


def real(x: Tensor, kept: int) -> Tensor:
    """(B, N): the first `kept` tokens of every row are real."""
    return (torch.arange(x.shape[1]) < kept).expand(x.shape[:2])


def rows_valid(kept: Sequence[int], n: int) -> Tensor:
    """(B, N): the first `kept` tokens of each row are real."""
    return torch.arange(n) < torch.tensor(kept).unsqueeze(1)


def padded(x: Tensor, extra: int, content: float, random: torch.Generator) -> Tensor:
    """x (1, N, D) with more tokens at its end."""
    return torch.cat([x, content * normal(random, x.shape[0], extra, DIM)], 1)
