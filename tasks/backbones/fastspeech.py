"""FastSpeech 2: text to a log-mel spectrogram in one forward pass, with predicted durations.

Ren et al., ICLR 2021, arXiv 2006.04558, in the form of fairseq's fastspeech2, which CAB used. For symbols s_1 .. s_S,

    h        = encoder(embedding(s) + PE)
    duration = predictor(h), of log(1 + frames);  pitch, energy = predictor(h), predictor(h + pitch)
    x        = h + embedding(bin(pitch)) + embedding(bin(energy)), each x_i repeated for its frames
    y        = linear(decoder(x + PE))

In training x uses durations, pitch and energy of the recording, and they are predicted as well; in generation x uses
the predicted ones. Encoder and decoder are stacks of FFT blocks: attention, and a feed-forward of two convolutions of
width 9. Pitch and energy are standardised, one number per symbol, in 256 bins.

Slots, both noncausal: encoder.self, of design length `shape.memory` (symbols), and decoder.self, of design length
`shape.length` (frames), each with `shape.depth` layers. A family that is a whole stack gets the convolutional
feed-forward as well, inside its groups or blocks.

Not as published: pre-norm as everywhere; no dropout; positions are not scaled; no postnet (fairseq's is an option that
is off). fairseq predicts energy from h + pitch, the paper from h; here it is fairseq's. The bins of pitch and energy go
from -4 to 4 standard deviations in place of the smallest to the largest value.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, zero_padding
from attentions.residual import FeedForward
from attentions.slots import Slots
from tasks.backbones.positions import InputPositions, Positions

KERNEL, PREDICTOR_KERNEL = 9, 3
BINS, WIDEST = 256, 4.0


class Spectrogram(NamedTuple):
    """The network's predictions for a batch of texts."""

    frames: Tensor
    """(B, F, bands)"""
    valid: Tensor
    """(B, F)"""
    log_durations: Tensor
    """(B, S), of 1 + frames."""
    pitch: Tensor
    energy: Tensor
    """(B, S) each."""
    auxiliary: Tensor


class FastSpeech2(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, symbols: int, bands: int, positions: InputPositions) -> None:
        super().__init__()
        dim, self.longest = shape.dim, shape.length
        self.embedding = nn.Embedding(symbols, dim)
        self.text_positions = Positions(positions, shape.memory, dim)
        self.frame_positions = Positions(positions, shape.length, dim)
        text, speech = replace(shape, length=shape.memory, memory=0), replace(shape, memory=0)
        self.encoder = slots.stack("encoder", text, Pattern.NONCAUSAL_SELF, feedforward=ConvolutionalFeedForward)
        self.duration, self.pitch, self.energy = (Predictor(dim) for _ in range(3))
        self.pitch_bins, self.energy_bins = Binned(dim), Binned(dim)
        self.decoder = slots.stack("decoder", speech, Pattern.NONCAUSAL_SELF, feedforward=ConvolutionalFeedForward)
        self.head = nn.Linear(dim, bands)

    def forward(
        self,
        symbols: Tensor,
        symbols_valid: Tensor,
        durations: Tensor | None = None,
        pitch: Tensor | None = None,
        energy: Tensor | None = None,
    ) -> Spectrogram:
        """symbols (B, S); durations, pitch and energy (B, S), None = use the predicted ones."""
        x = self.text_positions(self.embedding(symbols))
        h, auxiliary = self.encoder(x, None, symbols_valid)  # (B, S, D)
        log_durations = self.duration(h, symbols_valid)
        predicted_pitch = self.pitch(h, symbols_valid)
        h = h + self.pitch_bins(predicted_pitch if pitch is None else pitch)
        predicted_energy = self.energy(h, symbols_valid)
        h = h + self.energy_bins(predicted_energy if energy is None else energy)
        if durations is None:
            durations = integer_frames(log_durations, symbols_valid, self.longest)
        x, valid = repeat_frames(h, durations, self.longest)
        y, more = self.decoder(self.frame_positions(x), None, valid)  # (B, F, D)
        frames = zero_padding(self.head(y), valid)
        return Spectrogram(frames, valid, log_durations, predicted_pitch, predicted_energy, auxiliary + more)


class ConvolutionalFeedForward(FeedForward):
    """Convolution, ReLU, convolution over the sequence, with padding set to 0."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.rise = nn.Conv1d(dim, hidden, KERNEL, padding=KERNEL // 2)
        self.fall = nn.Conv1d(hidden, dim, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        y = self.rise(zero_padding(x, valid).mT).relu().mT
        return self.fall(zero_padding(y, valid).mT).mT


class Predictor(nn.Module):
    """One number per symbol: two convolutions, each with ReLU and norm, then a linear map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, PREDICTOR_KERNEL, padding=PREDICTOR_KERNEL // 2) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.head = nn.Linear(dim, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, S, D) to (B, S)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(zero_padding(x, valid).mT).relu().mT)
        return self.head(x).squeeze(-1)


class Binned(nn.Module):
    """A standardised number as the embedding of its bin."""

    edges: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-WIDEST, WIDEST, BINS - 1), persistent=False)
        self.embedding = nn.Embedding(BINS, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """(B, S) to (B, S, D)."""
        return self.embedding(torch.bucketize(values.float(), self.edges))


def integer_frames(log_durations: Tensor, valid: Tensor, longest: int) -> Tensor:
    """log(1 + frames) (B, S) to integer numbers of frames, 0 at padding."""
    frames = log_durations.float().exp().clamp(max=longest + 1) - 1
    return frames.round().clamp(min=0).long().masked_fill(~valid, 0)


def repeat_frames(x: Tensor, durations: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The length regulator: repeats x (B, S, D) by the durations, to (B, F, D), 0 at padding, and its mask (B, F).

    Every row has at least one frame and at most `longest`.
    """
    ends = durations.cumsum(1).clamp(max=longest)  # (B, S)
    ends = torch.cat([ends[:, :-1], ends[:, -1:].clamp(min=1)], 1)
    frames = torch.arange(int(ends[:, -1].max()), device=x.device).expand(len(x), -1).contiguous()
    valid = frames < ends[:, -1:]
    owner = torch.searchsorted(ends, frames, right=True).clamp(max=x.shape[1] - 1)  # (B, F)
    spread = x.gather(1, owner.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    return zero_padding(spread, valid), valid
