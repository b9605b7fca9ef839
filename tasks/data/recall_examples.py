"""Synthetic examples of associative recall: keys with values, and a query for each key, in all four patterns.

Ids of a vocabulary of V: 0 nothing (padding, or nothing carried), 1 the mask, V/8 fillers, and the rest keys and
values, half each. Every token that is not described below is a filler, drawn at random. Keys of an example are
different; values are drawn independently, so that no answer tells anything about another.

causal_self       Multi-query associative recall (MQAR; Arora et al. 2023, "Zoology", arXiv 2312.04927): pairs of key
                  and value first, then queries; the answer is predicted `delay` tokens after its query. Queries are
                  placed one after another at a free place, g tokens after the last pair with a probability in
                  proportion to g^(gap_power - 1), as in Zoology: 0.01, their default, is close to 1/g, 1 is uniform.
noncausal_self    Masked recall: an item is one token that shows a key and its value; each key comes again with a masked
                  value, and the answer is predicted there. g is the distance to the complete item, on either side.
noncausal_cross   Look-up: queries, and a memory whose items hold a key and a value each, with distractors of other
                  keys; the answer is predicted at the query. Nothing is near or far in a set: places are uniform.
causal_cross      The same with the answer `delay` tokens after its query; each token also carries the answer before
                  it, as in teacher forcing. A family that lets a later query through reads the answer from the next
                  token.

The delay admits families that read the past, or the memory, through the previous block or group only: `delay` tokens
after its query, the same key comes again, and the answer is predicted there. Queries and answers take turns in runs of
`delay` tokens.

Deviations from the authors' code: theirs draws the fillers from the whole vocabulary (`random_non_queries`), so that a
filler may be a key with another value after it; fillers have their own ids here. Theirs tends to ask for the first
pairs first and keeps every second token free for an answer that is not shown; here any pair may be asked anywhere.
"""

from dataclasses import dataclass

import numpy as np

from attentions.base import Pattern
from tasks.base import NO_LABEL

VERSION = 2
"""Increased when the same numbers would give other examples."""
NOTHING, MASK, FIRST_FILLER = 0, 1, 2
FILLER_SHARE = 1 / 8
"""Of the vocabulary."""

