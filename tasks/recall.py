"""Associative recall: the control that needs attention, generated, in all four patterns.

The examples are described in `tasks.data.recall`. Without token mixing nothing but chance is possible, and vanilla
solves every pattern, so that a cell says whether a family remembers, how far back and how much. Tables break accuracy
down by distance, number of pairs and length.

Test and validation examples do not depend on the seed: all seeds are judged on the same ones. Every training id is a
fresh example.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern, Shape
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind, check_positions
from tasks.backbones.recall import RecallNet
from tasks.base import Batch, Data, Evaluation, Metric, Move, Source, Split, Task, Trivial
from tasks.data.recall import NO_LABEL, VERSION, Examples, Sizes

BLOCK = 1024
"""Examples that are generated at once."""
KEPT_BLOCKS = 4
EVALUATED_AT_ONCE = 2**14
"""Tokens in an evaluation batch."""
SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
PAIR_FACTORS, LENGTH_FACTORS = (0.5, 1, 2), (1, 2, 4)


class Recall(Task):
    """Options: sizes of an example (`vocabulary`, `pairs`, `queries`, `delay`), `positions`, and how many examples are
    evaluated; `table_examples` for each row of the tables by pairs and by length.

    `queries` answers are due in an example, in causal_cross at most one per pair.
    """

    name = "recall"
    patterns = tuple(Pattern)
    metrics = (Metric("accuracy", "higher"), Metric("loss", "lower", "nats"))

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        *,
        vocabulary: int = 64,
        pairs: int = 8,
        queries: int = 24,
        delay: int = 16,
        positions: PositionKind = "sinusoidal",
        validation_examples: int = 256,
        test_examples: int = 1024,
        table_examples: int = 256,
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache)
        check_positions(positions)
        if data.source != "embedded":
            raise ValueError(f"data.source={data.source}: recall is generated: use data.source=embedded")
        counts = {"validation": validation_examples, "test": test_examples, "table": table_examples}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}_examples={count}: at least 1 is needed")
        memory = shape.memory if pattern.cross else 0
        self.sizes = Sizes(pattern, shape.length, memory, vocabulary, pairs, queries, delay)
        self.positions, self.counts = positions, counts
        self._blocks: dict[tuple[Sizes, Split, int], Examples] = {}

    def prepare(self) -> Source:
        parameters = {**asdict(self.sizes), "version": VERSION}
        content = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
        facts: dict[str, int | float | str] = {"chance": 1 / self.sizes.values, "test_examples": self.examples("test")}
        return Source("associative recall, generated", False, content, facts)

    def build(self, slots: Slots) -> nn.Module:
        return RecallNet(slots, self.pattern, self.shape, self.sizes.vocabulary, self.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`tokens`, `labels`, `distance` (B, N), in cross patterns `memory` (B, M, 2), in causal_cross `carried`."""
        return self._batch(self.sizes, split, ids)

    def examples(self, split: Split) -> int:
        return BLOCK if split == "train" else self.counts[split]

    def targets(self, batch: Batch) -> int:
        return int((batch["labels"] != NO_LABEL).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, auxiliary = _logits(model, batch)
        return _sum_of_losses(logits, batch["labels"]), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        correct, distance, loss = self._judge(model, self.sizes, split, self.examples(split), move)
        tables = {
            "accuracy_by_item" if self.pattern.cross else "accuracy_by_distance": self._by_distance(correct, distance),
            "accuracy_by_pairs": self._by(model, split, move, "pairs", self._other_pairs()),
            "accuracy_by_length": self._by(model, split, move, "length", self._other_lengths()),
        }
        return Evaluation({"accuracy": float(correct.mean()), "loss": loss}, tables)

    def trivial(self) -> Trivial:
        """Always the most frequent answer of the test split, and the same probability for every value."""
        labels = self.batch("test", range(self.examples("test")))["labels"].numpy()
        answers = labels[labels != NO_LABEL]
        chance = 1 / self.sizes.values
        best = np.bincount(answers).max() / len(answers)
        scores = {"accuracy": float(best), "loss": -math.log(chance), "chance": chance}
        return Trivial("best constant answer", scores)

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
            seed = self.seed if split == "train" else 0
            rng = np.random.default_rng((seed, SPLIT_NUMBERS[split], block))
            mixed = split == "train" and not self.pattern.cross
            self._blocks[key] = (_of_all_sizes if mixed else Sizes.generate)(sizes, BLOCK, rng)
        return self._blocks[key]

    def _judge(
        self, model: nn.Module, sizes: Sizes, split: Split, count: int, move: Move
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """For every answer in `count` examples: whether it is right, its distance; and the mean loss."""
        correct, distance, loss = [], [], 0.0
        at_once = max(1, EVALUATED_AT_ONCE // (sizes.length + sizes.memory))
        for start in range(0, count, at_once):
            batch = move(self._batch(sizes, split, range(start, min(start + at_once, count))))
            logits, _ = _logits(model, batch)
            labels = batch["labels"]
            here = labels != NO_LABEL
            correct.append((logits.argmax(-1) == labels)[here].cpu().numpy())
            distance.append(batch["distance"][here].cpu().numpy())
            loss += _sum_of_losses(logits, labels).item()
        rights = np.concatenate(correct)
        return rights, np.concatenate(distance), loss / len(rights)

    def _by_distance(self, correct: np.ndarray, distance: np.ndarray) -> list[dict[str, int | float | str]]:
        """Between pair and answer in doubling bins; which item of the memory in quarters of it."""
        if self.pattern.cross:
            edges = sorted({round(quarter * self.sizes.memory / 4) for quarter in range(5)})
        else:
            edges = [0, *(2**power for power in range(2, 2 + math.ceil(math.log2(max(5, self.sizes.length) / 4))))]
            edges.append(2 * edges[-1])
        rows: list[dict[str, int | float | str]] = []
        for start, end in pairwise(edges):
            here = correct[(distance >= start) & (distance < end)]
            if len(here):
                rows.append({"from": start, "to": end, "answers": len(here), "accuracy": float(here.mean())})
        return rows

    def _by(
        self, model: nn.Module, split: Split, move: Move, name: str, others: Sequence[Sizes]
    ) -> list[dict[str, int | float | str]]:
        rows: list[dict[str, int | float | str]] = []
        for sizes in others:
            correct, _, loss = self._judge(model, sizes, split, self.counts["table"], move)
            row: dict[str, int | float | str] = {name: getattr(sizes, name), "memory": sizes.memory}
            rows.append({**row, "answers": len(correct), "accuracy": float(correct.mean()), "loss": loss})
        return rows

    def _other_pairs(self) -> list[Sizes]:
        """Half and twice as many pairs, where they fit."""
        return self._fitting({"pairs": int(factor * self.sizes.pairs)} for factor in PAIR_FACTORS)

    def _other_lengths(self) -> list[Sizes]:
        """Twice and four times as long, memory included, where positions go so far."""
        factors = LENGTH_FACTORS[:1] if self.positions == "learned" else LENGTH_FACTORS
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


def _logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    return model(batch["tokens"], batch.get("memory"), batch.get("carried"))


def _sum_of_losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
