"""Rotary embedding, the norm on q and k, LRPE and the short convolution, written from their formulas."""

import torch
from reference.common import heads
from torch import Tensor


def rotated(x: Tensor, start: int = 0) -> Tensor:
    """x (..., N, d) from position `start` on: channels i and i + d/2 as one complex number, times exp(i t theta_i)."""
    n, half = x.shape[-2], x.shape[-1] // 2
    numbers = torch.complex(x[..., :half], x[..., half : 2 * half])
    angles = [[(start + t) / 10_000 ** (i / half) for i in range(half)] for t in range(n)]
    turned = numbers * torch.exp(1j * torch.tensor(angles, dtype=torch.float64).reshape(n, half))
    return torch.cat([turned.real, turned.imag, x[..., 2 * half :]], -1)


def head_normed(norm, x: Tensor) -> Tensor:
    """x (B, H, N, d): each vector divided by its root mean square, times the weight of its head."""
    if norm is None:
        return x
    heads = []
    for h, weight in enumerate(norm.weight.chunk(x.shape[1])):
        heads.append(x[:, h] / (x[:, h].square().sum(-1, keepdim=True) / x.shape[-1] + 1e-6).sqrt() * weight)
    return torch.stack(heads, 1)


def placed(layer, x: Tensor, norm) -> Tensor:
    """q or k (B, H, N, d) as the mixer should get it."""
    x = head_normed(norm, x)
    return x if layer.place is None else rotated(x)


def projected(layer, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (B, H, N or M, d) of a layer with projections, as its mixer should get them."""
    source = x if memory is None else memory
    q, k, v = (
        heads(inputs, linear, layer.shape.heads)
        for inputs, linear in ((x, layer.query), (source, layer.key), (source, layer.value))
    )
    return placed(layer, q, layer.query_norm), placed(layer, k, layer.key_norm), v


def convolved(conv, rows: Tensor, causal: bool) -> Tensor:
    """rows (N, D) of real tokens: x_t + sum_j w_j norm(x)_(t - before + j), nothing beyond the ends."""
    centred = rows - rows.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * conv.norm.weight + conv.norm.bias
    width = conv.weight.shape[-1]
    before = width - 1 if causal else width // 2
    outputs = []
    for t, row in enumerate(rows):
        for j in range(width):
            if 0 <= t - before + j < len(rows):
                row = row + conv.weight[:, j] * normed[t - before + j]
        outputs.append(row)
    return torch.stack(outputs) if outputs else rows
