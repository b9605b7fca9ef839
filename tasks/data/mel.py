"""Log-mel spectrograms with the settings of CAB's speech, which are fairseq's, and sound from them by Griffin-Lim.

    X = STFT(wave), Hann window, frames centred (reflected at both ends);  S = log(max(M |X|, 1e-5))

22,050 Hz, windows and FFT of 1,024 samples, a frame every 256 (11.6 ms), 80 bands from 20 to 8,000 Hz, magnitudes (not
power), natural logarithm. M are triangles on Slaney's mel scale, each of area 1 in Hz. A wave of T samples has
T // 256 + 1 frames.

The inverse: |X| by the pseudo-inverse of M, clipped at 0; phases by Griffin and Lim (1984), which converts to a wave
and back repeatedly, from random phases that are the same on every call.
"""

import math
from functools import cache

import torch
from torch import Tensor

RATE = 22_050
"""Samples per second."""
WINDOW = 1024
"""Samples in a window and in its FFT."""
HOP = 256
BANDS = 80
LOWEST, HIGHEST = 20.0, 8_000.0
"""Edges of the bands in Hz."""
FLOOR = 1e-5
"""Magnitudes below it count as this."""
LEAST_SAMPLES = WINDOW // 2 + 1
"""A shorter wave cannot be reflected at its ends."""
PHASE_SEED = 0


def log_mel(wave: Tensor) -> Tensor:
    """wave (T,), -1 to 1, to (frames, 80)."""
    return log_mel_of(magnitudes(wave))


def log_mel_of(magnitudes: Tensor) -> Tensor:
    """(frames, 513) to (frames, 80)."""
    return (magnitudes @ filters()).clamp(min=FLOOR).log()


def magnitudes(wave: Tensor) -> Tensor:
    """(T,) to (frames, 513)."""
    return stft(wave).abs()


def stft(wave: Tensor) -> Tensor:
    """(T,) to (frames, 513), complex."""
    if len(wave) < LEAST_SAMPLES:
        raise ValueError(f"{len(wave)} samples: at least {LEAST_SAMPLES} are needed for a spectrogram")
    return torch.stft(wave, WINDOW, HOP, window=_hann(), pad_mode="reflect", return_complex=True).mT


def inverse_stft(spectrum: Tensor) -> Tensor:
    """(frames, 513), complex, to (T,), T = 256 (frames - 1)."""
    return torch.istft(spectrum.mT, WINDOW, HOP, window=_hann())


def griffin_lim(log_mel: Tensor, iterations: int = 32) -> Tensor:
    """(frames, 80), as `log_mel` gives it, to a wave (T,)."""
    if len(log_mel) < 4:
        raise ValueError(f"{len(log_mel)} frames: at least 4 are needed for a sound")
    target = (log_mel.detach().float().cpu().exp() @ torch.linalg.pinv(filters())).clamp(min=0)
    generator = torch.Generator().manual_seed(PHASE_SEED)
    phases = 2 * math.pi * torch.rand(target.shape, generator=generator)
    wave = inverse_stft(torch.polar(target, phases))
    for _ in range(iterations):
        wave = inverse_stft(torch.polar(target, stft(wave).angle()))
    return wave


@cache
def filters() -> Tensor:
    """(513, 80): the weights of frequencies in bands."""
    edges = _hertz(torch.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64).unsqueeze(1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()


def _mel(hertz: float) -> float:
    """Slaney's scale: even up to 1,000 Hz, 15 mel there, and logarithmic above, 27 mel for a factor of 6.4."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


@cache
def _hann() -> Tensor:
    return torch.hann_window(WINDOW)
