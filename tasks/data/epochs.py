"""The train example of an id: every epoch has an order of its own, a pure function of (seed, epoch)."""

from collections.abc import Callable, Sequence

import numpy as np

Draw = Callable[[np.random.Generator], np.ndarray]
BLOCK, GROUP = 512, 16
"""Blocks of examples are sorted by length and cut into groups, and the groups are shuffled."""


class Epochs:
    """`draw` returns the examples of one epoch in their order, `count` of them; without it, 0 to count - 1 shuffled."""

    def __init__(self, seed: int, count: int, draw: Draw | None = None) -> None:
        if count < 1:
            raise ValueError(f"{count} train examples: at least 1 is needed")
        self.seed, self.count, self.draw = seed, count, draw or (lambda generator: generator.permutation(count))
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        """The examples of these ids, (len(ids),)."""
        epochs, places = np.divmod(np.asarray(ids, np.int64), self.count)
        found = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._order(int(epoch))[places[chosen]]
        return found

    def _order(self, epoch: int) -> np.ndarray:
        """The order of one epoch. Two are kept, because a batch may belong to both."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.clear()
            self._epochs[epoch] = self.draw(np.random.default_rng((self.seed, epoch)))
        return self._epochs[epoch]


def in_complete_groups(count: int) -> int:
    """The largest number of examples in complete groups; `count` if there is no complete group."""
    return count - count % GROUP or count


def of_similar_length(lengths: np.ndarray, count: int | None = None) -> Draw:
    """Draws `count` of the examples, or all, in an order in which neighbours have similar lengths: batches of them have
    little padding."""

    def draw(generator: np.random.Generator) -> np.ndarray:
        order = generator.permutation(len(lengths))[:count]
        parts = []
        for block in np.split(order, range(BLOCK, len(order), BLOCK)):
            by_length = block[np.argsort(lengths[block], kind="stable")]
            groups = np.split(by_length, range(GROUP, len(block), GROUP))
            parts += [groups[place] for place in generator.permutation(len(groups))]
        return np.concatenate(parts)

    return draw
