"""Stochastically subsampled attention from its description: which pairs are allowed, then a dense masked softmax."""

from math import ceil
from statistics import NormalDist

import torch
from reference import heads, merged
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
            pairs = allowed_pairs(*options, noise.tolist(), targets, sources, layer.pattern == "causal_self")
            for t, seen in enumerate(pairs):
                allowed[row, 0, t, sorted(seen)] = 1
    weight = torch.exp(torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5) * allowed
    total = weight.sum(-1, keepdim=True)
    y = merged(torch.einsum("bhts,bhse->bhte", weight / total.where(total > 0, 1), v)) @ layer.out.weight.T
    return y if valid is None else y * valid.unsqueeze(-1)
