"""Count models against plain Python and by their sums; what they see of a window; xz; scores are computed once."""

import lzma
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from tasks.base import Predictor
from tasks.common import text_predictors
from tasks.common.stored_predictors import stored_predictors
from tasks.common.text_predictors import counted, neighbour_probabilities, ngram_probabilities, xz_bits
from tasks.data import count_model

SIZE = 6
TRAIN = np.random.default_rng(0).choice(SIZE, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05, 0.0]).astype(np.uint16)
TRAIN[200:] = np.sort(TRAIN[200:].reshape(-1, 4), 1).ravel()  # some order to learn


class KneserNey:
    """Interpolated modified Kneser-Ney in dictionaries, of tokens from their neighbours at `offsets`."""

    def __init__(self, train: list[int], size: int, offsets: list[int]) -> None:
        self.size, reach = size, max(map(abs, offsets), default=0)
        places = range(reach, len(train) - reach)
        self.events = [(train[i], *(train[i + o] for o in offsets)) for i in places]  # the token, then the nearest

    def __call__(self, token: int, context: tuple[int, ...]) -> float:
        return self.probability(token, context, len(context))

    def probability(self, token: int, context: tuple[int, ...], longest: int) -> float:
        k = len(context)
        if k == longest:
            counts = Counter(event[: k + 1] for event in self.events)
        else:
            beyond = defaultdict(set)
            for event in self.events:
                beyond[event[: k + 1]].add(event[k + 1])
            counts = Counter({gram: len(tokens) for gram, tokens in beyond.items()})
        lower = self.probability(token, context[:-1], longest) if context else 1 / self.size
        same = {gram: count for gram, count in counts.items() if gram[1:] == context}
        if not same:
            return lower
        n = {r: max(1, sum(count == r for count in counts.values())) for r in (1, 2, 3, 4)}
        y = n[1] / (n[1] + 2 * n[2])
        discount = {r: r - (r + 1) * y * n[r + 1] / n[r] for r in (1, 2, 3)}
        discount = {r: min(max(0.1, d), r) for r, d in discount.items()}
        taken = sum(discount[min(count, 3)] for count in same.values())
        own = counts[(token, *context)]
        kept = own - discount[min(own, 3)] if own else 0
        return (kept + taken * lower) / sum(same.values())


@pytest.mark.parametrize("tabulated", [0, count_model.MOST_TABULATED])
def test_ngrams_are_kneser_ney(tabulated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With shorter contexts at the beginning of a window, contexts that never occur and a token that never does."""
    monkeypatch.setattr(count_model, "MOST_TABULATED", tabulated)
    windows = np.random.default_rng(1).integers(SIZE, size=(5, 9))
    for order, found in enumerate(ngram_probabilities(TRAIN, windows, SIZE, 4), start=1):
        # All orders leave out the 3 tokens at either end that have not all of their neighbours.
        slow = KneserNey(TRAIN.tolist(), SIZE, [-1, -2, -3])
        for window, row in zip(windows.tolist(), found, strict=True):
            for place in range(1, len(window)):
                context = tuple(window[max(0, place - order + 1) : place][::-1])
                assert row[place - 1] == pytest.approx(slow(window[place], context), rel=1e-9)


def test_neighbours_on_both_sides() -> None:
    """Hidden neighbours, and those outside of the window, end the context."""
    windows = np.random.default_rng(1).integers(SIZE, size=(4, 8))
    windows[0, 3] = windows[1, 5] = SIZE  # the mask token
    places, offsets = np.array([[0, 2, 6]] * 4), [1, -1, 2]
    wanted = np.random.default_rng(2).integers(SIZE, size=places.shape)
    found = neighbour_probabilities(TRAIN, windows, places, wanted, SIZE, offsets)[-1]
    slow = KneserNey(TRAIN.tolist(), SIZE, offsets)
    for row, window in enumerate(windows.tolist()):
        for column, place in enumerate(places[row]):
            context: tuple[int, ...] = ()
            for offset in offsets:
                inside = 0 <= place + offset < len(window)
                if not inside or window[place + offset] == SIZE:
                    break
                context += (window[place + offset],)
            assert found[row, column] == pytest.approx(slow(int(wanted[row, column]), context), rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one(order: int) -> None:
    beginning = np.random.default_rng(3).integers(SIZE, size=(20, 4))
    total = 0
    for token in range(SIZE):
        windows = np.concatenate([beginning, np.full((20, 1), token)], 1)
        total += ngram_probabilities(TRAIN, windows, SIZE, order)[-1][:, -1]
    assert total == pytest.approx(np.ones(20))


def test_only_the_window_is_seen() -> None:
    windows = np.random.default_rng(4).integers(SIZE, size=(3, 10))
    changed = windows.copy()
    changed[:, 6] = (windows[:, 6] + 1) % SIZE
    before, after = (ngram_probabilities(TRAIN, each, SIZE, 3)[-1] for each in (windows, changed))
    assert (before[:, :5] == after[:, :5]).all()
    assert (before[:, 8:] == after[:, 8:]).all()
    alone = ngram_probabilities(TRAIN, windows[1:2], SIZE, 3)[-1]
    assert (alone == before[1:2]).all()


def test_large_vocabularies_fit() -> None:
    train = np.tile(np.arange(50_000, dtype=np.uint32).repeat(2), 5)
    windows = np.array([[7, 7, 8, 8, 9, 9, 10]])
    found = ngram_probabilities(train, windows, 50_000, 5)[-1]
    assert (found[0, 3:] > 0.5).all()


def test_xz_is_what_the_test_text_adds() -> None:
    rng = np.random.default_rng(0)
    train, other = rng.bytes(100_000), rng.bytes(1000)
    assert xz_bits(train, train[:50_000]) < 8 * 1000  # all of it found 100,000 bytes back, 273 bytes at a time
    assert xz_bits(train, other) == pytest.approx(8000, rel=0.05)
    text = b"so many words, so little time; " * 3
    plain = [len(lzma.compress(each, preset=9 | lzma.PRESET_EXTREME)) for each in (text, text + other)]
    assert xz_bits(text, other) == pytest.approx(8 * (plain[1] - plain[0]), abs=64)  # files end in blocks of 4 bytes


def test_a_long_text_is_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(TRAIN)[1] == ""
    monkeypatch.setattr(text_predictors, "COUNTED_TOKENS", 300)
    kept, words = counted(TRAIN)
    assert (kept == TRAIN[:300]).all()
    assert words == " of the first 300 tokens"


def test_scores_are_computed_once_for_the_same_data(tmp_path: Path) -> None:
    computed = []

    def score() -> list[Predictor]:
        computed.append(1)
        return [Predictor("one", {"loss": math.pi})]

    data = [np.arange(6), np.arange(3)]
    for _ in range(2):
        assert stored_predictors(tmp_path, "lm", data, score) == [Predictor("one", {"loss": math.pi})]
    assert len(computed) == 1
    for name, other in (("mlm", data), ("lm", data[:1]), ("lm", [data[0].reshape(2, 3), data[1]])):
        stored_predictors(tmp_path, name, other, score)
    assert len(computed) == 4
