"""Log-mel spectrograms: settings as stated, tones where they belong, and back to sound."""

import math

import numpy as np
import pytest
import torch

from tasks.data.mel import BANDS, FLOOR, HOP, RATE, WINDOW, filters, griffin_lim, inverse_stft, log_mel, stft


def tone(hertz: float, seconds: float = 0.5) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * RATE)) / RATE)


def centre(band: int) -> float:
    """Hz, Slaney's scale written out for its own: 3 mel per 200 Hz up to 1,000 Hz, then 27 mel per factor 6.4."""
    low, high = 3 * 20 / 200, 15 + 27 * math.log(8) / math.log(6.4)
    mel = low + (high - low) * (band + 1) / 81
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


@pytest.mark.parametrize("samples", [513, 5120, 5375, 5376])
def test_frames(samples: int) -> None:
    assert log_mel(torch.randn(samples)).shape == (samples // HOP + 1, BANDS)


def test_the_spectrogram_by_hand() -> None:
    """One frame, written out: a Hann window around its centre, a Fourier sum, triangles of area 1, a logarithm."""
    wave = np.random.default_rng(0).normal(size=4000)
    frame = 7
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    piece = wave[frame * HOP - WINDOW // 2 :][:WINDOW] * window
    hertz = np.arange(513) * RATE / WINDOW
    magnitude = np.array(
        [abs((piece * np.exp(-2j * np.pi * np.arange(WINDOW) * k / WINDOW)).sum()) for k in range(513)]
    )
    found = log_mel(torch.from_numpy(wave).float())[frame].numpy()
    for band in (0, 20, 40, 79):
        low, high = (20.0 if band == 0 else centre(band - 1)), centre(band + 1)
        rise, fall = (hertz - low) / (centre(band) - low), (high - hertz) / (high - centre(band))
        weights = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
        assert found[band] == pytest.approx(math.log(max(FLOOR, weights @ magnitude)), abs=1e-3)


def test_filters() -> None:
    weights = filters().numpy()
    assert weights.shape == (513, BANDS)
    assert (weights >= 0).all()
    hertz = np.arange(513) * RATE / WINDOW
    assert not weights[(hertz < 20) | (hertz > 8000)].any()
    wide = weights[:, 40:]  # narrow ones have too few frequencies for a sum to be their area
    np.testing.assert_allclose(wide.sum(0) * RATE / WINDOW, 1, atol=0.05)


@pytest.mark.parametrize("band", [5, 30, 60, 75])
def test_a_tone_is_loudest_in_its_band(band: int) -> None:
    assert (log_mel(tone(centre(band)))[5:-5].argmax(1) == band).all()


def test_loudness_is_a_shift_and_silence_the_floor() -> None:
    wave = torch.randn(6000)
    torch.testing.assert_close(log_mel(10 * wave) - log_mel(wave), torch.full((24, BANDS), math.log(10)))
    assert (log_mel(torch.zeros(6000)) == math.log(FLOOR)).all()


def test_the_transform_comes_back() -> None:
    wave = torch.randn(HOP * 20)
    torch.testing.assert_close(inverse_stft(stft(wave)), wave, atol=1e-4, rtol=1e-4)


def test_griffin_lim_sounds_like_it() -> None:
    """A few tones that change: their spectrogram comes back, closer with more rounds, the same on every call."""
    wave = torch.cat([tone(220) + 0.3 * tone(1500), tone(330) + 0.3 * tone(2500)])
    target = log_mel(wave)
    errors = []
    for iterations in (0, 32):
        made = griffin_lim(target, iterations)
        assert made.shape == (HOP * (len(target) - 1),)
        errors.append((log_mel(made).exp() - target.exp()).norm() / target.exp().norm())
    assert errors[1] < 0.25
    assert errors[1] < 0.5 * errors[0]
    torch.testing.assert_close(griffin_lim(target, 2), griffin_lim(target, 2), atol=0, rtol=0)


def test_too_short() -> None:
    with pytest.raises(ValueError, match="512 samples: at least 513 are needed"):
        log_mel(torch.zeros(512))
    with pytest.raises(ValueError, match="3 frames: at least 4 are needed"):
        griffin_lim(torch.zeros(3, BANDS))
