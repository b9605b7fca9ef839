"""Associative recall: the control that needs attention, on synthetic data, in all four patterns.

`tasks.data.recall_examples` describes the examples. Without token mixing only chance is possible, and vanilla solves
every pattern, so that a cell shows whether a family remembers, how far back and how much.

As in Zoology (Arora et al. 2023, arXiv 2312.04927) one training mixes several settings, each a length and a number of
pairs: from few pairs a model learns to look up at all, many times sooner. `settings` lists them; one that is there
twice is trained on twice as often. The longest is the design length, `model.length`; `model.memory` is the memory at
the most pairs, and in proportion with fewer.

The headline `accuracy` is at the design length, the mean over the numbers of `pairs` that fit: what each of these is,
is in the table `accuracy_by_pairs`. The test also has every length of `lengths` with every number of pairs, where they
fit, in `accuracy_by_setting`, which says what was trained on; `accuracy_by_length` is its part at the number of pairs
with the most lengths. `accuracy_by_distance` (in cross patterns `accuracy_by_item`) is of the answers of the headline.

Train examples come in groups of one setting, so that a batch has little padding. Test and validation examples do not
depend on the seed: all seeds are evaluated on the same ones. Every training id is a new example.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind
from tasks.backbones.recall import RecallNet
from tasks.base import NO_LABEL, Batch, Evaluation, Move, Predictor, Row, Source, Split, TaskContext, synthetic
from tasks.base import Options as BaseOptions
from tasks.common.token_prediction import TOKENS_PER_BATCH, TokenPrediction, answers
from tasks.data.padding import padded
from tasks.data.recall_examples import NOTHING, VERSION, Examples, Sizes

GROUP = 32
"""Consecutive train examples of one setting."""
KEPT_GROUPS = 4
CROSS_DELAY = 16
"""The delay in causal_cross where none is given."""

Count = Annotated[int, Field(ge=1)]
Setting = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Options(BaseOptions):
    vocabulary: int = Field(128, ge=8)
    settings: list[Setting] = Field([[32, 2], [32, 4], [64, 8], [64, 16]], min_length=1)
    """Length and pairs of the examples in training."""
    pairs: list[Count] = Field([4, 8, 16], min_length=1)
    """In validation and test, at the design length."""
    lengths: list[Count] = Field([32, 128])
    """Further ones in the test, with the same pairs."""
    gap_power: float = Field(0.01, ge=0)
    """Self patterns: queries come g tokens after their pairs in proportion to g^(gap_power - 1)."""
    delay: int | None = Field(None, ge=0)
    """Causal patterns: tokens between a query and its answer; null: 0 in causal_self, 16 in causal_cross."""
    positions: PositionKind = "rotary"
    validation_examples: int = Field(48, ge=1)
    """Of each number of pairs."""
    test_examples: int = Field(256, ge=1)
    """Of each setting."""


class Recall(TokenPrediction):
    name = "recall"
    patterns = tuple(Pattern)
    options: Options

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        if self.data.source != "embedded":
            raise ValueError(f"data.source={self.data.source}: recall is synthetic: use data.source=embedded")
        if not self.pattern.causal:
            self.refuse_option("delay", f"in {self.pattern}")
        if self.pattern.cross:
            self.refuse_option("gap_power", f"in {self.pattern}")
        longest, self.most_pairs = (max(values) for values in zip(*options.settings, strict=True))
        if longest != self.shape.length:
            raise ValueError(f"settings: the longest has {longest} tokens: set model.length={longest}")
        if self.pattern.cross and self.shape.memory < self.most_pairs:
            pairs = self.most_pairs
            raise ValueError(f"memory={self.shape.memory} holds no {pairs} pairs: use at least model.memory={pairs}")
        self.mixture = [self._sizes(length, pairs) for length, pairs in options.settings]
        self.headline = self._fitting(self.shape.length)
        if not self.headline:
            raise ValueError(f"pairs={options.pairs}: none fit in model.length={longest}: use fewer")
        further = [sizes for length in options.lengths for sizes in self._fitting(length)]
        self.tested = list(dict.fromkeys(self.headline + further))
        self._groups: dict[tuple[Split, int], Examples] = {}

    @property
    def without_effect(self) -> tuple[str, ...]:
        return () if self.pattern.cross else ("model.memory",)

    def prepare(self) -> Source:
        sizes = self.mixture[0]
        parameters = {name: [asdict(one) for one in getattr(self, name)] for name in ("mixture", "headline", "tested")}
        facts: dict[str, int | float | str] = {"chance": 1 / sizes.values, "test_examples": self.examples("test")}
        return synthetic("associative recall, synthetic", {"version": VERSION, **parameters}, facts)

    def build(self, slots: Slots) -> nn.Module:
        return RecallNet(slots, self.pattern, self.shape, self.options.vocabulary, self.options.positions)

    def vocabulary_numbers(self, examples: int) -> int:
        return self.options.vocabulary * (8 * self.shape.dim + 3 * examples * self.most_pairs)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`tokens`, `labels`, `distance` (B, N), in cross patterns `memory` (B, M, 2), in causal_cross and
        noncausal_self `carried` (B, N); `valid` and `memory_valid` where there is padding."""
        size = self._group_size(split)
        groups = {number: self._group(split, number) for number in {id // size for id in ids}}
        batch: Batch = {}
        for name in groups[ids[0] // size]:
            filler = NO_LABEL if name in ("labels", "distance") else NOTHING
            batch[name], valid = padded([groups[id // size][name][id % size] for id in ids], filler)
            if name in ("tokens", "memory") and not valid.all():
                batch["valid" if name == "tokens" else "memory_valid"] = valid
        return batch

    def examples(self, split: Split) -> int:
        return self._group_size(split) * len(self._settings(split))

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        others = (batch.get(name) for name in ("memory", "carried", "valid", "memory_valid"))
        return model(batch["tokens"], batch["labels"] != NO_LABEL, *others)

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        rows: list[Row] = []
        correct, distance = [], []
        for number, sizes in enumerate(self._settings(split)):
            right, loss = self.score(model, self._batches(split, number, move))
            row: Row = {"length": sizes.length, "pairs": sizes.pairs, "memory": sizes.memory}
            row |= {"answers": len(right), "accuracy": float(right.mean()), "loss": loss}
            rows.append(row | {"trained": sizes in self.mixture})
            if sizes in self.headline:
                correct.append(right)
                distance.append(self._distances(split, number))
        by_pairs = _slice(rows, "pairs", "length", self.shape.length)
        by_distance = self._by_distance(np.concatenate(correct), np.concatenate(distance))
        tables = {
            "accuracy_by_setting": rows,
            "accuracy_by_item" if self.pattern.cross else "accuracy_by_distance": by_distance,
            "accuracy_by_pairs": by_pairs,
            "accuracy_by_length": _by_length(rows),
        }
        metrics = {metric.name: float(np.mean([row[metric.name] for row in by_pairs])) for metric in self.metrics}
        return Evaluation(metrics, tables)

    def predictors(self) -> list[Predictor]:
        """Always the answer that is the most frequent one of the test split, as the headline counts, and the same
        probability for every value."""
        shares = []
        for number in range(len(self.headline)):
            labels = answers(self.batch("test", self._ids("test", number))).numpy()
            shares.append(np.bincount(labels, minlength=self.options.vocabulary) / len(labels))
        chance = 1 / self.mixture[0].values
        best = np.mean(shares, 0).max()
        scores = {"accuracy": float(best), "loss": -math.log(chance), "chance": chance}
        return [Predictor("best constant answer", scores)]

    def _sizes(self, length: int, pairs: int) -> Sizes:
        options = self.options
        memory = math.ceil(self.shape.memory * pairs / self.most_pairs) if self.pattern.cross else 0
        default = CROSS_DELAY if self.pattern.cross else 0
        given = default if options.delay is None else options.delay
        delay = given if self.pattern.causal else 0
        return Sizes(self.pattern, length, memory, options.vocabulary, pairs, delay, options.gap_power)

    def _fitting(self, length: int) -> list[Sizes]:
        """The numbers of pairs that fit in a length, none beyond the positions."""
        fitting: list[Sizes] = []
        if length <= self.shape.length or self.options.positions != "learned":
            for pairs in sorted(set(self.options.pairs)):
                with contextlib.suppress(ValueError):
                    fitting.append(self._sizes(length, pairs))
        return fitting

    def _settings(self, split: Split) -> list[Sizes]:
        """Those of the groups of a split, by number; in training they come again and again."""
        return {"train": self.mixture, "validation": self.headline, "test": self.tested}[split]

    def _group_size(self, split: Split) -> int:
        options = self.options
        return {"train": GROUP, "validation": options.validation_examples, "test": options.test_examples}[split]

    def _group(self, split: Split, number: int) -> Examples:
        if (split, number) not in self._groups:
            if len(self._groups) >= KEPT_GROUPS:
                del self._groups[next(iter(self._groups))]
            settings = self._settings(split)
            sizes = settings[number % len(settings)]
            self._groups[split, number] = sizes.generate(self._group_size(split), self.random(split, number))
        return self._groups[split, number]

    def _ids(self, split: Split, number: int) -> range:
        """The ids of a group."""
        size = self._group_size(split)
        return range(number * size, (number + 1) * size)

    def _batches(self, split: Split, number: int, move: Move) -> Iterator[Batch]:
        """The examples of a group."""
        ids, sizes = self._ids(split, number), self._settings(split)[number]
        at_once = max(1, TOKENS_PER_BATCH // (sizes.length + sizes.memory))
        for start in range(0, len(ids), at_once):
            yield move(self.batch(split, ids[start : start + at_once]))

    def _distances(self, split: Split, number: int) -> np.ndarray:
        """Of the answers of a group in order, in cross patterns as a fraction of the memory."""
        found = self._group(split, number)["distance"]
        return found[found != NO_LABEL] / (self._settings(split)[number].memory or 1)

    def _by_distance(self, correct: np.ndarray, distance: np.ndarray) -> list[Row]:
        """Between pair and answer in doubling bins; which item of the memory in quarters of it."""
        edges: list[float] = [0, 4]
        if self.pattern.cross:
            edges = [0, 0.25, 0.5, 0.75, 1]
        while edges[-1] <= distance.max():
            edges.append(2 * edges[-1])
        rows: list[Row] = []
        for start, end in pairwise(edges):
            here = correct[(distance >= start) & (distance < end)]
            if len(here):
                rows.append({"from": start, "to": end, "answers": len(here), "accuracy": float(here.mean())})
        return rows


def _by_length(rows: Sequence[Row]) -> list[Row]:
    """At the number of pairs with the most lengths, of several the largest."""
    every = [int(row["pairs"]) for row in rows]
    return _slice(rows, "length", "pairs", max(every, key=lambda pairs: (every.count(pairs), pairs)))


def _slice(rows: Sequence[Row], name: str, other: str, value: int) -> list[Row]:
    """The rows in which `other` is the value, without it, sorted by `name`."""
    chosen = [{key: row[key] for key in row if key != other} for row in rows if row[other] == value]
    return sorted(chosen, key=lambda row: row[name])
