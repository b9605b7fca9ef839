"""Lightning attention: linear attention with a fixed decay per head, no softmax and no denominator.

Qin et al. 2023 (TransNormerLLM), arXiv 2307.14995; Qin et al. 2024 (Lightning Attention-2), arXiv 2401.04658.

    y = (norm(o) . sigmoid(x Wd Wu)) Wo,   o_t = sum_{s<=t} lam^(t-s) (silu(q_t) . silu(k_s)) v_s,   lam = exp(-slope)

Time O(N d (block + d)), memory O(N d) in training; decoding has a state of d x d per head at any length. `block` does
not change the result.

The paper, the authors' code and MiniMax's layer differ. Here: silu on q and k, none on v (paper); ALiBi's slopes
2^(-8 (h+1) / H) (authors' code) times 1 - layer / layers (paper); a norm without weight over all heads together, in
float32 (paper); a sigmoid gate of low rank D -> d -> D on the normed output (authors' code); where positions are not in
the input, LRPE on q and k in the first layer only (paper), which makes them and that layer's state twice as wide.

Patterns: causal_self is the paper's. Extensions: noncausal_self decays with the distance in both directions; in cross
attention there is no distance between a query and a memory token, so nothing decays and o_t = q_t^T sum_s k_s v_s^T.
causal_cross equals noncausal_cross, because a row depends on its own query only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Mixer, Pattern, Shape, State, check_whole, no_loss
from attentions.ops.decayed_linear import decayed_attention, decayed_prefill
from attentions.ops.positions import LRPE
from attentions.ops.precision import no_autocast, widened
from attentions.projected import ProjectedAttention

EPS = 1e-6


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8 (h+1) / H) if H is a power of two. Else those of the power of two below, and then every second one of the
    power above, as in ALiBi (Press et al. 2022, arXiv 2108.12409)."""
    below = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (h + 1) / below) for h in range(below)]
    between = [2 ** (-8 * (h + 1) / (2 * below)) for h in range(0, 2 * below, 2)]
    return slopes + between[: heads - below]


def has_lrpe(shape: Shape, pattern: Pattern, layer: int) -> bool:
    return shape.rotary and not pattern.cross and layer == 0


class LinearAttention(Mixer):
    """Decayed in self patterns, plain in cross patterns. Outputs and states are float32 or wider."""

    slope: Tensor

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int, block: int) -> None:
        super().__init__(shape, pattern)
        self.block = block
        self.key_dim = shape.head_dim * (2 if has_lrpe(shape, pattern, layer) else 1)
        slope = torch.tensor(alibi_slopes(shape.heads)) * (1 - layer / layers)
        self.register_buffer("slope", slope, persistent=False)  # (H,)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None = None, k_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.pattern.cross:
            return self._read(q, self._memory(k, v, k_valid)), no_loss(q)
        both = not self.pattern.causal
        if both and k_valid is not None:  # causal: padding is to the right of every valid query
            k = k.masked_fill(~k_valid[:, None, :, None], 0)
        return decayed_attention(q, k, v, self.slope, self.block, both), no_loss(q)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None = None) -> tuple[Tensor, State]:
        if self.pattern.cross:
            state = self._memory(k, v, k_valid)
            return self._read(q, state), state
        return decayed_prefill(q, k, v, self.slope, self.block)

    def step(self, q: Tensor, k: Tensor | None, v: Tensor | None, state: State) -> tuple[Tensor, State]:
        if k is not None and v is not None:
            decay = torch.exp(-self.slope.to(state.dtype)).view(-1, 1, 1)
            state = (state * decay).addcmul_(k.mT.to(state.dtype), v.to(state.dtype))  # (B, H, d, d)
        return self._read(q, state), state

    def state_size(self, n: int, m: int = 0) -> int:
        return self.shape.dim * self.key_dim

    def _memory(self, k: Tensor, v: Tensor, k_valid: Tensor | None) -> Tensor:
        """(B, H, d, d), the sum of k v^T over valid memory."""
        if k_valid is not None:
            k = k.masked_fill(~k_valid[:, None, :, None], 0)
        with no_autocast(k):
            return widened(k).mT @ widened(v)

    def _read(self, q: Tensor, state: Tensor) -> Tensor:
        with no_autocast(q):
            return q.to(state.dtype) @ state  # (B, H, N, d)


class Lightning(ProjectedAttention):
    support = dict.fromkeys(Pattern, "extension") | {Pattern.CAUSAL_SELF: "paper"}
    positions = "decay, LRPE in the first layer"
    softmax = False

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int, *, block: int = 64) -> None:
        check_whole("block", block)
        super().__init__(shape, pattern, layer, layers, LinearAttention(shape, pattern, layer, layers, block))
        self.gate = nn.Sequential(
            nn.Linear(shape.dim, shape.head_dim, bias=False), nn.Linear(shape.head_dim, shape.dim, bias=False)
        )

    def make_positions(self) -> nn.Module | None:
        return LRPE(self.shape) if has_lrpe(self.shape, self.pattern, self.layer) else None

    def queries(self, x: Tensor) -> Tensor:
        return self.split(F.silu(self.query(x)))

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(F.silu(self.key(source))), self.split(self.value(source))

    def output(self, mixed: Tensor, x: Tensor) -> Tensor:
        wide = mixed.transpose(1, 2).flatten(-2)  # (B, N, D)
        normed = F.rms_norm(wide, (self.shape.dim,), eps=EPS)
        return self.out(normed.to(x.dtype) * self.gate(x).sigmoid())
