"""Local attention: softmax over a window that slides with the query.

Luong, Pham, Manning 2015, arXiv 1508.04025, in the form of CAB (Zhang et al. 2023), without its faults at borders.
    o_t = sum_{s in W(t)} softmax_s(q_t . k_s / sqrt(d)) v_s
Time O(N w d), memory O(N (w + d)); decoding keeps the last w keys and values.

Patterns, with a window of w
    noncausal_self   W(t) = {s: |t - s| <= w // 2}: w + 1 keys if w is even, w if it is odd
    causal_self      W(t) = {t - w + 1, ..., t}: w keys
Cross patterns have none: queries and memory have no common axis.

One layer reaches no further than its window, and says so (`reach`). In the tables it is a control: what is gained over
it comes from further away.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from attentions.base import Mixer, Pattern, Shape, State, check_causal, check_whole, no_loss
from attentions.ops.banded import Ring, sliding_attention
from attentions.projected import ProjectedAttention


class SlidingWindow(Mixer):
    def __init__(self, shape: Shape, pattern: Pattern, window: int) -> None:
        super().__init__(shape, pattern)
        self.window = window
        self.left, self.right = (window - 1, 0) if pattern.causal else (window // 2, window // 2)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None = None, k_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        valid = None if self.pattern.causal else k_valid  # padding is to the right of every valid query
        return sliding_attention(q, k, v, self.left, self.right, valid), no_loss(q)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None = None) -> tuple[Tensor, State]:
        check_causal(self.pattern)
        y, _ = self(q, k, v)
        return y, Ring.of(k, v, self.window)

    def step(self, q: Tensor, k: Tensor | None, v: Tensor | None, state: State) -> tuple[Tensor, State]:
        ring = state.put(k, v)
        return ring.read(q, ring.length - self.window), ring

    def state_size(self, n: int, m: int = 0) -> int:
        return 2 * min(n, self.window) * self.shape.dim


class Local(ProjectedAttention):
    support: ClassVar[Mapping[Pattern, str]] = {
        Pattern.NONCAUSAL_SELF: "reference code",
        Pattern.CAUSAL_SELF: "reference code",
    }
    mixer: SlidingWindow

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int, *, window: int = 64) -> None:
        """`window` may exceed the length of the input."""
        check_whole("window", window)
        super().__init__(shape, pattern, layer, layers, SlidingWindow(shape, pattern, window))

    def reach(self) -> tuple[int, int]:
        return self.mixer.left, self.mixer.right
