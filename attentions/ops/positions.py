"""Positions of queries and keys in self attention: rotary embedding and LRPE, and the norm before them.

Both make the score of a query at t and a key at s a function of t - s. Angles and products are in float32 or wider, as
bfloat16 cannot tell positions above 256 apart. Nothing depends on the length of the input or on padding.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from attentions.base import Shape, mark_position
from attentions.ops.precision import widened

THETA = 10_000.0
EPS = 1e-6


class Rotary(nn.Module):
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864) of all channels, without parameters.

    Channels i and i + d/2 are a pair, which is rotated by t theta^(-2 i / d); of an odd d, the last channel is not.
    """

    _tables: ClassVar[dict[tuple[int, int, torch.dtype, torch.device], tuple[Tensor, Tensor]]] = {}
    """Cosines and sines (n, d/2) of the first n positions, shared by all layers; n is a power of two."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pairs = dim // 2

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """q or k (B, H, N, d), whose first token is at position `start`, to the same shape."""
        end = start + x.shape[2]
        cos, sin = (part[start:end] for part in self._table(end, x))  # (N, d/2)
        wide, half = widened(x), self.pairs
        a, b = wide[..., :half], wide[..., half : 2 * half]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, wide[..., 2 * half :]], -1).to(x.dtype)

    def _table(self, length: int, x: Tensor) -> tuple[Tensor, Tensor]:
        size = max(64, 1 << (length - 1).bit_length())
        key = size, self.pairs, torch.promote_types(x.dtype, torch.float32), x.device
        if key not in self._tables:
            rates = THETA ** (-torch.arange(self.pairs, device=x.device, dtype=torch.float64) / self.pairs)
            angles = torch.arange(size, device=x.device, dtype=torch.float64).unsqueeze(1) * rates
            self._tables[key] = angles.cos().to(key[2]), angles.sin().to(key[2])
        return self._tables[key]


class LRPE(nn.Module):
    """Linearized relative positional encoding of TransNormerLLM (Qin et al. 2023, arXiv 2307.14995).

    x becomes [x cos(t th), x sin(t th)], so that q_t . k_s becomes sum_i q_i k_i cos(th_i (t - s)). Queries, keys and
    the state of linear attention get twice as wide. The angles th are learned; at first they are 10000^(-2 j / D) with
    j counted over all heads, so that late heads hardly see positions.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        angles = THETA ** (-2 * torch.arange(shape.dim) / shape.dim)
        self.angles = mark_position(nn.Parameter(angles.view(shape.heads, 1, -1)))  # (H, 1, d)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """q or k (B, H, N, d), whose first token is at position `start`, to (B, H, N, 2 d)."""
        wide = widened(x)
        place = torch.arange(start, start + x.shape[2], device=x.device, dtype=wide.dtype).unsqueeze(1)
        angles = place * self.angles.to(wide.dtype)  # (H, N, d)
        return torch.cat([wide * angles.cos(), wide * angles.sin()], -1).to(x.dtype)


class HeadNorm(nn.Module):
    """RMS norm over the channels of each head, with a learned scale per head and channel (the norm on q and k)."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.ones(heads * dim))  # a vector: without weight decay

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, N, d) to the same shape."""
        wide = widened(x)
        scale = self.weight.to(wide.dtype).view(self.heads, 1, -1)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * scale).to(x.dtype)
