"""What must have no effect: padding, other rows of the batch, how a sequence is fed. And whether gradients are right.

Padding and batch are separate, so that a fault shows in one of them: padding compares a row alone with the same row
alone and padded; batch compares a row among others with the same row, equally padded, alone.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from statistics import median

import torch
from torch import Tensor

from cab.check.influence import LARGE, Observation, relative_error
from cab.check.models import DIM, ModelUnderTest, normal

BIG = 100.0
"""Scale of the content of padding, and of large inputs for gradients."""
PADDINGS = ((1, BIG), (6, 1.0), (11, BIG))
"""Number of tokens and scale of their content."""
DIRECTIONS, STEP = 5, 1e-7
"""Of finite differences. The step is so small that hard choices rarely change within it."""


def padding(model: ModelUnderTest) -> Observation:
    """The largest change of an output by content or amount of padding, and the largest output at padding."""
    return max(Observation(error, where) for error, where in _padding(model))


def _padding(model: ModelUnderTest) -> Iterator[tuple[float, str]]:
    generator = model.generator("padding")
    n, m = model.setting.n, model.setting.m
    x, memory = model.inputs(1)
    expected = model(x, memory)
    all_memory = None if memory is None else valid_prefix(memory, m)
    yield relative_error(model(x, memory, valid_prefix(x, n), all_memory), expected), "a mask without padding"
    for kept in (n, n * 2 // 3, 5, 1):
        expected = model(x[:, :kept], memory)
        for extra, content in PADDINGS:
            longer = padded(x[:, :kept], extra, content, generator)
            y = model(longer, memory, valid_prefix(longer, kept), all_memory)
            where = f"{extra} tokens of padding after {kept}, content times {content:g}"
            yield relative_error(y[:, :kept], expected), where
            yield relative_error(y[:, kept:], torch.zeros_like(y[:, kept:])), "outputs at padding are not 0"
    y = model(x, memory, valid_prefix(x, 0), all_memory)
    yield relative_error(y, torch.zeros_like(y)), "a row of padding only"
    if memory is None:
        return
    for kept in (m, m // 2, 1):
        expected = model(x, memory[:, :kept])
        for extra, content in PADDINGS:
            longer = padded(memory[:, :kept], extra, content, generator)
            y = model(x, longer, None, valid_prefix(longer, kept))
            where = f"{extra} tokens of padding after {kept} of memory, content times {content:g}"
            yield relative_error(y, expected), where
    no_memory = valid_prefix(memory, 0)
    y, expected = model(x, memory, None, no_memory), model(x, BIG * memory, None, no_memory)
    yield relative_error(y, expected), "a memory of padding only"


def batch(model: ModelUnderTest) -> Observation:
    """The largest difference between a row in a batch and the same row alone, with and without padding."""
    n, m = model.setting.n, model.setting.m
    x, memory = model.inputs(3)
    x[1] *= LARGE
    valid = valid_rows((n, n * 2 // 3, 6), n)
    memory_valid = None if memory is None else valid_rows((m // 2, m, 3), m)
    found = []
    for masks, where in (((None, None), "full rows"), ((valid, memory_valid), "rows of unequal length")):
        together = model(x, memory, *masks)
        for row in range(3):
            one = slice(row, row + 1)
            rest = [None if part is None else part[one] for part in (memory, *masks)]
            found.append(Observation(relative_error(together[one], model(x[one], *rest)), where))
    return max(found)


def decode(model: ModelUnderTest) -> Observation:
    """The largest difference between a prompt followed by single tokens, and the full pass."""
    m = model.setting.m
    x, memory = model.inputs(2)
    memory_valid = None if memory is None else valid_rows((m, m * 2 // 3), m)
    expected = model(x, memory, None, memory_valid)
    found = []
    for prompt in model.setting.prompts:
        y, state = model.prefill(x[:, :prompt], memory, memory_valid)
        found.append(Observation(relative_error(y, expected[:, :prompt]), f"the prompt of {prompt}"))
        steps = []
        for t in range(prompt, x.shape[1]):
            y_t, state = model.step(x[:, t : t + 1], state)
            steps.append(y_t)
        error = relative_error(torch.cat(steps, 1), expected[:, prompt:])
        found.append(Observation(error, f"steps after a prompt of {prompt}"))
    return max(found)


def gradients(model: ModelUnderTest) -> Observation:
    """Infinite if anything is not finite, in float64 or float32, for ordinary or large inputs, with padding. Otherwise
    the error of derivatives against finite differences.

    Derivatives are compared along random directions in all inputs and parameters at once. The median of several counts,
    because a hard choice that happens to change within a step is no fault.
    """
    for dtype in (torch.float64, torch.float32):
        for factor in (1.0, BIG):
            name = _find_not_finite(model, dtype, factor)
            if name:
                where = f"{name} is not finite in {str(dtype).removeprefix('torch.')}, inputs times {factor:g}"
                return Observation(math.inf, where)
    return Observation(median(_derivative_errors(model)), "derivative along random directions")


def _find_not_finite(model: ModelUnderTest, dtype: torch.dtype, factor: float) -> str:
    """The name of something that is not finite; "" if everything is."""
    n, m = model.setting.n, model.setting.m
    module = copy.deepcopy(model.module).to(dtype).train()
    inputs = [None if part is None else (factor * part).to(dtype).requires_grad_() for part in model.inputs(3)]
    valid, memory_valid = valid_rows((n, n // 2, 0), n), valid_rows((m // 2, m, 0), m)
    y, auxiliary = module(*inputs, valid, memory_valid if model.pattern.cross else None)
    if not y.isfinite().all():
        return "the output"
    if not auxiliary.isfinite():
        return "the auxiliary loss"
    loss = (y * normal(model.generator("loss"), *y.shape).to(dtype)).mean() + auxiliary
    if loss.requires_grad:
        loss.backward()
    for name, leaf in (*module.named_parameters(), ("input", inputs[0]), ("memory", inputs[1])):
        if leaf is not None and leaf.grad is not None and not leaf.grad.isfinite().all():
            return f"the gradient of {name}"
    return ""


def _derivative_errors(model: ModelUnderTest) -> list[float]:
    """Errors of derivatives along random directions, relative to the norm of the gradient."""
    generator = model.generator("directions")
    module = copy.deepcopy(model.module).train()
    inputs = [None if part is None else part.requires_grad_() for part in model.inputs(2)]
    leaves = [leaf for leaf in (*module.parameters(), *inputs) if leaf is not None]
    weights = normal(model.generator("loss"), 2, model.setting.n, DIM)

    def loss() -> Tensor:
        torch.default_generator.manual_seed(0)
        return (module(*inputs)[0] * weights).sum()

    def move(directions: Sequence[Tensor], factor: float) -> None:
        for leaf, direction in zip(leaves, directions, strict=True):
            leaf += factor * direction

    start = loss()
    if not start.requires_grad:
        return [0.0]
    gradients = torch.autograd.grad(start, leaves, allow_unused=True, materialize_grads=True)
    norm = float(sum((gradient.square().sum() for gradient in gradients), torch.zeros(()))) ** 0.5 or 1.0
    errors = []
    with torch.no_grad():
        for _ in range(DIRECTIONS):
            directions = [normal(generator, *leaf.shape) for leaf in leaves]
            move(directions, STEP)
            after = float(loss())
            move(directions, -2 * STEP)
            before = float(loss())
            move(directions, STEP)
            measured = (after - before) / (2 * STEP)
            pairs = zip(gradients, directions, strict=True)
            expected = sum(float((gradient * direction).sum()) for gradient, direction in pairs)
            error = abs(measured - expected) / norm
            errors.append(error if math.isfinite(error) else math.inf)
    return errors


def valid_prefix(x: Tensor, kept: int) -> Tensor:
    """(B, N): the first `kept` tokens of every row are real."""
    return (torch.arange(x.shape[1]) < kept).expand(x.shape[:2])


def valid_rows(kept: Sequence[int], n: int) -> Tensor:
    """(B, N): the first `kept[i]` tokens of row i are real."""
    return torch.arange(n) < torch.tensor(kept).unsqueeze(1)


def padded(x: Tensor, extra: int, content: float, generator: torch.Generator) -> Tensor:
    """x (1, N, D) with random tokens of this scale appended."""
    return torch.cat([x, content * normal(generator, x.shape[0], extra, DIM)], 1)
