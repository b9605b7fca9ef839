"""Tokens from their neighbours by counting: interpolated, modified Kneser-Ney (Chen and Goodman 1999).

    p_k(w | c) = max(0, n(c w) - D) / n(c .) + g(c) p_{k-1}(w | c without its farthest token),    p_0 = 1 / V

c is k - 1 neighbours, in any fixed order from the nearest to the farthest: the tokens before w make an n-gram model.
D depends on whether n(c w) is 1, 2 or more, and g(c) is what the discounts take, so that p_k sums to 1. At the order of
the model n counts occurrences; below it, the different tokens in the place of the next farther neighbour. Where c never
occurs, p_k = p_{k-1}.

A context is a number: the rank of its nearer tokens among all that occur, times V, plus its farthest token. So all
vocabularies and orders fit into 64 bits, and counting is sorting: O(T log T) for each order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UNKNOWN = -1
"""A neighbour that is hidden or outside of the window: the order of the model ends before it."""
LEAST_DISCOUNT = 0.1
"""So that everything keeps some probability where counts are too few to estimate a discount."""
MOST_TABULATED = 2**25
"""Numbers below are counted in a table, which is faster than sorting."""


def probabilities(
    tokens: np.ndarray, contexts: Sequence[np.ndarray], wanted: np.ndarray, given: Sequence[np.ndarray], size: int
) -> list[np.ndarray]:
    """Of `wanted` (Q,), whose neighbours are `given`, a (Q,) each, from the counts of `tokens` (T,) with theirs,
    `contexts`, a (T,) each. The k-th of the results, (Q,), is from the k - 1 nearest neighbours at most."""
    context, grams = _ranked(np.zeros(len(tokens), np.int64)), _ranked(tokens.astype(np.int64))
    asked = np.zeros(len(wanted), np.int64)  # the rank of each given context; -1 gives numbers that do not occur
    lower, reached = np.full(len(wanted), 1 / size), np.ones(len(wanted), bool)
    found: list[np.ndarray] = []
    for k in range(len(contexts) + 1):
        place = _places(grams.distinct, asked * size + wanted)
        owner = grams.distinct // size
        whole = _interpolated(grams.counts, owner, place, asked, lower)
        found.append(np.where(reached, whole, found[-1]) if found else whole)
        if k < len(contexts):
            farther = _ranked(context.rank * size + contexts[k])
            farther_grams = _ranked(farther.rank * size + tokens)
            nearer = np.empty(len(farther_grams.distinct), np.int64)  # the shorter gram in each
            nearer[farther_grams.rank] = grams.rank
            continuations = np.bincount(nearer, minlength=len(grams.distinct))
            lower = _interpolated(continuations, owner, place, asked, lower)
            reached &= given[k] != UNKNOWN
            asked = _places(farther.distinct, asked * size + given[k])
            context, grams = farther, farther_grams
    return found


def _interpolated(
    counts: np.ndarray, owner: np.ndarray, place: np.ndarray, asked: np.ndarray, lower: np.ndarray
) -> np.ndarray:
    """p_k (Q,) from p_{k-1}, `lower`; `owner` is the context of each gram that was counted, `place` the wanted gram."""
    discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    total, taken = np.bincount(owner, counts), np.bincount(owner, discounts)
    share = np.append((counts - discounts) / total[owner], 0.0)  # the last one is for -1
    left = np.append(taken / total, 1.0)
    return share[place] + left[asked] * lower


def _discounts(counts: np.ndarray) -> list[float]:
    """Of what was counted once, twice, and more often."""
    ones, twos, threes, fours = np.maximum(np.bincount(counts[counts < 5], minlength=5)[1:5], 1)
    share = ones / (ones + 2 * twos)
    wanted = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
    return [float(np.clip(value, LEAST_DISCOUNT, count)) for count, value in enumerate(wanted, start=1)]


class _Ranked(NamedTuple):
    rank: np.ndarray
    """Of each key among the different ones."""
    distinct: np.ndarray
    """These, in order."""
    counts: np.ndarray


def _ranked(keys: np.ndarray) -> _Ranked:
    if keys.max() >= MOST_TABULATED:
        distinct, rank, counts = np.unique(keys, return_inverse=True, return_counts=True)
        return _Ranked(rank, distinct, counts)
    table = np.bincount(keys)
    distinct = np.flatnonzero(table)
    ranks = np.zeros(len(table), np.int64)
    ranks[distinct] = np.arange(len(distinct))
    return _Ranked(ranks[keys], distinct, table[distinct])


def _places(distinct: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Of `wanted` in `distinct`, -1 where it is missing."""
    places = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
    return np.where(distinct[places] == wanted, places, -1)
