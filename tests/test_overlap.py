"""The share of test text that is in train, against a search for every run."""

from pathlib import Path

import numpy as np
import pytest

from tasks.base import Data
from tasks.data import overlap as module
from tasks.data.overlap import RUN, overlap, runs, share
from tasks.data.text import Corpus, corpus


def by_search(train: list[bytes], test: list[bytes]) -> float:
    """Every byte of test that a run of train covers, one run after the other."""
    covered = total = 0
    for document in test:
        hit = [False] * len(document)
        for start in range(len(document) - RUN + 1):
            if any(document[start : start + RUN] in other for other in train):
                hit[start : start + RUN] = [True] * RUN
        covered, total = covered + sum(hit), total + len(document)
    return covered / total


def texts(seed: int) -> tuple[list[bytes], list[bytes]]:
    """Test documents with pieces of train of many lengths, also where documents begin and end, and with a zero byte."""
    rng = np.random.default_rng(seed)
    train = [rng.integers(0, 256, size, np.uint8).tobytes() for size in (5000, 30, 700, 0, RUN)]
    train.append(b"ab" * 200)
    test = []
    for _ in range(6):
        parts = []
        for length in rng.permutation([0, 1, RUN - 1, RUN, RUN + 1, 2 * RUN, 300]):
            start = rng.integers(0, 4600)
            parts += [train[0][start : start + length], rng.integers(0, 256, rng.integers(40), np.uint8).tobytes()]
        test.append(b"".join(parts))
    return train, [*test, train[-2], b"", b"short", train[2][-RUN:] + train[0][:RUN], b"ab" * 50, bytes(100)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("piece", [2**18, 100])
def test_share_by_search(seed: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    train, test = texts(seed)
    found = share(train, test)
    assert found == by_search(train, test)
    assert 0.2 < found < 0.9


def test_numbers_are_the_polynomial() -> None:
    document = texts(0)[0][2]
    numbers = runs(document)
    for start in (0, 1, 200, len(document) - RUN):
        value = 0
        for byte in document[start : start + RUN]:
            value = (value * module.MULTIPLIER + byte + 1) % 2**64
        assert int(numbers[start]) == value
    assert len(numbers) == len(document) - RUN + 1
    assert len(np.unique(runs(bytes(range(256)) * 2))) == 256


def test_all_of_it_nothing_of_it_and_no_text() -> None:
    text = texts(0)[0][0]
    assert share([b"x" * 9, text], [text[17:900]]) == 1
    assert share([text], [text[::-1]]) == 0
    assert share([text], [b"", b"short"]) == 0
    assert share([], [text]) == 0


def test_of_the_embedded_text_it_is_what_a_search_finds() -> None:
    """On a part of it, where a search is possible."""
    library = corpus(Data(), "text")
    train, test = list(library.read("train"))[:60], [document[-600:] for document in library.read("test")]
    has = {document[start : start + RUN] for document in train for start in range(len(document) - RUN + 1)}
    wanted = {document[start : start + RUN] for document in test for start in range(len(document) - RUN + 1)}
    found = by_search([run for run in wanted if run in has], test)
    assert share(train, test) == found
    assert found > 0


def test_it_is_cached_by_content(tmp_path: Path) -> None:
    train, test = texts(1)
    texts_of = {"train": train, "test": test}
    found = Corpus("texts", "1" * 64, lambda split: texts_of[split])
    first = overlap(found, tmp_path)
    assert first == {"test_text_in_train": share(train, test), "run_bytes": RUN}
    unreadable = Corpus("texts", "1" * 64, lambda split: pytest.fail("read again"))
    assert overlap(unreadable, tmp_path) == first
    other = Corpus("texts", "2" * 64, lambda split: [b"nothing" * 30] if split == "train" else test)
    assert overlap(other, tmp_path)["test_text_in_train"] == 0
