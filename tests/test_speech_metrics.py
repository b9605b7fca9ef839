"""MCD and MSD: against every path there is, in dB, and blind to what they should be blind to."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from tasks.metrics.speech import mcd, msd, warped

DECIBEL = 20 / math.log(10)


def paths(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """All ways from (0, 0) to the last place."""
    if (rows, columns) == (1, 1):
        yield [(0, 0)]
        return
    for before in ((rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)):
        if min(before) > 0:
            yield from ([*path, (rows - 1, columns - 1)] for path in paths(*before))


def by_all_paths(distances: np.ndarray) -> float:
    return min(sum(distances[place] for place in path) for path in paths(*distances.shape)) / distances.shape[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 6), (6, 4), (5, 5)])
def test_warping_is_the_best_of_all_paths(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for _ in range(5):
        distances = rng.random(shape)
        assert warped(distances) == pytest.approx(by_all_paths(distances))


def test_measures_by_their_definitions() -> None:
    """Every distance, coefficient and path written out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 80)), rng.normal(size=(5, 80))
    cepstra = []
    for spectrogram in (x, y):
        c = np.zeros((len(spectrogram), 14))
        for t in range(len(spectrogram)):
            for m in range(14):
                waves = [spectrogram[t, k] * math.cos(math.pi * m * (k + 0.5) / 80) for k in range(80)]
                c[t, m] = 2 / 80 * sum(waves)
        cepstra.append(c[:, 1:])
    distances = np.zeros((4, 5)), np.zeros((4, 5))
    for t in range(4):
        for u in range(5):
            distances[0][t, u] = 10 / math.log(10) * math.sqrt(2 * ((cepstra[0][t] - cepstra[1][u]) ** 2).sum())
            distances[1][t, u] = 20 / math.log(10) * math.sqrt(((x[t] - y[u]) ** 2).mean())
    assert mcd(x, y) == pytest.approx(by_all_paths(distances[0]))
    assert msd(x, y) == pytest.approx(by_all_paths(distances[1]))


def test_by_hand() -> None:
    """One band: 0, 1, 3, 3 for 0, 2. The path is (0, 0), (1, 1), (2, 1), (3, 1), its distances 0, 1, 1, 1 for two
    frames of the reference."""
    said, wanted = np.array([[0.0], [1], [3], [3]]), np.array([[0.0], [2]])
    assert msd(said, wanted) == pytest.approx(DECIBEL * 3 / 2)
    assert msd(said[:3], wanted) == pytest.approx(DECIBEL * 2 / 2)
    assert msd(wanted, said) == pytest.approx(DECIBEL * 3 / 4)


@pytest.mark.parametrize("measure", [mcd, msd])
def test_repeated_frames_never_lower_a_score(measure) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        said, wanted = rng.normal(size=(2, 12, 80))
        said[0] = wanted[0]  # a frame that costs nothing: to repeat it must not pay either
        score = measure(said, wanted)
        for times in (rng.integers(1, 4, 12), [200] + [1] * 11, [1] * 11 + [200], [30] * 12):
            assert measure(np.repeat(said, times, axis=0), wanted) >= score - 1e-9


@pytest.mark.parametrize("measure", [mcd, msd])
def test_silence_after_speech_never_lowers_a_score(measure) -> None:
    """Where the recording ends in silence, speech that ends without may get that silence right, and no more."""
    rng = np.random.default_rng(0)
    silence = np.full((200, 80), -11.5)
    mean = np.tile(rng.normal(size=80), (40, 1))
    for _ in range(5):
        wanted = rng.normal(size=(30, 80)).cumsum(1)
        ended = np.concatenate([wanted, silence[:6]])
        assert measure(np.concatenate([mean, silence]), wanted) > measure(mean, wanted)
        said = np.concatenate([rng.normal(size=(30, 80)), silence[:6]])
        assert measure(np.concatenate([said, silence]), ended) >= measure(said, ended) - 1e-9
        own = 6 * measure(mean[:1], silence[:1]) / len(ended)
        assert measure(mean, ended) - measure(np.concatenate([mean, silence]), ended) <= own + 1e-9


def test_they_are_decibels() -> None:
    """Twice as loud in every band is 6 dB for MSD and nothing for MCD; a cosine of 1 neper in the bands is 8.7 dB times
    the root of a half for both."""
    x = np.random.default_rng(0).normal(size=(1, 80))
    assert msd(x, x + math.log(2)) == pytest.approx(20 * math.log10(2))
    assert mcd(x, x + math.log(2)) == pytest.approx(0, abs=1e-5)
    wave = np.cos(np.pi * 3 * (np.arange(80) + 0.5) / 80)
    assert msd(x, x + wave) == pytest.approx(DECIBEL * math.sqrt(0.5))
    assert mcd(x, x + wave) == pytest.approx(DECIBEL * math.sqrt(0.5))
    fine = np.cos(np.pi * 14 * (np.arange(80) + 0.5) / 80)
    assert mcd(x, x + fine) == pytest.approx(0, abs=1e-5)


def test_timing_does_not_matter_and_content_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 80))
    slow = np.repeat(x, rng.integers(1, 4, 30), axis=0)
    for measure in (mcd, msd):
        assert measure(x, x) == pytest.approx(0, abs=1e-4)
        assert measure(slow, x) == pytest.approx(0, abs=1e-4)
        assert measure(x[::-1], x) > 1
        assert measure(x, slow + 0.1 * rng.normal(size=slow.shape)) < measure(x, slow + rng.normal(size=slow.shape))


def test_envelopes_are_never_farther_than_spectra() -> None:
    """Frame by frame; the two have paths of their own, so that it is one frame here."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.normal(size=(1, 80)).cumsum(1), rng.normal(size=(1, 80)).cumsum(1)
        assert mcd(x, y) <= msd(x, y) + 1e-9


@pytest.mark.parametrize(
    ("one", "two"), [((0, 80), (4, 80)), ((4, 80), (0, 80)), ((80,), (4, 80)), ((4, 80), (80,)), ((4, 79), (4, 80))]
)
def test_impossible_spectrograms(one: tuple[int, ...], two: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="frames x bands are needed"):
        mcd(np.zeros(one), np.zeros(two))
