"""Synthetic examples of associative recall: keys with values, and queries, in all four patterns.

Ids of a vocabulary of V: 0 filler, 1 mask, then the keys, then the values, half of the rest each. Values are drawn
independently, so that no answer tells anything about another.

causal_self       Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927): pairs key, value
                  first, then queries among filler; the answer is predicted at the query.
noncausal_self    Masked recall: every token is an item, a key and its value; some keys come again with a masked
                  value, and the answer is predicted there. The complete item may be on the left or on the right.
noncausal_cross   Look-up: queries among filler; a memory whose items hold a key and a value each, with distractors of
                  other keys; the answer is predicted at the query.
causal_cross      The same with each key queried at most once, and the answer `delay` tokens after its query; each token
                  also carries the answer before it, as in teacher forcing. A family that lets a later query through
                  reads the answer from the next token. The delay admits families that read the memory through the
                  previous block or group only; carrying a query over it is the work of the self attention, which is
                  vanilla in this pattern.
"""

from dataclasses import dataclass

import numpy as np

from attentions.base import Pattern
from tasks.base import NO_LABEL

VERSION = 1
"""Increased when the same numbers would give other examples."""
FILLER, MASK, FIRST_KEY = 0, 1, 2

Examples = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sizes:
    """Sizes of an example, checked. `memory` is 0 in self patterns, `delay` is used in causal_cross only."""

    pattern: Pattern
    length: int
    memory: int
    vocabulary: int
    pairs: int
    queries: int
    delay: int

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"pairs={self.pairs}: at least 1 is needed")
        if self.pairs > self.keys or (self.memory > self.pairs and self.pairs == self.keys):
            raise ValueError(f"pairs={self.pairs}: vocabulary={self.vocabulary} has {self.keys} keys: use fewer pairs")
        if self.pattern.cross and self.memory < self.pairs:
            raise ValueError(
                f"memory={self.memory} holds no {self.pairs} pairs: use at least model.memory={self.pairs}"
            )
        if self.length < self.least_length:
            raise ValueError(
                f"length={self.length} is too short for pairs={self.pairs}, queries={self.answers} in {self.pattern}: "
                f"use at least {self.least_length}"
            )

    @property
    def keys(self) -> int:
        return (self.vocabulary - FIRST_KEY) // 2

    @property
    def first_value(self) -> int:
        return FIRST_KEY + self.keys

    @property
    def values(self) -> int:
        return self.vocabulary - self.first_value

    @property
    def answers(self) -> int:
        """Answers in an example."""
        return min(self.queries, self.pairs) if self.unique_queries else self.queries

    @property
    def unique_queries(self) -> bool:
        """Whether a key is queried at most once: `carried` would tell the answer of a second query."""
        return self.pattern is Pattern.CAUSAL_CROSS

    @property
    def least_length(self) -> int:
        return {
            Pattern.NONCAUSAL_SELF: self.pairs + self.answers,
            Pattern.CAUSAL_SELF: 2 * self.pairs + self.answers,
            Pattern.NONCAUSAL_CROSS: self.answers,
            Pattern.CAUSAL_CROSS: self.answers + self.delay,
        }[self.pattern]

    def generate(self, count: int, rng: np.random.Generator) -> Examples:
        """`count` examples, int64: tokens (B, N), labels (B, N) or NO_LABEL, distance (B, N): how far the pair is
        from its answer, or which item of the memory it is; in cross patterns memory (B, M, 2): keys and values; carried
        (B, N): in noncausal_self the value or mask of each item, in causal_cross the answer before each token."""
        order = rng.random((count, self.keys)).argsort(1)  # (B, K)
        keys = FIRST_KEY + order[:, : self.pairs]  # (B, P), all different
        values = rng.integers(self.first_value, self.vocabulary, (count, self.pairs))  # (B, P)
        if self.unique_queries:
            which = rng.random((count, self.pairs)).argsort(1)[:, : self.answers]  # (B, Q)
        else:
            which = rng.integers(0, self.pairs, (count, self.answers))
        if self.pattern is Pattern.CAUSAL_SELF:
            return self._first_pairs(keys, values, which, rng)
        if self.pattern is Pattern.NONCAUSAL_SELF:
            return self._masked(keys, values, which, rng)
        return self._memory(keys, values, which, FIRST_KEY + order[:, self.pairs :], rng)

    def _first_pairs(
        self, keys: np.ndarray, values: np.ndarray, which: np.ndarray, rng: np.random.Generator
    ) -> Examples:
        count, own = len(keys), 2 * self.pairs
        tokens = np.full((count, self.length), FILLER)
        tokens[:, :own] = np.stack([keys, values], 2).reshape(count, own)
        places = own + _places(rng, count, self.length - own, self.answers)  # (B, Q)
        _put(tokens, places, _pick(keys, which))
        return self._with_answers(tokens, places, _pick(values, which), places - (2 * which + 1))

    def _masked(self, keys: np.ndarray, values: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> Examples:
        tokens = np.full((len(keys), self.length), FILLER)
        carried = tokens.copy()
        places = _places(rng, len(keys), self.length, self.pairs + self.answers)  # (B, P + Q)
        pairs, masks = places[:, : self.pairs], places[:, self.pairs :]
        _put(tokens, pairs, keys)
        _put(carried, pairs, values)
        _put(tokens, masks, _pick(keys, which))
        _put(carried, masks, np.full_like(masks, MASK))
        distance = np.abs(masks - _pick(pairs, which))
        return self._with_answers(tokens, masks, _pick(values, which), distance) | {"carried": carried}

    def _memory(
        self, keys: np.ndarray, values: np.ndarray, which: np.ndarray, others: np.ndarray, rng: np.random.Generator
    ) -> Examples:
        count, more = len(keys), self.memory - self.pairs
        distractors = _pick(others, rng.integers(0, max(1, others.shape[1]), (count, more)))
        items = np.stack(
            [
                np.concatenate([keys, distractors], 1),
                np.concatenate([values, rng.integers(self.first_value, self.vocabulary, (count, more))], 1),
            ],
            2,
        )  # (B, M, 2)
        order = rng.random((count, self.memory)).argsort(1)  # place -> item
        items = np.take_along_axis(items, order[:, :, None], 1)
        item_at = _pick(order.argsort(1), which)  # (B, Q)
        delay = self.delay if self.pattern is Pattern.CAUSAL_CROSS else 0
        tokens = np.full((count, self.length), FILLER)
        places = _places(rng, count, self.length - delay, self.answers)
        _put(tokens, places, _pick(keys, which))
        examples = self._with_answers(tokens, places + delay, _pick(values, which), item_at) | {"memory": items}
        if self.pattern is Pattern.CAUSAL_CROSS:
            labels = examples["labels"]
            carried = np.full_like(labels, FILLER)
            carried[:, 1:] = np.where(labels == NO_LABEL, FILLER, labels)[:, :-1]
            examples["carried"] = carried
        return examples

    def _with_answers(self, tokens: np.ndarray, places: np.ndarray, answers: np.ndarray, far: np.ndarray) -> Examples:
        labels, distance = np.full_like(tokens, NO_LABEL), np.full_like(tokens, NO_LABEL)
        _put(labels, places, answers)
        _put(distance, places, far)
        return {"tokens": tokens, "labels": labels, "distance": distance}


def _places(rng: np.random.Generator, count: int, among: int, places: int) -> np.ndarray:
    """(B, places) different numbers below `among`, in random order."""
    return rng.random((count, among)).argsort(1)[:, :places]


def _pick(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, index, 1)


def _put(x: np.ndarray, index: np.ndarray, what: np.ndarray) -> None:
    np.put_along_axis(x, index, what, 1)
