"""Transformer-TTS: text to mel frames, several frames a step, each step given the frames before it.

Li et al., AAAI 2019, arXiv 1809.08895, in the form of fairseq's tts_transformer, which CAB used. With the packed frames
of step t, y_t (frames x bins), y_0 = 0:

    encoder   three times Norm(Conv5), ReLU; a linear map; + alpha PE;  a stack
    decoder   twice Dropout(ReLU(Linear(y_<t))); a linear map; + alpha' PE;  a stack with the encoder's memory
    out       before = linear(h_t);  stop = linear(h_t);  after = before + postnet(before)

The postnet is five convolutions of width 5 over steps, tanh between them; it sees both sides, so only `before` is
causal and only `before` is fed back. alpha and alpha' are learned scales of the positions (section 3.3).

The prenet's dropout stays on when speech is generated, as published: a model that always sees the last frame copies it
and does not learn to use the text. The dropout mask is an input (`kept`), so that it is a pure function of the example.

Slots: encoder.self, noncausal; decoder.self, causal, and decoder.cross, causal, in one stack. The design length of the
encoder is `shape.memory` (symbols), that of the decoder `shape.length` (steps).

Not as published: pre-norm stacks with GELU as everywhere; LayerNorm instead of BatchNorm in convolutions, none after
the postnet's last one, so that the rows of a batch stay independent; no dropout but the prenet's.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, State, mark_position, zero_padding
from attentions.slots import Slots
from tasks.backbones.positions import InputPositions, Positions

PRENET_LAYERS = 2
ENCODER_CONVOLUTIONS, POSTNET_CONVOLUTIONS = 3, 5
KERNEL = 5


class TransformerTTS(nn.Module):
    """`features` is the number of values of a step, frames x bins; `dropout` the share of zeros in `kept`."""

    def __init__(
        self,
        slots: Slots,
        shape: Shape,
        symbols: int,
        features: int,
        prenet: int,
        postnet: int,
        dropout: float,
        positions: InputPositions,
    ) -> None:
        super().__init__()
        dim = shape.dim
        self.embedding = nn.Embedding(symbols, dim)
        self.text = nn.ModuleList(Convolution(dim, dim, nn.ReLU()) for _ in range(ENCODER_CONVOLUTIONS))
        self.text_out = nn.Linear(dim, dim)
        self.text_positions = ScaledPositions(positions, shape.memory, dim)
        source = replace(shape, length=shape.memory, memory=0)
        self.encoder = slots.stack("encoder", source, Pattern.NONCAUSAL_SELF)

        self.prenet = Prenet(features, prenet, dropout)
        self.prenet_out = nn.Linear(prenet, dim)
        self.step_positions = ScaledPositions(positions, shape.length, dim)
        self.decoder = slots.stack("decoder", shape, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)
        self.frames = nn.Linear(dim, features)
        self.stop = nn.Linear(dim, 1)
        self.postnet = Postnet(features, postnet)

    def forward(
        self, symbols: Tensor, symbols_valid: Tensor, previous: Tensor, kept: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """symbols (B, M), the frames before each step (B, S, F), the prenet's dropout mask (B, S, 2, P), valid (B, S).

        Returns the frames before and after the postnet (B, S, F), the logits of stopping (B, S), the auxiliary loss.
        """
        memory, auxiliary = self._read(symbols, symbols_valid)
        h, more = self.decoder(self._embed(previous, kept, 0), memory, valid, symbols_valid)
        before, stop = self._write(h)
        return before, self.refine(before, valid), stop, auxiliary + more

    def prefill(
        self, symbols: Tensor, symbols_valid: Tensor, previous: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, State]:
        """`before` and `stop` of `forward` on prompts without padding, and the decoding state."""
        memory, _ = self._read(symbols, symbols_valid)
        h, state = self.decoder.prefill(self._embed(previous, kept, 0), memory, symbols_valid)
        return *self._write(h), (state, previous.shape[1])

    def step(self, previous: Tensor, kept: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """`before` (B, 1, F) and `stop` (B, 1) of one further step."""
        inner, position = state
        h, inner = self.decoder.step(self._embed(previous, kept, position), inner)
        return *self._write(h), (inner, position + 1)

    def refine(self, before: Tensor, valid: Tensor) -> Tensor:
        """(B, S, F): `before` plus the output of the postnet."""
        return before + self.postnet(before, valid)

    def _read(self, symbols: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding(symbols)
        for convolution in self.text:
            x = convolution(x, valid)
        return self.encoder(self.text_positions(self.text_out(x), 0), None, valid)

    def _embed(self, previous: Tensor, kept: Tensor, start: int) -> Tensor:
        return self.step_positions(self.prenet_out(self.prenet(previous, kept)), start)  # (B, S, D)

    def _write(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.frames(h), self.stop(h).squeeze(-1)


class ScaledPositions(nn.Module):
    """Adds positions times a learned number to x (B, N, D): text and speech differ in scale."""

    def __init__(self, kind: InputPositions, length: int, dim: int) -> None:
        super().__init__()
        self.positions = Positions(kind, length, dim)
        self.scale = mark_position(nn.Parameter(torch.ones(1)))

    def forward(self, x: Tensor, start: int) -> Tensor:
        return x + self.scale * self.positions(torch.zeros_like(x[:1]), start)


class Convolution(nn.Module):
    """Convolution of x (B, N, D) with padding set to 0, norm, activation."""

    def __init__(self, dim: int, out: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, out, KERNEL, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(out)
        self.activation = activation

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        y = self.conv(zero_padding(x, valid).transpose(1, 2)).transpose(1, 2)
        return self.activation(self.norm(y))


class Prenet(nn.Module):
    """Twice linear, ReLU, dropout; kept (B, S, 2, P) is the dropout mask of each layer."""

    def __init__(self, features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(nn.Linear(features if i == 0 else width, width) for i in range(PRENET_LAYERS))

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        for layer, keep in zip(self.layers, kept.unbind(2), strict=True):
            x = layer(x).relu() * keep / (1 - self.dropout)
        return x


class Postnet(nn.Module):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        inner = POSTNET_CONVOLUTIONS - 1
        self.layers = nn.ModuleList(Convolution(width if i else features, width, nn.Tanh()) for i in range(inner))
        self.out = nn.Conv1d(width, features, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, valid)
        return zero_padding(self.out(zero_padding(x, valid).transpose(1, 2)).transpose(1, 2), valid)


def generate(model: TransformerTTS, symbols: Tensor, symbols_valid: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Generates speech: frames after the postnet (B, S, F), 0 after a row's end, and the number of steps (B,).

    A row ends with the first step whose stop probability is above 1/2, at most after N steps for kept (B, N, 2, P).
    """
    rows, longest = kept.shape[:2]
    previous = model.frames.weight.new_zeros(rows, 1, model.frames.out_features)
    before, stop, state = model.prefill(symbols, symbols_valid, previous, kept[:, :1])
    steps, found = symbols.new_full((rows,), longest), [before]
    while True:
        steps = torch.where(stop[:, 0] > 0, steps.clamp(max=len(found)), steps)
        if (steps <= len(found)).all():
            break
        before, stop, state = model.step(before, kept[:, len(found) : len(found) + 1], state)
        found.append(before)
    valid = torch.arange(len(found), device=steps.device) < steps.unsqueeze(1)
    return zero_padding(model.refine(torch.cat(found, 1), valid), valid), steps
