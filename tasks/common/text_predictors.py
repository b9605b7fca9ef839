"""Predictors of running text without a network: n-grams in windows, a token from its neighbours, and xz.

They are trained on the train tokens, or the first 2^24 of them, and see of a window what a model sees. xz is given the
train text, or its last 16 MiB, in front of the test text; it goes on learning from the test text as it codes it.
"""

import lzma
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tasks.data.count_model import UNKNOWN, probabilities

COUNTED_TOKENS = 2**24
XZ_BYTES = 2**24


def counted(stream: np.ndarray) -> tuple[np.ndarray, str]:
    """The beginning of a train stream that is counted, and words that say so if it is not all."""
    whole = len(stream) <= COUNTED_TOKENS
    return stream[:COUNTED_TOKENS], "" if whole else f" of the first {COUNTED_TOKENS:,} tokens"


def ngram_probabilities(train: np.ndarray, windows: np.ndarray, size: int, order: int) -> list[np.ndarray]:
    """Of all tokens but the first in windows (B, N + 1), given up to `order` - 1 before it in its window: a (B, N) for
    each order from 1."""
    before = [-distance for distance in range(1, order)]
    places = np.broadcast_to(np.arange(1, windows.shape[1]), (len(windows), windows.shape[1] - 1))
    found = neighbour_probabilities(train, windows, places, windows[:, 1:], size, before)
    return [each.reshape(places.shape) for each in found]


def neighbour_probabilities(
    train: np.ndarray, windows: np.ndarray, places: np.ndarray, wanted: np.ndarray, size: int, offsets: Sequence[int]
) -> list[np.ndarray]:
    """Of the tokens `wanted` (B, K) at `places` (B, K) of windows (B, N), given the tokens at these offsets from there,
    the nearest first: a (B, K) for each number of offsets from 0. Ids from `size` on, the mask token, say nothing."""
    reach = max((abs(offset) for offset in offsets), default=0)
    last = len(train) - reach
    padded = np.pad(np.where(windows < size, windows, UNKNOWN), ((0, 0), (reach, reach)), constant_values=UNKNOWN)
    given = [np.take_along_axis(padded, places + reach + offset, 1).ravel() for offset in offsets]
    contexts = [train[reach + offset : last + offset] for offset in offsets]
    found = probabilities(train[reach:last], contexts, wanted.ravel(), given, size)
    return [each.reshape(places.shape) for each in found]


def xz_bits(train: bytes, test: bytes) -> int:
    """Bits that the test text adds to the compressed train text."""
    with ThreadPoolExecutor(2) as pool:
        whole, alone = pool.map(_compressed, (train + test, train))
    return 8 * (len(whole) - len(alone))


def _compressed(text: bytes) -> bytes:
    preset = 9 | lzma.PRESET_EXTREME
    size = max(2**16, 1 << (len(text) - 1).bit_length())  # the dictionary holds all of the text
    return lzma.compress(text, filters=[{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": size}])
