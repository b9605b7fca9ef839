"""Informer: an encoder that halves the length between its layers, and a decoder that predicts all steps at once.

Zhou et al., AAAI 2021, arXiv 2012.07436. With E = circular convolution of the values (kernel 3) + a linear map of the
time features + positions, and the start token: the last `label` known steps,

    encoder   x_0 = E(past);  x_{i+1} = MaxPool(ELU(Norm(Conv(layer_i(x_i))))), stride 2, but not after the last layer
    decoder   y = E([past_label; 0, ..., 0]);  layers of self attention, attention to the encoder, feed-forward
    forecast  a linear map of the last `horizon` outputs, in one forward pass

Slots, all of them layers because each depth has a length of its own: encoder.self (noncausal_self), decoder.self
(causal_self, as in the published code) and decoder.cross (noncausal_cross).

Not as published: pre-norm instead of post-norm, as everywhere here; LayerNorm instead of BatchNorm when distilling, so
that the rows of a batch stay independent; no dropout.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern, Shape, no_loss
from attentions.residual import MLP, ResidualLayer
from attentions.slots import Slots
from tasks.backbones.positions import InputPositions, Positions


class Informer(nn.Module):
    """`shape` is the encoder's: depth and input length. The decoder has `decoder_layers` and label + horizon tokens."""

    def __init__(
        self,
        slots: Slots,
        shape: Shape,
        channels: int,
        time_features: int,
        label: int,
        horizon: int,
        decoder_layers: int,
        positions: InputPositions,
    ) -> None:
        super().__init__()
        self.label, self.horizon = label, horizon
        length = label + horizon
        self.encoder_embedding = Embedding(channels, time_features, shape.dim, shape.length, positions)
        self.encoder = Encoder(slots, shape)
        self.decoder_embedding = Embedding(channels, time_features, shape.dim, length, positions)
        own = replace(shape, depth=decoder_layers, length=length, memory=0)
        self.decoder = Decoder(slots, own, memory=distilled(shape.length, shape.depth - 1))
        self.head = nn.Linear(shape.dim, channels)

    def forward(self, past: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """past (B, L, C) and time (B, L + H, F) to the forecast (B, H, C) and the auxiliary loss."""
        length = past.shape[1]
        memory, auxiliary = self.encoder(self.encoder_embedding(past, time[:, :length]))
        start = past[:, length - self.label :]
        blank = past.new_zeros(len(past), self.horizon, past.shape[2])
        x = self.decoder_embedding(torch.cat([start, blank], 1), time[:, length - self.label :])
        y, more = self.decoder(x, memory)
        return self.head(y[:, self.label :]), auxiliary + more


class Embedding(nn.Module):
    """Values (B, N, C) and time features (B, N, F) to (B, N, D), positions added."""

    def __init__(self, channels: int, time_features: int, dim: int, length: int, positions: InputPositions) -> None:
        super().__init__()
        self.value = nn.Conv1d(channels, dim, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.normal_(self.value.weight, std=(3 * channels) ** -0.5)
        self.time = nn.Linear(time_features, dim)
        self.positions = Positions(positions, length, dim)

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        return self.positions(self.value(values.transpose(1, 2)).transpose(1, 2) + self.time(time))


class Distil(nn.Module):
    """(B, N, D) to (B, ceil(N / 2), D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, padding_mode="circular")
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = F.elu(self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))
        return F.max_pool1d(y.transpose(1, 2), 3, stride=2, padding=1).transpose(1, 2)


def distilled(length: int, times: int) -> int:
    """The length after `times` distilling layers."""
    return -(-length // 2**times)


class Encoder(nn.Module):
    def __init__(self, slots: Slots, shape: Shape) -> None:
        super().__init__()
        layers = []
        for index in range(shape.depth):
            own = replace(shape, length=distilled(shape.length, index), memory=0)
            attention = slots.layer("encoder.self", Pattern.NONCAUSAL_SELF, own, index, shape.depth)
            layers.append(ResidualLayer(attention.shape, attention, None, MLP))
        self.layers: Sequence[ResidualLayer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.distil = nn.ModuleList([*(Distil(shape.dim) for _ in layers[1:]), nn.Identity()])
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        auxiliary = no_loss(x)
        for layer, distil in zip(self.layers, self.distil, strict=True):
            x, more = layer(x, None, None, None)
            x, auxiliary = distil(x), auxiliary + more
        return self.norm(x), auxiliary


class Decoder(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, memory: int) -> None:
        super().__init__()
        layers = []
        for index in range(shape.depth):
            own = slots.layer("decoder.self", Pattern.CAUSAL_SELF, shape, index, shape.depth)
            wide = replace(shape, memory=memory)
            cross = slots.layer("decoder.cross", Pattern.NONCAUSAL_CROSS, wide, index, shape.depth)
            layers.append(ResidualLayer(cross.shape, own, cross, MLP))
        self.layers: Sequence[ResidualLayer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        auxiliary = no_loss(x)
        for layer in self.layers:
            x, more = layer(x, memory, None, None)
            auxiliary = auxiliary + more
        return self.norm(x), auxiliary