Examples = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sizes:
    """Sizes of an example, checked. `memory` is used in cross patterns, `delay` in causal ones, `gap_power` in self."""

    pattern: Pattern
    length: int
    memory: int
    vocabulary: int
    pairs: int
    delay: int
    gap_power: float

    def __post_init__(self) -> None:
        if self.pairs > self.keys or (self.pairs == self.keys and self.pattern.cross and self.memory > self.pairs):
            raise ValueError(f"pairs={self.pairs}: vocabulary={self.vocabulary} has {self.keys} keys: use fewer pairs")
        if self.length < self.least_length:
            delayed = f", delay={self.delay}" if self.delay else ""
            raise ValueError(
                f"length={self.length} is too short for pairs={self.pairs}{delayed} in {self.pattern}: "
                f"use at least {self.least_length}"
            )

    @property
    def first_key(self) -> int:
        return FIRST_FILLER + max(1, int(FILLER_SHARE * self.vocabulary))

    @property
    def keys(self) -> int:
        return (self.vocabulary - self.first_key) // 2

    @property
    def first_value(self) -> int:
        return self.first_key + self.keys

    @property
    def values(self) -> int:
        return self.vocabulary - self.first_value

    @property
    def least_length(self) -> int:
        if self.pattern is Pattern.NONCAUSAL_SELF:
            return 2 * self.pairs
        runs, last = divmod(self.pairs - 1, self.delay) if self.delay else (0, self.pairs - 1)
        return self.first_query + 2 * self.delay * runs + last + self.delay + 1

    @property
    def first_query(self) -> int:
        """The first place that a query may have."""
        return 2 * self.pairs if self.pattern is Pattern.CAUSAL_SELF else 0

    @property
    def query_places(self) -> np.ndarray:
        """(N,): where a query may be, so that its answer has a place of its own."""
        place = np.arange(self.length) - self.first_query
        turn = place // max(1, self.delay) % 2 == 0 if self.delay else True
        return (place >= 0) & (place < self.length - self.first_query - self.delay) & turn

    def generate(self, count: int, rng: np.random.Generator) -> Examples:
        """`count` examples, int64: tokens (B, N), labels (B, N) or NO_LABEL, distance (B, N): how far the answer is
        from its pair, or which item of the memory that is; in cross patterns memory (B, M, 2): keys and values; carried
        (B, N): in noncausal_self the value or mask of each item, in causal_cross the answer before each token."""
        order = rng.random((count, self.keys)).argsort(1)  # (B, K)
        keys = self.first_key + order[:, : self.pairs]  # (B, P), all different
        values = rng.integers(self.first_value, self.vocabulary, (count, self.pairs))  # (B, P)
        tokens = rng.integers(FIRST_FILLER, self.first_key, (count, self.length))  # (B, N)
        if self.pattern is Pattern.CAUSAL_SELF:
            return self._first_pairs(tokens, keys, values, rng)
        if self.pattern is Pattern.NONCAUSAL_SELF:
            return self._masked(tokens, keys, values, rng)
        return self._memory(tokens, keys, values, self.first_key + order[:, self.pairs :], rng)

    def _first_pairs(
        self, tokens: np.ndarray, keys: np.ndarray, values: np.ndarray, rng: np.random.Generator
    ) -> Examples:
        own = self.first_query
        tokens[:, :own] = np.stack([keys, values], 2).reshape(-1, own)
        free = np.tile(self.query_places, (len(keys), 1))
        queries = _near(rng, np.full_like(keys, own - 1), free, self.gap_power)  # (B, P), the first ones are nearer,
        which = _places(rng, len(keys), self.pairs, self.pairs)  # so they ask for any pair
        answers = queries + self.delay
        for places in (queries, answers):
            _put(tokens, places, _pick(keys, which))
        return _with_answers(tokens, answers, _pick(values, which), answers - (2 * which + 1))

    def _masked(self, tokens: np.ndarray, keys: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Examples:
        complete = _places(rng, len(keys), self.length, self.pairs)  # (B, P)
        free = np.ones(tokens.shape, bool)
        _put(free, complete, False)
        masked = _near(rng, complete, free, self.gap_power)
        carried = np.full_like(tokens, NOTHING)
        for places, carries in ((complete, values), (masked, MASK)):
            _put(tokens, places, keys)
            _put(carried, places, carries)
        return _with_answers(tokens, masked, values, np.abs(masked - complete)) | {"carried": carried}

    def _memory(
        self, tokens: np.ndarray, keys: np.ndarray, values: np.ndarray, others: np.ndarray, rng: np.random.Generator
    ) -> Examples:
        count, more = len(keys), self.memory - self.pairs
        other_keys = _pick(others, rng.integers(0, max(1, others.shape[1]), (count, more)))
        other_values = rng.integers(self.first_value, self.vocabulary, (count, more))
        items = np.stack([np.hstack([keys, other_keys]), np.hstack([values, other_values])], 2)  # (B, M, 2)
        order = _places(rng, count, self.memory, self.memory)  # place -> item
        memory = np.take_along_axis(items, order[:, :, None], 1)
        [allowed] = self.query_places.nonzero()
        queries = allowed[_places(rng, count, len(allowed), self.pairs)]  # (B, P)
        for places in (queries, queries + self.delay):
            _put(tokens, places, keys)
        examples = _with_answers(tokens, queries + self.delay, values, order.argsort(1)[:, : self.pairs])
        if self.pattern is Pattern.CAUSAL_CROSS:
            labels = examples["labels"]
            carried = np.full_like(labels, NOTHING)
            carried[:, 1:] = np.where(labels == NO_LABEL, NOTHING, labels)[:, :-1]
            examples["carried"] = carried
        return examples | {"memory": memory}


def _with_answers(tokens: np.ndarray, places: np.ndarray, answers: np.ndarray, distances: np.ndarray) -> Examples:
    labels, distance = np.full_like(tokens, NO_LABEL), np.full_like(tokens, NO_LABEL)
    _put(labels, places, answers)
    _put(distance, places, distances)
    return {"tokens": tokens, "labels": labels, "distance": distance}


def _near(rng: np.random.Generator, anchors: np.ndarray, free: np.ndarray, gap_power: float) -> np.ndarray:
    """A place for each of anchors (B, P), one after another: a `free` one (B, N) at distance g with a probability in
    proportion to g^(gap_power - 1). No anchor is free; places that were taken no longer are."""
    length = free.shape[1]
    weight = np.arange(1, length + 1) ** (gap_power - 1.0)  # of distances from 1
    places = np.empty_like(anchors)
    for number, anchor in enumerate(anchors.T):
        gap = np.abs(np.arange(length) - anchor[:, None])  # (B, N)
        # The least of exponential variables of these rates is each with a probability in proportion to its rate.
        when = rng.standard_exponential(free.shape) / weight[gap - 1]
        places[:, number] = np.where(free, when, np.inf).argmin(1)
        _put(free, places[:, number, None], False)
    return places


def _places(rng: np.random.Generator, count: int, among: int, places: int) -> np.ndarray:
    """(B, places) different numbers below `among`, in random order."""
    return rng.random((count, among)).argsort(1)[:, :places]


def _pick(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, index, 1)


def _put(x: np.ndarray, index: np.ndarray, what: np.ndarray | int) -> None:
    np.put_along_axis(x, index, what, 1)
