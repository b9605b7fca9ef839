"""Keys and values kept while decoding."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values (B, H, n, d) in buffers that grow by doubling, so that a step copies O(1) amortised."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self._k, self._v, self.length = k, v, k.shape[2]

    def append(self, k: Tensor, v: Tensor) -> "KVCache":
        end = self.length + k.shape[2]
        if end > self._k.shape[2]:
            self._k, self._v = (self._grow(old, end) for old in (self._k, self._v))
        self._k[:, :, self.length : end] = k
        self._v[:, :, self.length : end] = v
        self.length = end
        return self

    @property
    def k(self) -> Tensor:
        return self._k[:, :, : self.length]

    @property
    def v(self) -> Tensor:
        return self._v[:, :, : self.length]

    def _grow(self, old: Tensor, end: int) -> Tensor:
        batch, heads, _, dim = old.shape
        new = torch.empty(batch, heads, max(2 * self.length, end), dim, dtype=old.dtype, device=old.device)
        new[:, :, : self.length] = old[:, :, : self.length]
        return new
