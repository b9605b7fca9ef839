"""Local layers of FIT (see attentions/fit.py): transformer layers inside groups of n tokens.

Tokens are (B T, n, D), a group a row. With `shape.conv`, a short convolution before each layer runs over the tokens of
all groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from attentions.base import Pattern, Shape, State
from attentions.ops.short_convolution import ShortConvolution
from attentions.residual import MakeFeedForward, ResidualLayer
from attentions.vanilla import Vanilla


@dataclass
class LocalState:
    """What local layers keep while decoding. Lists are empty before the first token."""

    layers: list[State] = field(default_factory=list)
    """Of the open group."""
    tails: list[State] = field(default_factory=list)
    """Of the convolutions, which go on from group to group."""


class LocalLayers(nn.Module):
    def __init__(self, shape: Shape, pattern: Pattern, feedforward: MakeFeedForward, count: int) -> None:
        super().__init__()
        own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
        plain = replace(shape, conv=0)
        self.layers: Sequence[ResidualLayer] = nn.ModuleList(  # type: ignore[assignment]
            ResidualLayer(plain, Vanilla(plain, own, i, count), None, feedforward) for i in range(count)
        )
        self.convs: Sequence[ShortConvolution] = nn.ModuleList(  # type: ignore[assignment]
            ShortConvolution(shape.dim, shape.conv, pattern.causal) for _ in range(count if shape.conv else 0)
        )

    def forward(self, x: Tensor, batch: int, real: Tensor | None, kept: LocalState | None = None) -> Tensor:
        """All groups of `batch` rows; real (B T, n) are tokens that are not padding. Whole groups fill `kept`."""
        for index, layer in enumerate(self.layers):
            if self.convs:
                x = self._convolved(self.convs[index], x, batch, real, kept)
            x, _ = layer(x, None, real, None)
        return x

    def step(self, x: Tensor, kept: LocalState) -> Tensor:
        """Further tokens (B, j, D) of the open group: one, or several that begin it."""
        after: list[State] = []
        tails: list[State] = []
        for index, layer in enumerate(self.layers):
            if self.convs:
                conv = self.convs[index]
                x, tail = conv.step(x, kept.tails[index]) if kept.tails else conv.prefill(x)
                tails.append(tail)
            x, state = layer.step(x, kept.layers[index]) if kept.layers else layer.prefill(x, None, None)
            after.append(state)
        kept.layers, kept.tails = after, tails
        return x

    def state_size(self, inside: int) -> int:
        """Numbers kept with `inside` tokens in the open group."""
        keys_values = sum(2 * inside * layer.self_attention.shape.dim for layer in self.layers)
        return keys_values + sum(conv.state_size() for conv in self.convs)

    def _convolved(
        self, conv: ShortConvolution, x: Tensor, batch: int, real: Tensor | None, kept: LocalState | None
    ) -> Tensor:
        tokens = x.unflatten(0, (batch, -1)).flatten(1, 2)  # (B, T n, D)
        if kept is None:
            tokens = conv(tokens, None if real is None else real.view(tokens.shape[:2]))
        else:
            tokens, tail = conv.prefill(tokens)
            kept.tails.append(tail)
        return tokens.view(x.shape)
