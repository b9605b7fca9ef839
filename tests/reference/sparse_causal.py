"""Causal attention to the own key and to chosen sources, written from its formula: dense and masked."""

import torch
from torch import Tensor


def attend_past(
    q: Tensor, k: Tensor, v: Tensor, chosen_k: Tensor, chosen_v: Tensor, sources: Tensor, targets: Tensor
) -> Tensor:
    """o_t over {t} and the sources before t: shapes as in attentions.ops.sparse_causal."""
    scale = q.shape[-1] ** -0.5
    earlier = (sources.unsqueeze(-2) < targets.unsqueeze(-1)).unsqueeze(2)  # (b, g, 1, W, K)
    weight = torch.exp(torch.einsum("bghtd,bghsd->bghts", q, chosen_k) * scale) * earlier
    own = torch.exp((q * k).sum(-1, keepdim=True) * scale)
    total = weight.sum(-1, keepdim=True) + own
    return torch.einsum("bghts,bghsd->bghtd", weight / total, chosen_v) + own / total * v
