"""PoinTr: completes a cloud of points as a translation from the proxies of the visible part to the missing part.

Yu et al., ICCV 2021, arXiv 2108.08839. With points in farthest point order, P proxies and Q queries,

    proxies   x = map(graph convolutions(points))_1..P;   x <- layer(x + map(coordinates))   in the encoder
    queries   g = max_P MLP(x);  coarse = MLP(g), Q points;  q = MLP(g, coarse);  layers of self and cross attention
    folding   dense = coarse_i + fold(MLP(max_Q MLP(q), q_i, coarse_i)), a grid of fold x fold points for each query

The input is kept: the dense cloud is the folded points and the input, the coarse one the coarse points and the first Q
points of the input. In the first `geometric_layers` of encoder and decoder the output of attention is merged with a
maximum over the 8 nearest tokens in space.

Slots, all of them layers because some are geometric: encoder.self and decoder.self (noncausal_self), decoder.cross
(noncausal_cross). Tokens are a set: the map of the coordinates is the only position. They come in the order that the
points have, and the coarse points in one that is learned; families that use the order of tokens see that.

Not as published: layer norms instead of batch norms, so that the rows of a batch stay independent, and the place of the
norm in the edge convolutions (`tasks.backbones.pointops`). Linear maps of concatenated parts are mostly written as a
sum of maps: the same function for less work.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Attention, Pattern, Shape, no_loss
from attentions.ops.decayed_linear import no_autocast
from attentions.residual import MLP
from attentions.slots import Slots
from tasks.backbones.pointops import SLOPE, WIDTHS, Grouping, neighbour_maximum, neighbours

NEAR = 8
"""Neighbours in a geometric layer."""
POSITION_WIDTH = 128


class PoinTr(nn.Module):
    """`shape` is the decoder's queries (`length`) and the proxies (`memory`), its depth the encoder's. `width` is that
    of the features of a whole cloud."""

    def __init__(
        self, slots: Slots, shape: Shape, decoder_layers: int, geometric_layers: int, width: int, fold: int
    ) -> None:
        super().__init__()
        self.queries = shape.length
        self.grouping = Grouping(shape.memory)
        self.embed = _perceptron(WIDTHS[-1], shape.dim, shape.dim)
        self.position = _perceptron(3, POSITION_WIDTH, shape.dim)
        own = replace(shape, length=shape.memory, memory=0)
        self.encoder: Sequence[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(slots, own, index, index < geometric_layers) for index in range(shape.depth)
        )
        self.summary = _perceptron(shape.dim, width, width)
        self.coarse = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3 * shape.length))
        self.query = QueryMap(width, shape.dim)
        layers = replace(shape, depth=decoder_layers)
        self.decoder: Sequence[DecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecoderLayer(slots, layers, index, index < geometric_layers) for index in range(decoder_layers)
        )
        self.rebuilt = _perceptron(shape.dim, width, width)
        self.reduce = nn.Linear(width + shape.dim + 3, shape.dim)
        self.fold = Fold(shape.dim, width // 4, fold)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points (B, N, 3) in farthest point order to coarse (B, Q + min(Q, N), 3), dense (B, Q fold^2 + N, 3) and the
        auxiliary loss."""
        proxies = points[:, : self.grouping.proxies]
        with no_autocast(points):
            position = self.position(proxies)
        x, near, auxiliary = self.embed(self.grouping(points)), neighbours(proxies, proxies, NEAR), no_loss(points)
        for layer in self.encoder:
            x, more = layer(x + position, near)
            auxiliary = auxiliary + more
        summary = self.summary(x).amax(1)  # (B, W)
        with no_autocast(points):
            coarse = self.coarse(summary.to(points.dtype)).unflatten(1, (-1, 3))  # (B, Q, 3)
        q = self.query(summary, coarse)
        near, across = neighbours(coarse, coarse, NEAR), neighbours(coarse, proxies, NEAR)
        for step in self.decoder:
            q, more = step(q, x, near, across)
            auxiliary = auxiliary + more
        rebuilt = self.rebuilt(q).amax(1, keepdim=True).expand(-1, self.queries, -1)
        around = self.fold(self.reduce(torch.cat([rebuilt, q, coarse.to(q.dtype)], -1)))  # (B, Q, fold^2, 3)
        dense = (coarse.unsqueeze(2) + around.to(points.dtype)).flatten(1, 2)
        return torch.cat([coarse, points[:, : self.queries]], 1), torch.cat([dense, points], 1), auxiliary


