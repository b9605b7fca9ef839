"""SR3's U-Net: residual blocks at several resolutions, conditioned on the noise level, with attention over pixels.

Saharia et al. 2021, arXiv 2104.07636, after Ho et al. 2020, arXiv 2006.11239. With e an embedding of the noise level,

    block       h = conv(silu(norm(x))) + W e;  y = skip(x) + conv(dropout(silu(norm(h))));  y <- y + attention(norm(y))
    down        `depth` blocks at each resolution, a convolution of stride 2 between two
    middle      two blocks, attention in the first
    up          `depth` + 1 blocks at each resolution, each also sees an output of the way down; nearest neighbours
                and a convolution between two
    head        norm, silu, a convolution that starts at 0

The condition is stacked onto the noisy image. Channels are `dim` times the multiplier of the resolution. A resolution
of s x s has s^2 tokens in the order of rows; SR3 has attention at 16 x 16, CAB at 16 to 128.

Slots: self.<s>, noncausal_self, single layers without feed-forward, as many at each resolution as there are blocks with
attention. A wider level has more heads of the same width. There are no position embeddings: convolutions encode them.
Without a feed-forward, parameters cannot be balanced: `none` has fewer parameters than vanilla (smoke 12%, base and
paper 8%), lightning more (4%, 1%).

Not as published: attention in as many heads as `shape` asks for (the code that CAB ran has one); norms over at least
four channels (32 groups would leave two at the narrowest width); no moving average of the weights.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Attention, Pattern, Shape, no_loss
from attentions.ops.decayed_linear import no_autocast, widened
from attentions.slots import Slots

COLOURS = 3
NORM_GROUPS, GROUP_CHANNELS = 32, 4
"""Most groups, and fewest channels of a group: a channel that is normalised alone loses the noise level."""
FASTEST = 100.0
"""Radians of the fastest wave in the embedding of the level, from one end of the levels to the other."""


class UNet(nn.Module):
    """`shape`: dim and heads at the full resolution, blocks per resolution as depth, pixels of the image as length."""

    def __init__(
        self, slots: Slots, shape: Shape, multipliers: Sequence[int], attention_sizes: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        sizes = resolutions(shape.length, len(multipliers))
        widths = [shape.dim * multiplier for multiplier in multipliers]
        attentions = _Attentions(slots, shape, sizes, attention_sizes)

        def block(entering: int, level: int) -> Block:
            width, size = widths[level], sizes[level]
            attention = attentions.make(width, size) if size in attention_sizes else None
            return Block(entering, width, shape.dim, dropout, attention)

        self.level = Level(shape.dim)
        self.stem = nn.Conv2d(2 * COLOURS, shape.dim, 3, padding=1)
        width, seen = shape.dim, [shape.dim]
        down: list[nn.Module] = []
        for level in range(len(sizes)):
            if level:
                down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                seen.append(width)
            for _ in range(shape.depth):
                down.append(block(width, level))
                width = widths[level]
                seen.append(width)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList(
            [
                Block(width, width, shape.dim, dropout, attentions.make(width, sizes[-1])),
                Block(width, width, shape.dim, dropout, None),
            ]
        )
        up: list[nn.Module] = []
        for level in reversed(range(len(sizes))):
            for _ in range(shape.depth + 1):
                up.append(block(width + seen.pop(), level))
                width = widths[level]
            if level:
                up.append(Up(width))
        self.up = nn.ModuleList(up)
        last = nn.Conv2d(width, COLOURS, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.head = nn.Sequential(_norm(width), nn.SiLU(), last)

    def forward(self, noisy: Tensor, condition: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """noisy and condition (B, 3, S, S), level (B,) from 0, all noise, to 1: (B, 3, S, S) and the auxiliary loss."""
        auxiliary = no_loss(noisy)
        with no_autocast(noisy):  # bfloat16 would lose small noise in inputs, level and output
            embedded, x = self.level(level), self.stem(torch.cat([noisy, condition], 1))
        seen = [x]
        for module in self.down:
            x, more = module(x, embedded) if isinstance(module, Block) else (module(x), 0)
            seen.append(x)
            auxiliary = auxiliary + more
        for module in self.middle:
            x, more = module(x, embedded)
            auxiliary = auxiliary + more
        for module in self.up:
            x, more = (module(x), 0) if isinstance(module, Up) else module(torch.cat([x, seen.pop()], 1), embedded)
            auxiliary = auxiliary + more
        with no_autocast(noisy):
            return self.head(widened(x)), auxiliary


class Level(nn.Module):
    """The noise level (B,) as D features, by waves of many lengths and two layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.waves = (dim + 1) // 2
        self.net = nn.Sequential(nn.Linear(2 * self.waves, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, level: Tensor) -> Tensor:
        rates = torch.arange(self.waves, device=level.device) / self.waves
        angles = level.float().unsqueeze(1) * FASTEST ** (1 - rates)
        return self.net(torch.cat([angles.sin(), angles.cos()], 1))  # (B, D)


class Block(nn.Module):
    """x (B, C, s, s) and the level (B, D) to (B, width, s, s) and the auxiliary loss."""

    def __init__(
        self, entering: int, width: int, level_dim: int, dropout: float, attention: Attention | None = None
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(entering), nn.SiLU(), nn.Conv2d(entering, width, 3, padding=1))
        self.level = nn.Linear(level_dim, width)
        self.second = nn.Sequential(_norm(width), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if entering == width else nn.Conv2d(entering, width, 1)
        self.norm = _norm(width) if attention is not None else None
        self.attention = attention

    def forward(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x) + self.level(level)[:, :, None, None]
        x = self.skip(x) + self.second(h)
        if self.attention is None or self.norm is None:
            return x, no_loss(x)
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, s^2, C)
        y, auxiliary = self.attention(tokens)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:]), auxiliary


class Up(nn.Module):
    """(B, C, s, s) to (B, C, 2s, 2s)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Attentions:
    """Builds the attention layers in order; families need their total number."""

    def __init__(self, slots: Slots, shape: Shape, sizes: Sequence[int], attention_sizes: Sequence[int]) -> None:
        self.slots, self.shape, self.made = slots, shape, 0
        self.count = 1 + sum(2 * shape.depth + 1 for size in sizes if size in attention_sizes)

    def make(self, width: int, size: int) -> Attention:
        heads = self.shape.heads * width // self.shape.dim
        own = replace(self.shape, dim=width, heads=heads, hidden=0, length=size**2, memory=0)
        self.made += 1
        return self.slots.layer(f"self.{size}", Pattern.NONCAUSAL_SELF, own, self.made - 1, self.count)


def resolutions(length: int, count: int) -> list[int]:
    """Side lengths of the square of `length` pixels, halved `count` - 1 times. Raises ValueError if not possible."""
    size = math.isqrt(length)
    if size**2 != length:
        raise ValueError(f"length={length:,}: the pixels of a square image are needed: use {size**2:,} for example")
    if size % 2 ** (count - 1):
        raise ValueError(f"length={length:,}: {size} pixels cannot be halved {count - 1} times: use fewer multipliers")
    return [size >> level for level in range(count)]


def _norm(channels: int) -> nn.GroupNorm:
    groups = NORM_GROUPS
    while groups > 1 and channels % (GROUP_CHANNELS * groups):
        groups //= 2
    return nn.GroupNorm(groups, channels)
