"""Positions: added to the embeddings, the same for every family, or left to the attention.

`rotary` adds nothing: self attentions tell positions apart in their own way, softmax attention by rotary embedding.
`sinusoidal` (Vaswani et al. 2017, arXiv 1706.03762, section 3.5) has no parameters and no maximum length; `learned` is
a table of the design length, which starts as the sinusoids; `none` are no positions at all. Both are made for
embeddings whose entries are of size 1, as in section 3.4 of that paper.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attentions.base import mark_position

InputPositions = Literal["sinusoidal", "learned", "none"]
"""For networks whose papers add them to the input."""
PositionKind = Literal["rotary", "sinusoidal", "learned", "none"]


def sinusoidal(start: int, count: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(count, dim): sines of positions start, start + 1, ... in the first half, cosines in the second."""
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10_000.0) / half))
    angles = torch.arange(start, start + count, device=device).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :dim]


class Positions(nn.Module):
    """Adds positions to x (B, N, D); `start` is the position of its first token, for decoding."""

    def __init__(self, kind: PositionKind, length: int, dim: int) -> None:
        super().__init__()
        if kind not in get_args(PositionKind):
            raise ValueError(f"positions={kind!r}: use {', '.join(get_args(PositionKind))}")
        self.kind = kind
        self.table = mark_position(nn.Parameter(sinusoidal(0, length, dim))) if kind == "learned" else None

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        if self.table is not None:
            if start + x.shape[1] > len(self.table):
                raise ValueError(f"learned positions end at {len(self.table)}: use positions=sinusoidal to go further")
            return x + self.table[start : start + x.shape[1]]
        if self.kind == "sinusoidal":
            return x + sinusoidal(start, x.shape[1], x.shape[2], x.device).to(x.dtype)
        return x