def _perceptron(features: int, width: int, out: int) -> nn.Sequential:
    """Of each token."""
    return nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width), nn.LeakyReLU(SLOPE), nn.Linear(width, out))


class Geometry(nn.Module):
    """Merges the output of attention for x (B, N, D) with an edge convolution over `source` (B, M, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.other = nn.Linear(dim, dim, bias=False)
        self.own = nn.Linear(dim, dim)
        self.merge = nn.Linear(2 * dim, dim)

    def forward(self, attended: Tensor, x: Tensor, source: Tensor, near: Tensor) -> Tensor:
        nearest = F.leaky_relu(neighbour_maximum(self.other(source), near) + self.own(x), SLOPE)
        return self.merge(torch.cat([attended, nearest], -1))


class Sublayer(nn.Module):
    """Norm, attention and optionally the geometry: the residual branch."""

    def __init__(self, attention: Attention, geometric: bool) -> None:
        super().__init__()
        dim = attention.shape.dim
        self.norm, self.attention = nn.LayerNorm(dim), attention
        self.memory_norm = nn.LayerNorm(dim) if attention.pattern.cross else None
        self.geometry = Geometry(dim) if geometric else None

    def forward(self, x: Tensor, memory: Tensor | None, near: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        if self.memory_norm is not None and memory is not None:
            memory = self.memory_norm(memory)
        y, auxiliary = self.attention(x, memory)
        if self.geometry is not None:
            y = self.geometry(y, x, x if memory is None else memory, near)
        return y, auxiliary


class EncoderLayer(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, index: int, geometric: bool) -> None:
        super().__init__()
        attention = slots.layer("encoder.self", Pattern.NONCAUSAL_SELF, shape, index, shape.depth)
        self.own = Sublayer(attention, geometric)
        self.norm, self.feedforward = nn.LayerNorm(shape.dim), MLP(shape.dim, attention.shape.hidden)

    def forward(self, x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        y, auxiliary = self.own(x, None, near)
        x = x + y
        return x + self.feedforward(self.norm(x)), auxiliary


class DecoderLayer(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, index: int, geometric: bool) -> None:
        super().__init__()
        alone = replace(shape, memory=0)
        own = slots.layer("decoder.self", Pattern.NONCAUSAL_SELF, alone, index, shape.depth)
        wide = replace(shape, hidden=own.shape.hidden)  # both share one feed-forward, and its width
        cross = slots.layer("decoder.cross", Pattern.NONCAUSAL_CROSS, wide, index, shape.depth)
        self.own, self.cross = Sublayer(own, geometric), Sublayer(cross, geometric)
        self.norm, self.feedforward = nn.LayerNorm(shape.dim), MLP(shape.dim, cross.shape.hidden)

    def forward(self, x: Tensor, memory: Tensor, near: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        y, auxiliary = self.own(x, None, near)
        x = x + y
        y, more = self.cross(x, memory, across)
        x = x + y
        return x + self.feedforward(self.norm(x)), auxiliary + more


class QueryMap(nn.Module):
    """The features of the whole (B, W) and coarse points (B, Q, 3) to queries (B, Q, D)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.whole, self.place = nn.Linear(width, width), nn.Linear(3, width, bias=False)
        self.net = nn.Sequential(
            nn.LeakyReLU(SLOPE), nn.Linear(width, width), nn.LeakyReLU(SLOPE), nn.Linear(width, dim)
        )

    def forward(self, whole: Tensor, coarse: Tensor) -> Tensor:
        with no_autocast(coarse):
            place = self.place(coarse)
        return self.net(self.whole(whole).unsqueeze(1) + place)


class Fold(nn.Module):
    """FoldingNet (Yang et al. 2018, arXiv 1712.07262): x (B, Q, D) bends a grid twice, to (B, Q, fold^2, 3)."""

    grid: Tensor

    def __init__(self, dim: int, hidden: int, fold: int) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, fold)
        self.register_buffer("grid", torch.cartesian_prod(line, line), persistent=False)  # (fold^2, 2)
        self.first, self.second = Bend(dim, 2, hidden), Bend(dim, 3, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x, self.first(x, self.grid.to(x.dtype)))


class Bend(nn.Module):
    """x (B, Q, D) and its points (..., S, C) to (B, Q, S, 3)."""

    def __init__(self, dim: int, coordinates: int, hidden: int) -> None:
        super().__init__()
        self.own, self.place = nn.Linear(dim, hidden), nn.Linear(coordinates, hidden, bias=False)
        self.net = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.LayerNorm(hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, 3),
        )

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        return self.net(self.own(x).unsqueeze(2) + self.place(points))
