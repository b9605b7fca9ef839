"""Which train example an id is: ids go up without end, and every epoch has an order of its own.

The order of an epoch is drawn from (seed, epoch), so that it is a pure function of both and no job has to remember it.
"""

from collections.abc import Callable, Sequence

import numpy as np

Draw = Callable[[np.random.Generator], np.ndarray]


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
        """Of one epoch. Two are kept: a batch may lie across the border."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.clear()
            self._epochs[epoch] = self.draw(np.random.default_rng((self.seed, epoch)))
        return self._epochs[epoch]
