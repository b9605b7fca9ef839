"""Windows of equal width over one stream of tokens per split.

Training windows are consecutive, from a random offset and in a random order in every epoch; windows that are wider than
the stride overlap. Evaluation windows are evenly spread over the split and do not overlap. All of it is a pure function
of (seed, split, id).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from tasks.base import Split
from tasks.data.epochs import Epochs


class Windows:
    """`width` tokens each, one every `stride`; `counts` bounds how many are evaluated of validation and test."""

    def __init__(
        self, streams: Mapping[Split, np.ndarray], width: int, stride: int, counts: Mapping[Split, int], seed: int
    ) -> None:
        for split, stream in streams.items():
            if len(stream) < width:
                raise ValueError(
                    f"length={stride}: the {split} text has {len(stream)} tokens, a window needs {width}: "
                    "use a smaller length or more text"
                )
        self.streams, self.width, self.stride, self.counts, self.seed = streams, width, stride, counts, seed

    def examples(self, split: Split) -> int:
        """Windows in an epoch of train, which fit from every offset; windows in an evaluation of the others."""
        have = len(self.streams[split])
        if split == "train":
            return max(1, have // self.stride - 1)
        return min(self.counts[split], have // self.width)

    def __call__(self, split: Split, ids: Sequence[int]) -> np.ndarray:
        """The windows with these ids, (len(ids), width)."""
        starts = self._train(ids) if split == "train" else self._evaluation_starts(split)[list(ids)]
        return self.streams[split][starts[:, None] + np.arange(self.width)].astype(np.int64)

    def _evaluation_starts(self, split: Split) -> np.ndarray:
        count, last = self.examples(split), len(self.streams[split]) - self.width
        return np.arange(count) * last // max(1, count - 1)

    @cached_property
    def _train(self) -> Epochs:
        return Epochs(self.seed, self.examples("train"), self._epoch)

    def _epoch(self, generator: np.random.Generator) -> np.ndarray:
        """Starts of an epoch's windows in their order."""
        windows = self.examples("train")
        slack = len(self.streams["train"]) - (self.width - self.stride) - windows * self.stride
        offset = generator.integers(min(slack, self.stride - 1) + 1)
        return offset + self.stride * generator.permutation(windows)
