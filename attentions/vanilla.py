"""Vanilla attention: softmax over all keys with torch's fused kernel.

Vaswani et al. 2017, arXiv 1706.03762.  o_t = sum_s softmax_s(q_t . k_s / sqrt(d)) v_s
Time O(N M d), memory O(N + M) with a fused kernel. All four patterns; causal_cross equals noncausal_cross, because a
row depends on its own query only.
"""

from torch import Tensor
from torch.nn import functional as F

from attentions.base import Mixer, Pattern, Shape, State, no_loss
from attentions.ops.kv_cache import KVCache
from attentions.projected import ProjectedAttention


class Softmax(Mixer):
    """Exact softmax attention. Subclasses override `attend`, which computes it."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """`mask` (B, 1, 1, M), True = attend; `causal` needs M = N. Never both."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None = None, k_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.pattern is Pattern.CAUSAL_SELF:  # padding is to the right of every valid query: no mask is needed
            return self.attend(q, k, v, None, causal=True), no_loss(q)
        return self._masked(q, k, v, k_valid), no_loss(q)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None = None) -> tuple[Tensor, State]:
        y, _ = self(q, k, v, None, k_valid)
        return y, (KVCache(k, v), k_valid)

    def step(self, q: Tensor, k: Tensor | None, v: Tensor | None, state: State) -> tuple[Tensor, State]:
        cache, k_valid = state
        if k is not None and v is not None:
            cache = cache.append(k, v)
        # No causal mask: the query is the last token and may see every key.
        return self._masked(q, cache.k, cache.v, k_valid), (cache, k_valid)

    def state_size(self, n: int, m: int = 0) -> int:
        return 2 * (m if self.pattern.cross else n) * self.shape.dim

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None) -> Tensor:
        if k_valid is None:
            return self.attend(q, k, v, None, causal=False)
        some = k_valid.any(-1, keepdim=True)
        mask = (k_valid | ~some)[:, None, None, :]  # a row without any valid key gets all keys, because softmax
        return self.attend(q, k, v, mask, causal=False) * some[:, None, :, None]  # over none is NaN, and then 0


class Vanilla(ProjectedAttention):
    support = dict.fromkeys(Pattern, "paper")

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int) -> None:
        super().__init__(shape, pattern, layer, layers, Softmax(shape, pattern))
