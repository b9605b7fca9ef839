"""Language modelling: predict every next token of real text, in the pattern causal_self, with GPT.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): GPT-2 on PG-19, perplexity. Here the text comes from any of
three sources (`tasks.data.text`) and the headline is bits per byte, which compares across vocabularies.

Training windows of length + 1 tokens lie one after the other, from a random offset and in a random order in every
epoch; evaluation windows lie evenly over the whole split and do not overlap, nothing is carried from one to the next.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern, Shape
from attentions.slots import Slots
from tasks.backbones.gpt import GPT
from tasks.backbones.positions import PositionKind, check_positions
from tasks.base import Batch, Data, Evaluation, Metric, Move, Source, Split, Task, Trivial
from tasks.data.text import SPLITS, corpus
from tasks.data.tokens import Tokens, Vocabulary, check_vocabulary, tokenise

EVALUATED_AT_ONCE = 2**14
"""Tokens in an evaluation batch, to bound the memory for logits."""
BUCKET_GROWTH = 4
"""Ratio between the ends of the position buckets."""


class LanguageModelling(Task):
    """Options: `vocabulary` (bytes, or the size of a BPE vocabulary), `positions`, and how many windows are evaluated.

    `column` is the text column of a hub data set. Without a revision, the commit that `main` points to is looked up,
    recorded and part of the content hash: results are tied to it.
    """

    name = "lm"
    patterns = (Pattern.CAUSAL_SELF,)
    metrics = (Metric("bits_per_byte", "lower", "bits"), Metric("perplexity", "lower"))

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        *,
        vocabulary: Vocabulary = "bytes",
        positions: PositionKind = "sinusoidal",
        validation_windows: int = 64,
        test_windows: int = 256,
        column: str = "text",
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache)
        check_vocabulary(vocabulary)
        check_positions(positions)
        self.windows: dict[Split, int] = {"validation": validation_windows, "test": test_windows}
        for split, count in self.windows.items():
            if count < 1:
                raise ValueError(f"{split}_windows={count}: at least 1 is needed")
        self.vocabulary, self.positions, self.column = vocabulary, positions, column
        self._tokens: Tokens | None = None
        self._epochs: dict[int, np.ndarray] = {}

    @property
    def tokens(self) -> Tokens:
        if self._tokens is None:
            raise RuntimeError("prepare() comes first: it loads the text and finds the vocabulary")
        return self._tokens

    def prepare(self) -> Source:
        text = corpus(self.data, self.column)
        tokens = tokenise(text, self.vocabulary, self.cache)
        for split in SPLITS:
            have, need = len(tokens.streams[split]), self.shape.length + 1
            if have < need:
                raise ValueError(
                    f"length={self.shape.length}: the {split} text has {have} tokens, a window needs {need}: "
                    "use a smaller length or more text"
                )
        self._tokens, self._epochs = tokens, {}
        sizes: dict[str, int | float | str] = {f"{split}_tokens": len(tokens.streams[split]) for split in SPLITS}
        facts = text.facts | sizes | {"vocabulary": tokens.size, "test_windows": self.examples("test")}
        return Source(text.description, True, text.content, facts)

    def build(self, slots: Slots) -> nn.Module:
        return GPT(slots, self.shape, self.tokens.size, self.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`tokens` (B, N + 1): inputs and, one further, labels."""
        starts = self._train_starts(ids) if split == "train" else self._evaluation_starts(split)[list(ids)]
        windows = self.tokens.streams[split][starts[:, None] + np.arange(self.shape.length + 1)]
        return {"tokens": torch.from_numpy(windows.astype(np.int64))}

    def examples(self, split: Split) -> int:
        if split == "train":
            return self._train_windows()
        return min(self.windows[split], len(self.tokens.streams[split]) // (self.shape.length + 1))

    def targets(self, batch: Batch) -> int:
        return batch["tokens"][:, 1:].numel()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, auxiliary = self._losses(model, batch)
        return losses.sum(), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        size = max(1, EVALUATED_AT_ONCE // self.shape.length)
        by_position = torch.zeros(self.shape.length, dtype=torch.float64)
        for batch in self.batches(split, size, move):
            losses, _ = self._losses(model, batch)
            by_position += losses.cpu().double().sum(0)
        labels = self._labels(split)
        bits = by_position.numpy() / math.log(2)  # (N,), summed over windows
        sizes = self.tokens.bytes_of[labels].sum(0)  # (N,)
        rows: list[dict[str, int | float | str]] = []
        for start, end in buckets(self.shape.length):
            here = slice(start, end)
            count = labels[:, here].size
            per_byte = float(bits[here].sum() / max(1, sizes[here].sum()))
            rows.append({"from": start, "to": end, "tokens": count, "bits_per_byte": per_byte})
        return Evaluation(_scores(float(bits.sum()), int(sizes.sum()), labels.size), {"loss_by_position": rows})

    def trivial(self) -> Trivial:
        """Token frequencies of the train text, one added to every count."""
        counts = np.bincount(self.tokens.streams["train"], minlength=self.tokens.size) + 1
        bits = -np.log2(counts / counts.sum())
        labels = self._labels("test")
        scores = _scores(float(bits[labels].sum()), int(self.tokens.bytes_of[labels].sum()), labels.size)
        return Trivial("unigram", scores)

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods in nats (B, N), and the auxiliary loss."""
        logits, auxiliary = model(batch["tokens"][:, :-1])
        labels = batch["tokens"][:, 1:]
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        return losses.view(labels.shape), auxiliary

    def _labels(self, split: Split) -> np.ndarray:
        """What is predicted in an evaluation, (windows, N)."""
        return self.batch(split, range(self.examples(split)))["tokens"][:, 1:].numpy()

    def _evaluation_starts(self, split: Split) -> np.ndarray:
        count, last = self.examples(split), len(self.tokens.streams[split]) - self.shape.length - 1
        return np.arange(count) * last // max(1, count - 1)

    def _train_windows(self) -> int:
        """Windows in an epoch: as many as fit from every offset."""
        return max(1, len(self.tokens.streams["train"]) // self.shape.length - 1)

    def _train_starts(self, ids: Sequence[int]) -> np.ndarray:
        epochs, places = np.divmod(np.asarray(ids), self._train_windows())
        starts = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            starts[chosen] = self._epoch(int(epoch))[places[chosen]]
        return starts

    def _epoch(self, epoch: int) -> np.ndarray:
        """Starts of an epoch's windows in their order. Neighbouring windows share one token: no label is seen twice."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.clear()
            generator = np.random.default_rng((self.seed, epoch))
            length, windows = self.shape.length, self._train_windows()
            slack = len(self.tokens.streams["train"]) - 1 - windows * length
            offset = generator.integers(min(slack, length - 1) + 1)
            self._epochs[epoch] = offset + length * generator.permutation(windows)
        return self._epochs[epoch]


def buckets(length: int) -> list[tuple[int, int]]:
    """[0, 1), [1, 4), [4, 16), ... up to `length`."""
    ends = [0, 1]
    while ends[-1] < length:
        ends.append(min(length, BUCKET_GROWTH * ends[-1]))
    return list(pairwise(ends))


def _scores(bits: float, size: int, count: int) -> dict[str, float]:
    """`bits` spent on `count` tokens, which are `size` bytes of text."""
    return {"bits_per_byte": bits / max(1, size), "perplexity": 2 ** (bits / count)}
