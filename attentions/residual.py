"""The pre-norm residual stack around any attention, and its feed-forward.

    x <- x + self_attention(norm(x));  x <- x + cross_attention(norm(x), memory);  x <- x + feedforward(norm(x))

and a final norm; with `shape.conv`, each layer begins with x <- x + conv(norm(x)), a short depthwise convolution.
Pre-norm as in GPT-2 (Radford et al. 2019). Backbones that are post-norm in their paper are pre-norm here, with every
family.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from attentions.base import Attention, SequenceModule, Shape, State, check_memory, no_loss, zero_padding
from attentions.ops.short_convolution import ShortConvolution


class FeedForward(nn.Module):
    """A sublayer without attention: x (B, N, D), valid (B, N) or None, to (B, N, D)."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class MLP(FeedForward):
    """Linear, GELU, linear, on every token alone."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.net(x)


MakeFeedForward = Callable[[int, int], FeedForward]
"""Makes a feed-forward of (dim, hidden)."""


class ResidualLayer(nn.Module):
    def __init__(
        self, shape: Shape, self_attention: Attention, cross_attention: Attention | None, feedforward: MakeFeedForward
    ) -> None:
        super().__init__()
        causal = self_attention.pattern.causal
        self.conv = ShortConvolution(shape.dim, shape.conv, causal) if shape.conv else None
        self.self_norm, self.self_attention = nn.LayerNorm(shape.dim), self_attention
        self.cross_norm = nn.LayerNorm(shape.dim) if cross_attention else None
        self.cross_attention = cross_attention
        self.norm = nn.LayerNorm(shape.dim) if shape.hidden else None
        self.feedforward = feedforward(shape.dim, shape.hidden) if shape.hidden else None

    def forward(
        self, x: Tensor, memory: Tensor | None, valid: Tensor | None, memory_valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.conv is not None:
            x = self.conv(x, valid)
        y, auxiliary = self.self_attention(self.self_norm(x), None, valid)
        x = x + y
        if self.cross_attention is not None and self.cross_norm is not None:
            y, more = self.cross_attention(self.cross_norm(x), memory, valid, memory_valid)
            x, auxiliary = x + y, auxiliary + more
        return self.with_feedforward(x, valid), auxiliary

    def prefill(self, x: Tensor, memory: Tensor | None, memory_valid: Tensor | None) -> tuple[Tensor, State]:
        tail = None
        if self.conv is not None:
            x, tail = self.conv.prefill(x)
        y, own = self.self_attention.prefill(self.self_norm(x))
        x, cross = x + y, None
        if self.cross_attention is not None and self.cross_norm is not None:
            y, cross = self.cross_attention.prefill(self.cross_norm(x), memory, memory_valid)
            x = x + y
        return self.with_feedforward(x, None), (tail, own, cross)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        tail, own, cross = state
        if self.conv is not None:
            x, tail = self.conv.step(x, tail)
        y, own = self.self_attention.step(self.self_norm(x), own)
        x = x + y
        if self.cross_attention is not None and self.cross_norm is not None:
            y, cross = self.cross_attention.step(self.cross_norm(x), cross)
            x = x + y
        return self.with_feedforward(x, None), (tail, own, cross)

    def with_feedforward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if self.feedforward is None or self.norm is None:
            return x
        return x + self.feedforward(self.norm(x), valid)


class ResidualStack(SequenceModule):
    """Residual layers with one self attention each and, in decoders with memory, one cross attention each."""

    def __init__(
        self,
        shape: Shape,
        self_attention: Sequence[Attention],
        cross_attention: Sequence[Attention] = (),
        feedforward: MakeFeedForward = MLP,
    ) -> None:
        super().__init__(shape, (cross_attention or self_attention)[0].pattern)
        crosses: Sequence[Attention | None] = cross_attention or [None] * len(self_attention)
        self.layers: Sequence[ResidualLayer] = nn.ModuleList(  # type: ignore[assignment]
            ResidualLayer(shape, own, cross, feedforward) for own, cross in zip(self_attention, crosses, strict=True)
        )
        self.norm = nn.LayerNorm(shape.dim)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        check_memory(self.pattern, memory)
        auxiliary = no_loss(x)
        for layer in self.layers:
            x, more = layer(x, memory, valid, memory_valid)
            auxiliary = auxiliary + more
        return zero_padding(self.norm(x), valid), auxiliary

    def prefill(
        self, x: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, State]:
        check_memory(self.pattern, memory)
        states = []
        for layer in self.layers:
            x, state = layer.prefill(x, memory, memory_valid)
            states.append(state)
        return self.norm(x), states

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        states = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x_t, layer_state = layer.step(x_t, layer_state)
            states.append(layer_state)
        return self.norm(x_t), states

    def reach(self) -> tuple[int, int] | None:
        """Of its attention alone: a short convolution adds to it."""
        reaches = [layer.self_attention.reach() for layer in self.layers]
        known = [reach for reach in reaches if reach is not None]
        if len(known) < len(reaches):
            return None
        return sum(back for back, _ in known), sum(ahead for _, ahead in known)

    def state_size(self, n: int, m: int = 0) -> int:
        tails = sum(layer.conv.state_size() for layer in self.layers if layer.conv is not None)
        sizes = (attention.state_size(n, m if attention.pattern.cross else 0) for attention in self._attentions())
        return tails + sum(sizes)

    @property
    def decodes_by_recomputation(self) -> bool:
        return any(attention.decodes_by_recomputation for attention in self._attentions())

    def _attentions(self) -> list[Attention]:
        every = [attention for layer in self.layers for attention in (layer.self_attention, layer.cross_attention)]
        return [attention for attention in every if attention is not None]
