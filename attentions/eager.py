"""Eager attention: the same function as vanilla with all N x M scores in memory.

The baseline of the original CAB, and the noise floor of quality tables: differences of `eager` and `vanilla` are noise.
Time and memory O(N M).
"""

import torch
from torch import Tensor

from attentions.base import Pattern, Shape
from attentions.projected import ProjectedAttention
from attentions.vanilla import Softmax


class EagerSoftmax(Softmax):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        scores = q @ k.transpose(-1, -2) * self.shape.head_dim**-0.5  # (B, H, N, M)
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ v


class Eager(ProjectedAttention):
    support = dict.fromkeys(Pattern, "paper")

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int) -> None:
        super().__init__(shape, pattern, layer, layers, EagerSoftmax(shape, pattern))
