"""The most commonplace of many texts: the one that is most like all of them.

A text that says what most say, whatever the document, is a strong predictor where models are small: ROUGE rewards the
words that everybody uses. Likeness is the F1 of two sets of words, 2 |a & b| / (|a| + |b|); the text with the highest
sum over all texts is chosen. With c(s, w), the number of texts of s words that hold w, that sum is

    L(a) = sum_s 2 / (|a| + s) sum_{w in a} c(s, w)

and needs no product of texts: O(words of all texts x different sizes).
"""

from collections.abc import Sequence

import numpy as np


def commonplace(texts: Sequence[Sequence[str]]) -> int:
    """Index of the text, given as its words, that is most like all; the first of equals."""
    sets = [frozenset(text) for text in texts]
    columns = {word: column for column, word in enumerate(sorted(frozenset().union(*sets)))}
    rows = [np.array([columns[word] for word in one], dtype=np.int64) for one in sets]
    sizes, kind = np.unique([len(row) for row in rows], return_inverse=True)
    counts = np.zeros((len(sizes), len(columns)), dtype=np.float32)  # (sizes, words)
    for row, size in zip(rows, kind, strict=True):
        counts[size, row] += 1
    likeness = [(2 / np.maximum(len(row) + sizes, 1) * counts[:, row].sum(1, dtype=np.float64)).sum() for row in rows]
    return int(np.argmax(likeness))
