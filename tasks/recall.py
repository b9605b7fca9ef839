"""Associative recall: the control that needs attention, on synthetic data, in all four patterns.

`tasks.data.recall_examples` describes the examples. Without token mixing only chance is possible, and vanilla solves
every pattern, so that a cell shows whether a family remembers, how far back and how much. Tables break accuracy down by
distance, number of pairs and length.

Test and validation examples do not depend on the seed: all seeds are evaluated on the same ones. Every training id is a
new example.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind
from tasks.backbones.recall import RecallNet
from tasks.base import NO_LABEL, Batch, Evaluation, Move, Predictor, Row, Source, Split, TaskContext, synthetic
from tasks.base import Options as BaseOptions
from tasks.common.token_prediction import TOKENS_PER_BATCH, TokenPrediction
from tasks.data.recall_examples import VERSION, Examples, Sizes

BLOCK = 1024
"""Examples that are generated at once."""
KEPT_BLOCKS = 4
PAIR_FACTORS, LENGTH_FACTORS = (0.5, 1, 2), (1, 2, 4)


class Options(BaseOptions):
    vocabulary: int = Field(64, ge=4)
    pairs: int = Field(8, ge=1)
    queries: int = Field(24, ge=1)
    """Answers in an example; in causal_cross at most one per pair."""
    delay: int = Field(16, ge=0)
    """causal_cross: tokens between a query and its answer."""
    positions: PositionKind = "sinusoidal"
    validation_examples: int = Field(256, ge=1)
    test_examples: int = Field(1024, ge=1)
    table_examples: int = Field(256, ge=1)
    """Examples for each row of the tables by pairs and by length."""


class Recall(TokenPrediction):
    name = "recall"
    patterns = tuple(Pattern)
    options: Options

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        if self.data.source != "embedded":
            raise ValueError(f"data.source={self.data.source}: recall is synthetic: use data.source=embedded")
        memory = self.shape.memory if self.pattern.cross else 0
        sizes = options.vocabulary, options.pairs, options.queries, options.delay
        self.sizes = Sizes(self.pattern, self.shape.length, memory, *sizes)
        self._blocks: dict[tuple[Sizes, Split, int], Examples] = {}

    def prepare(self) -> Source:
        facts: dict[str, int | float | str] = {"chance": 1 / self.sizes.values, "test_examples": self.examples("test")}
        return synthetic("associative recall, synthetic", {**asdict(self.sizes), "version": VERSION}, facts)

    def build(self, slots: Slots) -> nn.Module:
        return RecallNet(slots, self.pattern, self.shape, self.sizes.vocabulary, self.options.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`tokens`, `labels`, `distance` (B, N), in cross patterns `memory` (B, M, 2), in causal_cross `carried`."""
        return self._batch(self.sizes, split, ids)

    def examples(self, split: Split) -> int:
        if split == "train":
            return BLOCK
        return self.options.test_examples if split == "test" else self.options.validation_examples

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch["tokens"], batch.get("memory"), batch.get("carried"))

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        count = self.examples(split)
        correct, loss = self.score(model, self._batches(self.sizes, split, count, move))
        labelled = self._batch(self.sizes, split, range(count))
        distance = labelled["distance"][labelled["labels"] != NO_LABEL].numpy()
        tables = {
            "accuracy_by_item" if self.pattern.cross else "accuracy_by_distance": self._by_distance(correct, distance),
            "accuracy_by_pairs": self._by(model, split, move, "pairs", self._other_pairs()),
            "accuracy_by_length": self._by(model, split, move, "length", self._other_lengths()),
        }
        return Evaluation({"accuracy": float(correct.mean()), "loss": loss}, tables)

    def predictors(self) -> list[Predictor]:
        """Always the most frequent answer of the test split, and the same probability for every value."""
        labels = self.batch("test", range(self.examples("test")))["labels"].numpy()
        answers = labels[labels != NO_LABEL]
        chance = 1 / self.sizes.values
        best = np.bincount(answers).max() / len(answers)
        scores = {"accuracy": float(best), "loss": -math.log(chance), "chance": chance}
        return [Predictor("best constant answer", scores)]

    def _batch(self, sizes: Sizes, split: Split, ids: Sequence[int]) -> Batch:
        blocks, rows = np.divmod(np.asarray(ids), BLOCK)
        parts = [(self._block(sizes, split, int(block)), rows[blocks == block]) for block in np.unique(blocks)]
        order = np.argsort(np.argsort(blocks, kind="stable"), kind="stable")  # back to the order of ids
        return {
            name: torch.from_numpy(np.concatenate([part[name][chosen] for part, chosen in parts])[order])
            for name in parts[0][0]
        }

    def _block(self, sizes: Sizes, split: Split, block: int) -> Examples:
        key = (sizes, split, block)
        if key not in self._blocks:
            if len(self._blocks) >= KEPT_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            rng = self.random(split, block)
            if split == "train" and not self.pattern.cross:
                self._blocks[key] = _of_all_sizes(sizes, BLOCK, rng)
            else:
                self._blocks[key] = sizes.generate(BLOCK, rng)
        return self._blocks[key]

    def _batches(self, sizes: Sizes, split: Split, count: int, move: Move) -> Iterator[Batch]:
        """The first `count` examples of these sizes."""
        at_once = max(1, TOKENS_PER_BATCH // (sizes.length + sizes.memory))
        for start in range(0, count, at_once):
            yield move(self._batch(sizes, split, range(start, min(start + at_once, count))))

    def _by_distance(self, correct: np.ndarray, distance: np.ndarray) -> list[Row]:
        """Between pair and answer in doubling bins; which item of the memory in quarters of it."""
        if self.pattern.cross:
            edges = sorted({round(quarter * self.sizes.memory / 4) for quarter in range(5)})
        else:
            edges = [0, *(2**power for power in range(2, 2 + math.ceil(math.log2(max(5, self.sizes.length) / 4))))]
            edges.append(2 * edges[-1])
        rows: list[Row] = []
        for start, end in pairwise(edges):
            here = correct[(distance >= start) & (distance < end)]
            if len(here):
                rows.append({"from": start, "to": end, "answers": len(here), "accuracy": float(here.mean())})
        return rows

    def _by(self, model: nn.Module, split: Split, move: Move, name: str, others: Sequence[Sizes]) -> list[Row]:
        rows: list[Row] = []
        for sizes in others:
            batches = self._batches(sizes, split, self.options.table_examples, move)
            correct, loss = self.score(model, batches)
            row: Row = {name: getattr(sizes, name), "memory": sizes.memory}
            rows.append({**row, "answers": len(correct), "accuracy": float(correct.mean()), "loss": loss})
        return rows

    def _other_pairs(self) -> list[Sizes]:
        """Half and twice as many pairs, where they fit."""
        return self._fitting({"pairs": int(factor * self.sizes.pairs)} for factor in PAIR_FACTORS)

    def _other_lengths(self) -> list[Sizes]:
        """Twice and four times as long, memory included, where positions go so far."""
        factors = LENGTH_FACTORS[:1] if self.options.positions == "learned" else LENGTH_FACTORS
        return self._fitting({"length": f * self.sizes.length, "memory": f * self.sizes.memory} for f in factors)

    def _fitting(self, changes: Iterable[dict[str, Any]]) -> list[Sizes]:
        """The task's sizes with each of the changes, without those that are impossible."""
        fitting = []
        for change in changes:
            with contextlib.suppress(ValueError):
                fitting.append(replace(self.sizes, **change))
        return fitting


def _of_all_sizes(sizes: Sizes, count: int, rng: np.random.Generator) -> Examples:
    """Examples with 1 to `pairs` pairs, mixed: from few pairs a model learns to look up at all, many times sooner."""
    each = -(-count // sizes.pairs)
    parts = [replace(sizes, pairs=pairs).generate(each, rng) for pairs in range(1, sizes.pairs + 1)]
    order = rng.permutation(each * sizes.pairs)[:count]
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
