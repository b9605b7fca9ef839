"""Lightning attention written from its formulas: dense, float64, one term per equation."""

import torch
from reference.common import heads, merged
from torch import Tensor


def decayed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slope: Tensor,
    causal: bool,
    k_valid: Tensor | None = None,
    angles: Tensor | None = None,
) -> Tensor:
    """o_t = sum_s lam^|t-s| (q_t . k_s) v_s over s <= t if causal, lam = exp(-slope) per head. With LRPE's angles
    (H, 1, d), q_t . k_s is sum_i q_ti k_si cos(th_i (t - s))."""
    t, s = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    distance = t[:, None] - s[None, :]
    weight = torch.exp(-slope)[:, None, None] ** distance.abs()  # (H, N, M)
    if causal:
        weight = weight * (distance >= 0)
    if angles is None:
        weight = weight * torch.einsum("bhtd,bhsd->bhts", q, k)
    else:
        turn = torch.cos(distance[None, :, :, None] * angles.unsqueeze(1))  # (H, N, M, d)
        weight = weight * torch.einsum("bhtd,bhsd,htsd->bhts", q, k, turn)
    if k_valid is not None:
        weight = weight * k_valid[:, None, None, :]
    return torch.einsum("bhts,bhse->bhte", weight, v)


def alibi(count: int) -> list[float]:
    """Press et al. 2022: a geometric series that starts at its own ratio; interleaved between powers of two."""
    power = 1
    while power * 2 <= count:
        power *= 2
    ratio = 2 ** (-8 / power)
    series = [ratio ** (i + 1) for i in range(power)]
    if power == count:
        return series
    return series + [ratio ** (0.5 + i) for i in range(count - power)]


def lightning_layer(layer, x, memory=None, valid=None, memory_valid=None):
    """TransNormerLLM with this project's choices; no decay in cross attention."""
    source, k_valid = (x, valid) if memory is None else (memory, memory_valid)
    count, dim = layer.shape.heads, layer.shape.dim
    q, k = heads(x, layer.query, count), heads(source, layer.key, count)
    q, k, v = q * torch.sigmoid(q), k * torch.sigmoid(k), heads(source, layer.value, count)
    slope = torch.tensor(alibi(count)) * (1 - layer.layer / layer.layers)  # float32, as the layer keeps it
    if memory is not None:
        slope = torch.zeros(count)
    angles = None if layer.place is None else layer.place.angles
    o = merged(decayed(q, k, v, slope.double(), layer.pattern == "causal_self", k_valid, angles))
    o = o / (o.square().sum(-1, keepdim=True) / dim + 1e-6).sqrt()
    down, up = layer.gate
    y = (o * torch.sigmoid(x @ down.weight.T @ up.weight.T)) @ layer.out.weight.T
    return y if valid is None else y * valid.unsqueeze(-1)
