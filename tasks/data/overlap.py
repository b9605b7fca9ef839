"""How much of the test text is also in train: the share of its bytes that lie in a run that train has, too.

A run is of RUN bytes within one document, wherever it begins. Every run is a number, a polynomial in its bytes,

    h(b_0 ... b_{n-1}) = sum_i b_i M^(n-1-i)   mod 2^64,   h_{2n}(i) = h_n(i) M^n + h_n(i + n)

by doubling, so that a document takes log2(RUN) passes; two different runs have the same number with a probability
of about 2^-64. The numbers of test are sorted; those of train are looked up among them, piece by piece.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tasks.data.cache_folder import stored
from tasks.data.text import Corpus, Facts

RUN = 64
"""Bytes; a power of 2."""
VERSION = 1
MULTIPLIER = 0x9E3779B97F4A7C15
TABLE_BITS = 22
"""Most runs of train are not in test, which a table of this many bits of their numbers tells faster than a search."""
PIECE = 2**18
"""Bytes of a document that are looked up together."""
SHARE = "share.json"


def overlap(corpus: Corpus, cache: Path) -> Facts:
    """Of the whole test split, and the length of a run, for the record; cached by the content of the corpus."""
    key = hashlib.sha256(f"{VERSION} {RUN} {corpus.content}".encode()).hexdigest()[:24]

    def build(folder: Path) -> None:
        (folder / SHARE).write_text(json.dumps(share(corpus.read("train"), corpus.read("test"))))

    folder = stored(cache / f"overlap-{key}", build, f"the share of test text in train ({corpus.description})")
    return {"test_text_in_train": json.loads((folder / SHARE).read_text()), "run_bytes": RUN}


def share(train: Iterable[bytes], test: Iterable[bytes]) -> float:
    """Of the bytes of test in a run that is in train; 0 of no text."""
    documents = list(test)
    own = [runs(document) for document in documents]
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *own]))
    if not len(wanted):
        return 0.0
    table = np.zeros(2**TABLE_BITS, bool)
    table[_short(wanted)] = True
    found = np.zeros(len(wanted), bool)
    for document in train:
        for piece in _pieces(document):
            numbers = runs(piece)
            numbers = numbers[table[_short(numbers)]]
            places = np.minimum(np.searchsorted(wanted, numbers), len(wanted) - 1)
            found[places[wanted[places] == numbers]] = True
    covered = 0
    for numbers in own:
        starts = np.flatnonzero(found[np.searchsorted(wanted, numbers)])
        covered += int(np.minimum(np.diff(starts), RUN).sum()) + RUN * bool(len(starts))
    return covered / sum(map(len, documents))


def runs(document: bytes) -> np.ndarray:
    """(T - RUN + 1,) uint64: the number of the run that begins at each byte."""
    numbers = np.frombuffer(document, np.uint8).astype(np.uint64) + np.uint64(1)
    length, power = 1, MULTIPLIER
    while length < RUN:
        numbers = numbers[:-length] * np.uint64(power) + numbers[length:]
        length, power = 2 * length, power * power % 2**64
    return numbers


def _pieces(document: bytes) -> Iterator[bytes]:
    """Of a long document, with the run that crosses each border in one of them."""
    for start in range(0, max(1, len(document)), PIECE):
        yield document[start : start + PIECE + RUN - 1]


def _short(numbers: np.ndarray) -> np.ndarray:
    return (numbers >> np.uint64(64 - TABLE_BITS)).astype(np.int64)
