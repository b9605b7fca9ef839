"""Local attention written from its formula: dense, float64, one term per equation."""

import torch
from reference.common import merged
from reference.positions import projected
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


def layer(layer, x, memory=None, valid=None, memory_valid=None):
    q, k, v = projected(layer, x, memory)
    sees = in_window(x.shape[1], layer.mixer.window, layer.pattern == "causal_self")
    if valid is not None:
        sees = sees & valid[:, None, None, :]
    y = merged(windowed_softmax(q, k, v, sees)) @ layer.out.weight.T
    return y if valid is None else y * valid.unsqueeze(-1)
