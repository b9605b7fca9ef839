"""Softmax attention written from its formula: dense, float64, one term per equation."""

import torch
from reference.common import merged
from reference.positions import projected
from torch import Tensor


def softmax(q: Tensor, k: Tensor, v: Tensor, causal: bool, k_valid: Tensor | None = None) -> Tensor:
    """o_t = sum_s p_ts v_s, p_ts ~ exp(q_t . k_s / sqrt(d)) over the allowed s; 0 where none is allowed."""
    weight = torch.exp(torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5)
    t, s = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    if causal:
        weight = weight * (s[None, :] <= t[:, None])
    if k_valid is not None:
        weight = weight * k_valid[:, None, None, :]
    total = weight.sum(-1, keepdim=True)
    return torch.einsum("bhts,bhse->bhte", weight / total.where(total > 0, 1), v)


def softmax_layer(layer, x, memory=None, valid=None, memory_valid=None):
    k_valid = valid if memory is None else memory_valid
    y = merged(softmax(*projected(layer, x, memory), layer.pattern == "causal_self", k_valid)) @ layer.out.weight.T
    return y if valid is None else y * valid.unsqueeze(-1)
