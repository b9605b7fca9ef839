"""Stochastically subsampled attention from its description: which pairs are allowed, then a dense masked softmax."""

from collections.abc import Callable
from math import ceil
from statistics import NormalDist

import torch
from reference.common import heads, merged
from torch import Tensor


def kept_sources(reduction: int, noise: list[float], m: int) -> list[int]:
    """Unbiased: the first ceil(m / r) of a permutation."""
    return sorted(range(m), key=lambda s: noise[s])[: ceil(m / reduction)]


def shuffled_sources(reduction: int, sigma: float, noise: list[float], m: int) -> list[int]:
    """Local: argsort(j + sigma w eps_j), w = m / r."""
    return sorted(range(m), key=lambda s: s + sigma * m / reduction * NormalDist().inv_cdf(noise[s]))


def allowed_pairs(
    form: str, reduction: int, sigma: float, noise: list[float], n: int, m: int, causal: bool
) -> list[set[int]]:
    """For each of n targets its sources among m, in a row without padding."""
    if form == "unbiased":
        pairs = [set(kept_sources(reduction, noise, m)) for _ in range(n)]
    else:
        order = shuffled_sources(reduction, sigma, noise, m)
        pairs = [set() for _ in range(n)]
        for a in range(reduction):
            first, last = m * a // reduction, m * (a + 1) // reduction
            for t in range(n * a // reduction, n * (a + 1) // reduction):
                pairs[t] = set(order[first : max(last, first + 1)])
    if causal:
        pairs = [{s for s in pairs[t] if s < t} | {t} for t in range(n)]
    return pairs


def kept_by_member(reduction: int, noise: list[float], member: int, m: int) -> set[int]:
    """Ensemble: of each group of r consecutive sources the one whose noise is the member-th smallest there."""
    groups = [range(start, start + reduction) for start in range(0, m, reduction)]
    return {s for group in groups for s in group if s < m and sum(noise[o] < noise[s] for o in group) == member}


def member_pairs(reduction: int, noise: list[float], member: int, n: int, m: int, causal: bool) -> list[set[int]]:
    kept = kept_by_member(reduction, noise, member, m)
    return [{s for s in kept if not causal or s < t} | ({t} if causal else set()) for t in range(n)]


def ssa_ensemble(
    layer,
    x: Tensor,
    memory: Tensor | None,
    valid: Tensor | None,
    memory_valid: Tensor | None,
    noise: list[Tensor],
) -> Tensor:
    """`noise` are the uniform numbers of each r samples, for whole groups. The mean is over samples with sources."""
    options, source_valid = layer.mixer, valid if memory is None else memory_valid
    total, count = torch.zeros_like(x), torch.zeros(len(x))
    for index in range(options.samples):
        cycle, member = divmod(index, options.reduction)
        numbers = noise[cycle].tolist()
        total += masked_layer(
            layer,
            x,
            memory,
            valid,
            memory_valid,
            lambda *sizes, numbers=numbers, member=member: member_pairs(options.reduction, numbers, member, *sizes),
        )
        for row in range(len(x)):
            m = (x if memory is None else memory).shape[1] if source_valid is None else int(source_valid[row].sum())
            own = layer.pattern == "causal_self"
            count[row] += own or len(kept_by_member(options.reduction, numbers, member, m)) > 0
    return total / count.clamp(min=1)[:, None, None]


def ssa_layer(
    layer,
    x: Tensor,
    memory: Tensor | None,
    valid: Tensor | None,
    memory_valid: Tensor | None,
    options: tuple[str, int, float],
    noise: Tensor,
) -> Tensor:
    """`noise` are the uniform numbers of the sample, one per source."""
    numbers = noise.tolist()
    return masked_layer(layer, x, memory, valid, memory_valid, lambda *sizes: allowed_pairs(*options, numbers, *sizes))


def masked_layer(
    layer,
    x: Tensor,
    memory: Tensor | None,
    valid: Tensor | None,
    memory_valid: Tensor | None,
    pairs_of: Callable[[int, int, bool], list[set[int]]],
) -> Tensor:
    """Softmax over the pairs that `pairs_of(n, m, causal)` allows in a row without padding."""
    source, source_valid = (x, valid) if memory is None else (memory, memory_valid)
    q, k, v = (
        heads(inputs, linear, layer.shape.heads)
        for inputs, linear in ((x, layer.query), (source, layer.key), (source, layer.value))
    )
    n, m = x.shape[1], source.shape[1]
    allowed = torch.zeros(len(x), 1, n, m, dtype=x.dtype)
    for row in range(len(x)):
        targets = n if valid is None else int(valid[row].sum())
        sources = m if source_valid is None else int(source_valid[row].sum())
        if sources:
            pairs = pairs_of(targets, sources, layer.pattern == "causal_self")
            for t, seen in enumerate(pairs):
                allowed[row, 0, t, sorted(seen)] = 1
    weight = torch.exp(torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5) * allowed
    total = weight.sum(-1, keepdim=True)
    y = merged(torch.einsum("bhts,bhse->bhte", weight / total.where(total > 0, 1), v)) @ layer.out.weight.T
    return y if valid is None else y * valid.unsqueeze(-1)
