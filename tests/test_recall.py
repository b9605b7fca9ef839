"""Recall: labels by solvers written without the generator's code, examples pure, metrics right."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from attentions.none import NoAttention
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.base import Data, TaskContext
from tasks.recall import BLOCK, Options, Recall

NS, CS, NC, CC = Pattern
VALUES = range(33, 64)  # of a vocabulary of 64: 0 filler, 1 mask, keys 2 to 32, values 33 to 63
NO_LABEL = -100


def make(pattern: Pattern, seed: int = 0, length: int = 64, memory: int = 24, **options) -> Recall:
    task = Recall(TaskContext(pattern, Shape(16, 2, 2, 16, length, memory), Data(), seed, Path()), Options(**options))
    task.prepare()
    return task


def rows(task: Recall, split="train", count: int = 300):
    batch = {name: tensor.tolist() for name, tensor in task.batch(split, range(count)).items()}
    for i in range(count):
        yield {name: batch[name][i] for name in batch}


# Solvers: what may be known at each place, in plain Python


def solve_masked(tokens: list[int], carried: list[int]) -> list[int]:
    known = {key: value for key, value in zip(tokens, carried, strict=True) if value in VALUES}
    return [known[key] if value == 1 else NO_LABEL for key, value in zip(tokens, carried, strict=True)]


def solve_causal(tokens: list[int]) -> list[int]:
    """Reads from left to right and never looks ahead."""
    known: dict[int, int] = {}
    answers, key = [], None
    for token in tokens:
        if token in VALUES:
            assert key is not None
            known[key] = token
            answers.append(NO_LABEL)
        else:
            answers.append(known.get(token, NO_LABEL))
            key = token
    return answers


def look_up(tokens: list[int], memory: list[list[int]], delay: int) -> list[int]:
    known = dict(map(tuple, memory))
    answers = [known[token] if token else NO_LABEL for token in tokens]
    return ([NO_LABEL] * delay + answers)[: len(tokens)]


def cheat(carried: list[int]) -> list[int]:
    """Reads the next token, which carries the answer."""
    return [token or NO_LABEL for token in carried[1:]] + [NO_LABEL]


@pytest.mark.parametrize("options", [{}, {"pairs": 4, "queries": 3}, {"pairs": 16, "queries": 12}])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_follow_from_what_may_be_seen(options: dict, split) -> None:
    for row in rows(make(NS, **options), split):
        assert solve_masked(row["tokens"], row["carried"]) == row["labels"]
    for row in rows(make(CS, **options), split):
        assert solve_causal(row["tokens"]) == row["labels"]
    for row in rows(make(NC, **options), split):
        assert look_up(row["tokens"], row["memory"], 0) == row["labels"]
    for delay in (0, 16, 40):
        for row in rows(make(CC, delay=delay, **options), split):
            assert look_up(row["tokens"], row["memory"], delay) == row["labels"]


@pytest.mark.parametrize("pattern", Pattern)
def test_shape_of_examples(pattern: Pattern) -> None:
    task = make(pattern, pairs=6, queries=9)
    for row in rows(task):
        labels = [label for label in row["labels"] if label != NO_LABEL]
        assert len(labels) == (6 if pattern is CC else 9)
        assert all(label in VALUES for label in labels)
        if pattern is NS:
            assert {v for v in row["carried"] if v} - {1} <= set(VALUES)
        elif pattern.cross:
            asked = {t for t in row["tokens"] if t}
            keys = [key for key, _ in row["memory"]]
            assert len(keys) == 24
            assert all(keys.count(key) == 1 for key in asked)  # distractors never answer
            assert not any(t in VALUES for t in row["tokens"])
        else:
            assert sum(t in VALUES for t in row["tokens"]) <= 6


def test_masked_items_lie_on_both_sides() -> None:
    left = right = 0
    for row in rows(make(NS)):
        full = {k: t for t, (k, v) in enumerate(zip(row["tokens"], row["carried"], strict=True)) if v in VALUES}
        assert len(full) <= 8
        for t, value in enumerate(row["carried"]):
            if value == 1:
                left, right = left + (full[row["tokens"][t]] < t), right + (full[row["tokens"][t]] > t)
    assert 0.4 < left / (left + right) < 0.6


@pytest.mark.parametrize("pattern", [NS, CS])
def test_training_mixes_numbers_of_pairs_and_tests_do_not(pattern: Pattern) -> None:
    task = make(pattern)
    seen = {}
    for split in ("train", "test"):
        held = [row["carried" if pattern is NS else "tokens"] for row in rows(task, split, 1000)]
        seen[split] = [sum(value in VALUES for value in row) for row in held]
    assert set(seen["test"]) == {8}
    assert set(seen["train"]) == set(range(1, 9))
    assert min(seen["train"].count(pairs) for pairs in range(1, 9)) > 60


def test_a_leak_of_later_queries_solves_causal_cross_and_no_memory_does_not() -> None:
    task = make(CC)
    cheated = solved = count = 0
    for row in rows(task, count=1000):
        if row["labels"][-1] == NO_LABEL:  # the answer to the last token is carried by none
            assert cheat(row["carried"]) == row["labels"]
        # Without memory: everything up to t, the queries and the answers that were carried, is known. A query that was
        # answered before would be solved by it.
        answered: dict[int, int] = {}
        for t, label in enumerate(row["labels"]):
            if t >= 17 and row["carried"][t]:
                answered[row["tokens"][t - 17]] = row["carried"][t]
            if label != NO_LABEL:
                count += 1
                cheated += t + 1 < 64 and row["carried"][t + 1] == label
                solved += answered.get(row["tokens"][t - 16], 33) == label
                assert label not in row["carried"][t : t + 1] or row["carried"][t] != 0
    assert cheated / count > 0.97
    assert solved / count < 0.06  # chance is 1/31


def test_carried_is_the_answer_before() -> None:
    for row in rows(make(CC)):
        before = [0, *(0 if label == NO_LABEL else label for label in row["labels"][:-1])]
        assert row["carried"] == before


@pytest.mark.parametrize("pattern", [CC, NC])
def test_values_say_nothing_about_each_other(pattern: Pattern) -> None:
    """A value may appear twice, so that earlier answers rule nothing out."""
    repeats = sum(len(set(ls)) < len(ls) for ls in ([x for x in r["labels"] if x > 0] for r in rows(make(pattern))))
    assert repeats > 100


@pytest.mark.parametrize("pattern", Pattern)
def test_distance_is_where_the_answer_is(pattern: Pattern) -> None:
    for row in rows(make(pattern), count=100):
        tokens = row["tokens"]
        for t, label in enumerate(row["labels"]):
            distance = row["distance"][t]
            if label == NO_LABEL:
                assert distance == NO_LABEL
            elif pattern.cross:
                key = tokens[t - 16 if pattern is CC else t]
                assert row["memory"][distance] == [key, label]
            elif pattern is CS:
                assert tokens[t - distance - 1 : t - distance + 1] == [tokens[t], label]
            else:
                places = [p for p in (t - distance, t + distance) if 0 <= p < 64]
                assert (tokens[t], label) in [(tokens[p], row["carried"][p]) for p in places]


@pytest.mark.parametrize("pattern", Pattern)
def test_ids_are_pure_and_fresh(pattern: Pattern) -> None:
    one, two, other = make(pattern), make(pattern), make(pattern, seed=1)
    ids = [5, BLOCK + 7, 2, 9 * BLOCK, BLOCK - 1, 6]
    expected = one.batch("train", ids)
    for block in range(12):
        two.batch("train", [block * BLOCK])  # fills and empties what is kept
    for name, tensor in two.batch("train", ids).items():
        assert torch.equal(tensor, expected[name])
        assert torch.equal(tensor, torch.cat([two.batch("train", [i])[name] for i in ids]))
    first = one.batch("train", range(2 * BLOCK))["tokens"]
    assert len(np.unique(first.numpy(), axis=0)) == 2 * BLOCK
    assert not torch.equal(other.batch("train", ids)["tokens"], expected["tokens"])
    for split in ("validation", "test"):
        count = one.examples(split)
        assert torch.equal(one.batch(split, range(count))["labels"], other.batch(split, range(count))["labels"])


def test_splits_do_not_meet() -> None:
    for seed in (0, 1):
        task = make(CS, seed=seed)
        seen = {
            split: {tuple(row) for row in task.batch(split, range(count))["tokens"].tolist()}
            for split, count in (("train", 4 * BLOCK), ("validation", 256), ("test", 1024))
        }
        assert not seen["train"] & (seen["test"] | seen["validation"])
        assert not seen["test"] & seen["validation"]


class Oracle(nn.Module):
    """Solves the self patterns from the tokens, or is right for some ids only."""

    def __init__(self, solver, good=lambda token: True) -> None:
        super().__init__()
        self.solver, self.good = solver, good

    def forward(self, tokens: Tensor, memory: Tensor | None, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(*tokens.shape, 64)
        for b, row in enumerate(tokens.tolist()):
            for t, answer in enumerate(self.solver(row)):
                if answer != NO_LABEL and self.good(row[t]):
                    logits[b, t, answer] = 50.0
        return logits, no_loss(tokens)


def test_evaluate_counts_answers() -> None:
    task = make(CS, test_examples=40, table_examples=8)
    perfect = task.evaluate(Oracle(solve_causal), "test", lambda batch: batch)
    assert perfect.metrics["accuracy"] == 1
    assert perfect.metrics["loss"] == pytest.approx(0, abs=1e-6)
    half = task.evaluate(Oracle(solve_causal, lambda token: token % 2), "test", lambda batch: batch)
    tokens, labels = (task.batch("test", range(40))[name] for name in ("tokens", "labels"))
    expected = (tokens[labels != NO_LABEL] % 2).double().mean().item()
    assert half.metrics["accuracy"] == pytest.approx(expected)
    assert half.metrics["loss"] == pytest.approx((1 - expected) * math.log(64), rel=1e-4)

    by_distance = half.tables["accuracy_by_distance"]
    assert sum(int(row["answers"]) for row in by_distance) == 40 * 24
    mean = sum(int(row["answers"]) * float(row["accuracy"]) for row in by_distance) / (40 * 24)
    assert mean == pytest.approx(expected)
    assert [row["pairs"] for row in half.tables["accuracy_by_pairs"]] == [4, 8, 16]
    assert [row["length"] for row in half.tables["accuracy_by_length"]] == [64, 128, 256]


@pytest.mark.parametrize("pattern", [NC, CC])
def test_tables_of_cross_patterns(pattern: Pattern) -> None:
    task = make(pattern, test_examples=40, table_examples=8)
    model = task.build(Slots(partial(Vanilla), pattern)).eval()
    with torch.no_grad():
        tables = task.evaluate(model, "test", lambda batch: batch).tables
    assert [(row["from"], row["to"]) for row in tables["accuracy_by_item"]] == [(0, 6), (6, 12), (12, 18), (18, 24)]
    assert [row["memory"] for row in tables["accuracy_by_length"]] == [24, 48, 96]
    assert [row["pairs"] for row in tables["accuracy_by_pairs"]] == [4, 8, 16]


def test_predictor_is_the_best_constant() -> None:
    task = make(CS)
    labels = task.batch("test", range(task.examples("test")))["labels"]
    answers = labels[labels != NO_LABEL]
    (constant,) = task.predictors()
    assert constant.metrics["accuracy"] == max((answers == v).double().mean().item() for v in VALUES)
    assert constant.metrics["chance"] == 1 / 31
    assert constant.metrics["loss"] == pytest.approx(math.log(31))


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("family", [Vanilla, NoAttention])
def test_loss_and_the_slot_that_is_filled(pattern: Pattern, family) -> None:
    task = make(pattern)
    slots = Slots(partial(family), pattern)
    model = task.build(slots)
    assert slots.took == [{NS: "encoder.self", CS: "decoder.self"}.get(pattern, "decoder.cross")]
    batch = task.batch("train", range(3))
    assert task.targets(batch) == 3 * (8 if pattern is CC else 24)
    loss, auxiliary = task.loss(model, batch)
    loss.backward()
    assert 0.8 * math.log(64) < loss.item() / task.targets(batch) < 1.5 * math.log(64)
    assert auxiliary == 0


def test_memory_is_read_whole_and_order_does_not_matter() -> None:
    task = make(CC)
    model = task.build(Slots(partial(Vanilla), CC)).eval()
    batch = task.batch("test", range(2))
    with torch.no_grad():
        logits, _ = model(batch["tokens"], batch["memory"], batch["carried"])
        turned, _ = model(batch["tokens"], batch["memory"].flip(1), batch["carried"])
        torch.testing.assert_close(logits, turned)
        other = batch["memory"].clone()
        other[:, -1, 1] = (other[:, -1, 1] - 32) % 31 + 33
        assert not torch.allclose(logits, model(batch["tokens"], other, batch["carried"])[0])


def test_source_tells_different_generators_apart() -> None:
    sources = [make(CS), make(CS, seed=3), make(CS, pairs=4), make(NS)]
    contents = [task.prepare().content for task in sources]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3
    assert not sources[0].prepare().real


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        (CS, {"pairs": 40}, "pairs=40: vocabulary=64 has 31 keys: use fewer pairs"),
        (CS, {"length": 20}, "length=20 is too short for pairs=8, queries=24 in causal_self: use at least 40"),
        (NS, {"length": 30}, "length=30 is too short for pairs=8, queries=24 in noncausal_self: use at least 32"),
        (CC, {"length": 20}, "length=20 is too short for pairs=8, queries=8 in causal_cross: use at least 24"),
        (NC, {"memory": 4}, "memory=4 holds no 8 pairs: use at least model.memory=8"),
    ],
)
def test_impossible_sizes(pattern: Pattern, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pattern, **options)


def test_data_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match=r"data.source=local: recall is synthetic: use data.source=embedded"):
        Recall(TaskContext(CS, Shape(16, 2, 2, 16, 64), Data("local", "/x"), 0, Path()), Options())
