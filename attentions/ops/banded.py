"""Banded attention: tokens see what is near, by blocks or by a window that slides.

    local_attention     blocks of b tokens that see their own block and its neighbours (local heads of routing)
    sliding_attention   every token sees the same number of keys around it, or up to it (local)

Time O(N b d) with blocks or windows of b tokens, memory O(N (b + d)).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attentions.ops.clustered import read

CHUNK = 32
"""The least number of queries that read the same keys, where windows are shorter."""
ALIGNED = 8
"""Keys of a chunk are a multiple of this, as the fused kernels of a GPU need it."""


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


def sliding_attention(q: Tensor, k: Tensor, v: Tensor, left: int, right: int, valid: Tensor | None = None) -> Tensor:
    """q, k, v (B, H, N, d), valid (B, N) to (B, H, N, d): token t sees the valid tokens from t - left to t + right, and
    always itself. Chunks of queries read the keys from `left` before to `right` after them."""
    batch, heads, n, dim = q.shape
    left, right = min(left, n - 1), min(right, n - 1)
    before, after = -(-left // ALIGNED) * ALIGNED, -(-right // ALIGNED) * ALIGNED
    chunk = min(max(CHUNK, before + after), n)
    chunks = -(-n // chunk)
    span = before + chunk + after  # keys of a chunk
    extra = chunks * chunk - n

    def around(x: Tensor) -> Tensor:  # (B, H, N, d) to (B chunks, H, span, d)
        x = F.pad(x.transpose(1, 2), (0, 0, 0, 0, before, extra + span - before - chunk))
        return x.unfold(1, span, chunk).flatten(0, 1).transpose(-1, -2)

    queries = F.pad(q.transpose(1, 2), (0, 0, 0, 0, 0, extra)).reshape(batch * chunks, chunk, heads, dim)
    place = torch.arange(chunks * chunk, device=q.device).view(chunks, chunk, 1)
    other = torch.arange(-before, span - before, device=q.device) + place[:, :1]  # (chunks, 1, span)
    visible = (other >= (place - left).clamp(min=0)) & (other <= (place + right).clamp(max=n - 1))
    if valid is not None:
        visible = visible & valid[:, other.clamp(0, n - 1)]
    visible = visible | (other == place)  # every token sees itself, as softmax over none is NaN
    mask = visible.expand(batch, -1, -1, -1).reshape(batch * chunks, 1, chunk, span)
    y = F.scaled_dot_product_attention(queries.transpose(1, 2), around(k), around(v), attn_mask=mask)
    return y.transpose(1, 2).reshape(batch, chunks * chunk, heads, dim)[:, :n].transpose(1, 2)


class Ring(NamedTuple):
    """The state of decoding: the latest keys and values (B, H, places, d), token t at index t mod places, and the
    number of tokens."""

    k: Tensor
    v: Tensor
    length: int

    @classmethod
    def of(cls, k: Tensor, v: Tensor, places: int) -> "Ring":
        token = _token_at(torch.arange(places, device=k.device), k.shape[2] - 1).clamp(min=0)
        return cls(k.index_select(2, token), v.index_select(2, token), k.shape[2])

    def put(self, k: Tensor, v: Tensor) -> "Ring":
        place = self.length % self.k.shape[2]
        self.k[:, :, place : place + 1], self.v[:, :, place : place + 1] = k, v
        return self._replace(length=self.length + 1)

    def read(self, q: Tensor, first: int) -> Tensor:
        """The query (B, H, 1, d) of the token that was put last, which sees the tokens from `first` on."""
        visible = _token_at(torch.arange(self.k.shape[2], device=q.device), self.length - 1) >= max(0, first)
        k, v = self.k.to(q.dtype).unsqueeze(2), self.v.to(q.dtype).unsqueeze(2)
        return read(q.unsqueeze(2), k, v, visible.expand(*q.shape[:2], 1, 1, -1)).squeeze(2)


def _token_at(place: Tensor, last: int) -> Tensor:
    """The latest token, up to `last`, that was put at a place of a ring; below 0 if there was none."""
    return last - (last - place) % len(place)
