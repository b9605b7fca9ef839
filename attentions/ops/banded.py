"""Banded attention: blocks of tokens that see their own block and its neighbours. Local heads of routing use it.

Time O(N b d) with blocks of b tokens, memory O(N (b + d)).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attentions.ops.clustered import read


def local_attention(q: Tensor, k: Tensor, v: Tensor, block: int, causal: bool, valid: Tensor | None) -> Tensor:
    """q, k, v (B, H, N, d), valid (B, N) to (B, H, N, d): a block sees itself, the one before and, unless `causal`, the
    one after."""
    batch, heads, n, dim = q.shape
    block = min(block, n)
    blocks = -(-n // block)
    parts = 2 if causal else 3
    q = F.pad(q, (0, 0, 0, blocks * block - n)).view(batch, heads, blocks, block, dim)

    def around(x: Tensor) -> Tensor:  # (B, H, N, d) to (B, H, blocks, parts * block, d)
        x = F.pad(x, (0, 0, block, (blocks + parts - 2) * block - n)).unflatten(2, (-1, block))
        return torch.cat([x[:, :, part : part + blocks] for part in range(parts)], -2)

    place = torch.arange(blocks * block, device=q.device).view(blocks, block, 1)
    other = torch.arange(-block, (parts - 1) * block, device=q.device) + place[:, :1]  # (blocks, 1, parts * block)
    visible = (other >= 0) & (other < n)
    if causal:
        visible = visible & (other <= place)
    elif valid is not None:
        visible = visible & valid[:, other.clamp(0, n - 1)]
    visible = visible | (other == place)  # every token sees itself, as softmax over none is NaN
    visible = visible.expand(batch, *visible.shape[-3:]).unsqueeze(1).expand(-1, heads, -1, -1, -1)
    return read(q, around(k), around(v), visible).flatten(2, 3)[:, :, :n]


class LocalRing(NamedTuple):
    """The state of decoding: keys and values (B, H, 2 b, d), token t at index t mod 2 b, and the number of tokens."""

    k: Tensor
    v: Tensor
    length: int

    @classmethod
    def of(cls, k: Tensor, v: Tensor, block: int) -> "LocalRing":
        token = _token_at(torch.arange(2 * block, device=k.device), k.shape[2] - 1).clamp(min=0)
        return cls(k.index_select(2, token), v.index_select(2, token), k.shape[2])

    def put(self, k: Tensor, v: Tensor) -> "LocalRing":
        place = self.length % self.k.shape[2]
        self.k[:, :, place : place + 1], self.v[:, :, place : place + 1] = k, v
        return self._replace(length=self.length + 1)

    def read(self, q: Tensor) -> Tensor:
        """The query (B, H, 1, d) of the token that was put last."""
        places, last = self.k.shape[2], self.length - 1
        block = places // 2
        visible = _token_at(torch.arange(places, device=q.device), last) >= max(0, last // block - 1) * block
        k, v = self.k.to(q.dtype).unsqueeze(2), self.v.to(q.dtype).unsqueeze(2)
        return read(q.unsqueeze(2), k, v, visible.expand(*q.shape[:2], 1, 1, -1)).squeeze(2)


def _token_at(place: Tensor, last: int) -> Tensor:
    """The latest token, up to `last`, that was put at a place of a ring; below 0 if there was none."""
    return last - (last - place) % len(place)
