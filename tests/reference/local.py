"""Local attention written from its formula: dense, float64, one term per equation, positions by rotation matrices."""

import torch
from reference.common import heads, merged
from torch import Tensor


def in_window(n: int, window: int, causal: bool) -> Tensor:
    """(n, n): whether token t sees token s."""
    rows = [[t - window < s <= t if causal else abs(t - s) <= window // 2 for s in range(n)] for t in range(n)]
    return torch.tensor(rows)


def windowed_softmax(q: Tensor, k: Tensor, v: Tensor, sees: Tensor) -> Tensor:
    """o_t = sum_s p_ts v_s, p_ts ~ exp(q_t . k_s / sqrt(d)) over the s that t sees; 0 where it sees none."""
    weight = torch.exp(torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5) * sees
    total = weight.sum(-1, keepdim=True)
    return torch.einsum("bhts,bhse->bhte", weight / total.where(total > 0, 1), v)


def rotated(x: Tensor) -> Tensor:
    """Pairs of channels (i, i + d/2) as complex numbers, turned by t 10000^(-2 i / d)."""
    pairs = x.shape[-1] // 2
    rate = 10000.0 ** (-2 * torch.arange(pairs, dtype=x.dtype) / (2 * pairs))
    turn = torch.exp(1j * torch.arange(x.shape[2], dtype=x.dtype)[:, None] * rate)
    turned = torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs]) * turn
    return torch.cat([turned.real, turned.imag, x[..., 2 * pairs :]], -1)


def local_layer(layer, window, x, valid=None):
    q, k, v = (heads(x, linear, layer.shape.heads) for linear in (layer.query, layer.key, layer.value))
    if layer.shape.rotary:
        q, k = rotated(q), rotated(k)
    sees = in_window(x.shape[1], window, layer.pattern == "causal_self")
    if valid is not None:
        sees = sees & valid[:, None, None, :]
    y = merged(windowed_softmax(q, k, v, sees)) @ layer.out.weight.T
    return y if valid is None else y * valid.unsqueeze(-1)
