"""The pitch of a voice in every frame, by autocorrelation.

    r(lag) = sum_t x_t x_{t + lag} w_t w_{t + lag} / (same for the window alone), divided by r(0)

over windows of 1,024 samples around the frames of the spectrogram (Boersma 1993). A frame is voiced where r has a peak
above 0.5 between 65 and 500 Hz and the frame is not 40 dB below the loudest one. Of the peaks within 10% of the
highest the shortest lag counts, which avoids octaves too low; a parabola through it and its neighbours refines it.
"""

import numpy as np

from tasks.data.mel import HOP, RATE, WINDOW

LOWEST, HIGHEST = 65.0, 500.0
"""Hz."""
VOICED, NEAR, SILENT = 0.5, 0.9, 1e-4
"""Least peak, share of the highest peak, share of the highest power."""


def pitch(wave: np.ndarray) -> np.ndarray:
    """wave (T,) to (T // 256 + 1,) Hz, 0 where there is no voice."""
    padded = np.pad(wave.astype(np.float32), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    shortest, longest = int(RATE / HIGHEST), int(np.ceil(RATE / LOWEST))
    lags = np.arange(shortest, longest + 1)
    own, raw = _autocorrelation(window), _autocorrelation((frames - frames.mean(1, keepdims=True)) * window)
    power = raw[:, :1]
    r = raw[:, : longest + 2] / np.maximum(power, 1e-12) / (own / own[0])[: longest + 2]
    centre, left, right = r[:, lags], r[:, lags - 1], r[:, lags + 1]
    peaks = np.where((centre >= left) & (centre > right), centre, -1.0)
    highest = peaks.max(1, keepdims=True)
    chosen = (peaks >= NEAR * highest).argmax(1)[:, None]
    before, at, after = (np.take_along_axis(each, chosen, 1)[:, 0] for each in (left, centre, right))
    bend = before - 2 * at + after
    shift = np.where(bend < 0, (before - after) / np.where(bend < 0, 2 * bend, 1), 0)
    voiced = (highest[:, 0] > VOICED) & (power[:, 0] > SILENT * power.max())
    return np.where(voiced, RATE / (lags[chosen[:, 0]] + shift), 0)


def filled(pitch: np.ndarray) -> np.ndarray:
    """log of the pitch, in a straight line through frames without voice; nan where there is no voice at all."""
    voiced = np.flatnonzero(pitch > 0)
    if not len(voiced):
        return np.full(len(pitch), np.nan)
    return np.interp(np.arange(len(pitch)), voiced, np.log(pitch[voiced]))


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """(..., 1024) to (..., 2048)."""
    spectrum = np.fft.rfft(frames, 2 * WINDOW)
    return np.fft.irfft(spectrum.real**2 + spectrum.imag**2)
