"""The table of letters: means and durations by hand, parts of letters, what train does not have."""

import numpy as np
import pytest

from tasks.data.letter_spectrograms import letter_spectrograms
from tasks.data.mel import BANDS
from tasks.data.speech import Clip
from tasks.data.symbols import symbols


def clip(text: str, durations: list[int], values: list[float]) -> Clip:
    """A clip whose frames have one value in all bands."""
    mel = np.tile(np.array(values, np.float32)[:, None], BANDS)
    track = np.zeros(len(mel), np.float32)
    return Clip("x", symbols(text), mel, np.array(durations), track, track, text)


TRAIN = [clip("ab", [1, 2, 3, 1], [0, 10, 12, 3, 6, 9, 0]), clip("a", [2, 4, 2], [2, 2, 20, 20, 30, 30, 4, 4])]


def predicted(text: str, places: int) -> list[float]:
    mel = letter_spectrograms(TRAIN, places).predict(symbols(text))
    assert mel.shape[1] == BANDS
    assert (mel == mel[:, :1]).all()
    assert mel.dtype == np.float32
    return mel[:, 0].tolist()


def test_one_place_is_the_mean_frame_for_the_mean_duration() -> None:
    # edges: 0, 0, 2, 2, 4, 4 in four symbols; a: 10, 12, 20, 20, 30, 30 in two; b: 3, 6, 9 in one
    edge, a, b = 2.0, 122 / 6, 6.0
    # ends at 1.5, 4.5, 7.5, 9, rounded to even
    np.testing.assert_allclose(predicted("ab", 1), [edge] * 2 + [a] * 2 + [b] * 4 + [edge], rtol=1e-6)


def test_parts_of_a_letter_are_told_apart() -> None:
    # halves of a: 10, 20, 20 and 12, 30, 30; of b: the middle frame belongs to the second half
    (first, second), (low, high) = (50 / 3, 24), (3, 7.5)
    half = predicted("ab", 2)
    np.testing.assert_allclose(half[2:4], [first, second], rtol=1e-6)
    np.testing.assert_allclose(half[4:8], [low, low, high, high], rtol=1e-6)


def test_what_train_does_not_have() -> None:
    every = 152 / 15  # the mean frame, for 15 / 7 frames
    np.testing.assert_allclose(predicted("z", 3)[2:4], [every] * 2, rtol=1e-5)
    table = letter_spectrograms([TRAIN[0]], 6)  # b has frames in parts 1, 3, 5 of 6 only
    np.testing.assert_allclose(table.frames[symbols("b")[1], :, 0], [6, 3, 6, 6, 6, 9], rtol=1e-6)


def test_symbols_without_frames() -> None:
    table = letter_spectrograms([clip("ab", [0, 0, 2, 0], [1.0, 1.0])], 4)
    assert len(table.predict(symbols(""))) == 1
    assert len(table.predict(symbols("b"))) == 2
    assert table.durations[symbols("ab")].tolist() == pytest.approx([0, 0, 2, 0])
