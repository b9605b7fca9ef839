"""Recall: labels by solvers written without the generator's code, examples pure, gaps of a power law, metrics right."""

import math
from collections import Counter
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
from tasks.recall import GROUP, Options, Recall

NS, CS, NC, CC = Pattern
FILLERS, KEYS, VALUES = range(2, 10), range(10, 37), range(37, 64)  # of a vocabulary of 64: 0 nothing, 1 mask
NOTHING, MASK, NO_LABEL = 0, 1, -100
SETTINGS = [[32, 2], [64, 8], [48, 4]]


def make(pattern: Pattern, seed: int = 0, memory: int = 24, length: int = 64, **options) -> Recall:
    options = {"vocabulary": 64, "settings": SETTINGS, "pairs": [4, 8, 16], "lengths": [128, 32]} | options
    task = Recall(TaskContext(pattern, Shape(16, 2, 2, 16, length, memory), Data(), seed, Path()), Options(**options))
    task.prepare()
    return task


def rows(task: Recall, split="train", count: int = 9 * GROUP):
    """The first examples as lists, without their padding."""
    batch = task.batch(split, range(count))
    valid, memory_valid = batch.pop("valid", None), batch.pop("memory_valid", None)
    for i in range(count):
        kept = slice(None) if valid is None else valid[i]
        held = slice(None) if memory_valid is None else memory_valid[i]
        yield {name: tensor[i][held if name == "memory" else kept].tolist() for name, tensor in batch.items()}


def every_row(pattern: Pattern, **options):
    """Examples of every setting, also of those that are in the tables alone."""
    task = make(pattern, test_examples=20, **options)
    for split, count in (("train", 9 * GROUP), ("test", task.examples("test"))):
        yield from rows(task, split, count)


# Solvers: what may be known at each place, in plain Python


def when_due(asked: list[int | None], known: dict[int, int], delay: int) -> list[int]:
    """Answers to the keys asked, at the second time of each, `delay` tokens after the first; without delay at once."""
    first: dict[int, int] = {}
    answers = []
    for t, key in enumerate(asked):
        due = key is not None and (delay == 0 or key in first)
        answers.append(known[key] if due else NO_LABEL)
        if due and delay:
            assert t - first.pop(key) == delay
        elif key is not None:
            first[key] = t
    assert not delay or not first, "a query has no answer"
    return answers


def solve_masked(row: dict) -> list[int]:
    items = list(zip(row["tokens"], row["carried"], strict=True))
    known = {key: value for key, value in items if value in VALUES}
    return [known[key] if value == MASK else NO_LABEL for key, value in items]


def solve_causal(tokens: list[int], delay: int = 0) -> list[int]:
    """Reads from left to right and never looks ahead."""
    known: dict[int, int] = {}
    asked, before = [], NOTHING
    for token in tokens:
        if token in VALUES:
            assert before not in known
            known[before] = token
        asked.append(token if token in known else None)
        before = token
    return when_due(asked, known, delay)


def look_up(row: dict, delay: int = 0) -> list[int]:
    known = dict(map(tuple, row["memory"]))
    return when_due([None if token in FILLERS else token for token in row["tokens"]], known, delay)


def test_labels_follow_from_what_may_be_seen() -> None:
    for row in every_row(NS):
        assert solve_masked(row) == row["labels"]
    for row in every_row(NC):
        assert look_up(row) == row["labels"]
    for delay in (0, 5, 16):
        for row in every_row(CS, delay=delay):
            assert solve_causal(row["tokens"], delay) == row["labels"]
        for row in every_row(CC, delay=delay):
            assert look_up(row, delay) == row["labels"]


@pytest.mark.parametrize("pattern", Pattern)
def test_settings_take_turns_in_training(pattern: Pattern) -> None:
    task = make(pattern)
    for i, row in enumerate(rows(task)):
        length, pairs = SETTINGS[i // GROUP % 3]
        assert len(row["tokens"]) == length
        assert sum(label != NO_LABEL for label in row["labels"]) == pairs
        assert len(row.get("memory", [])) == {NC: 3 * pairs, CC: 3 * pairs}.get(pattern, 0)  # 24 with the most pairs


@pytest.mark.parametrize("pattern", Pattern)
def test_fillers_are_neither_keys_nor_values(pattern: Pattern) -> None:
    """Each key is there once beside its value and once as a query, after a delay once more; no other token could be
    taken for either."""
    for row in every_row(pattern):
        pairs = sum(label != NO_LABEL for label in row["labels"])
        kinds = Counter("key" if t in KEYS else "value" if t in VALUES else "filler" for t in row["tokens"])
        keys = Counter(t for t in row["tokens"] if t in KEYS)
        assert kinds["key"] == pairs * (1 if pattern is NC else 2)
        assert len(keys) == pairs
        assert kinds["value"] == (pairs if pattern is CS else 0)
        fillers = [t for t in row["tokens"] if t not in KEYS and t not in VALUES]
        assert set(fillers) <= set(FILLERS)
        assert len(fillers) < 16 or len(set(fillers)) > 1
        if pattern.cross:
            held = Counter(key for key, _ in row["memory"])
            assert all(held[key] == 1 for key in keys)  # distractors never answer
            assert set(held) <= set(KEYS)
        if pattern is NS:
            carried = {t: c for t, c in enumerate(row["carried"]) if c != NOTHING}
            assert all(row["tokens"][t] in KEYS for t in carried)
            assert Counter(carried.values())[MASK] == pairs


@pytest.mark.parametrize("pattern", Pattern)
def test_distance_is_where_the_answer_is(pattern: Pattern) -> None:
    delay = 16 if pattern is CC else 3 if pattern is CS else 0
    for row in rows(make(pattern, **({"delay": delay} if pattern.causal else {}))):
        tokens = row["tokens"]
        for t, label in enumerate(row["labels"]):
            distance = row["distance"][t]
            if label == NO_LABEL:
                assert distance == NO_LABEL
            elif pattern.cross:
                assert row["memory"][distance] == [tokens[t - delay], label]
            elif pattern is CS:
                assert tokens[t - distance - 1 : t - distance + 1] == [tokens[t - delay], label]
            else:
                places = [p for p in (t - distance, t + distance) if 0 <= p < len(tokens)]
                assert (tokens[t], label) in [(tokens[p], row["carried"][p]) for p in places]


# Gaps


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """In standard deviations from its mean."""
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def query_places(pattern: Pattern, pairs: int, count: int, **options) -> np.ndarray:
    """(count, pairs) places of queries in 64 tokens, the first pair's first, and in noncausal_self those of pairs."""
    task = make(pattern, settings=[[64, pairs]], pairs=[pairs], test_examples=count, **options)
    found = []
    for row in rows(task, "test", count):
        where: dict[int, list[int]] = {}
        for t, token in enumerate(row["tokens"]):
            if token in KEYS:
                where.setdefault(token, []).append(t)
        if pattern is NS:
            assert pairs == 1
            found.append(sorted(*where.values(), key=lambda t: row["carried"][t] == MASK))
        else:
            found.append([last for _, last in where.values()])
    return np.array(found)


@pytest.mark.parametrize("power", [0.01, 0.6, 1.0])
def test_gaps_of_one_query_follow_the_power_law(power: float) -> None:
    gaps = query_places(CS, 1, 5000, gap_power=power)[:, 0] - 1  # the pair ends at place 1
    law = np.array([gap ** (power - 1) for gap in range(1, 63)])
    assert abs(chi_square(np.bincount(gaps, minlength=63)[1:], 5000 * law / law.sum())) < 4


def test_gaps_of_several_queries_are_drawn_without_replacement() -> None:
    places = query_places(CS, 8, 3000)
    law = np.array([gap ** (0.01 - 1) for gap in range(1, 49)])
    rng = np.random.default_rng(0)
    drawn = np.array([rng.choice(48, 8, replace=False, p=law / law.sum()) for _ in range(3000)])
    ours, theirs = (np.bincount(x.ravel(), minlength=48) / 3000 for x in (places - 16, drawn))
    spread = np.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / 3000)
    assert np.abs((ours - theirs) / spread).max() < 4.5
    assert (np.abs(places.mean(0) - places.mean()) < 1.5).all()  # the first pair is asked no earlier than the last


def test_gaps_in_noncausal_self_go_both_ways() -> None:
    complete, masked = query_places(NS, 1, 5000).T
    assert 0.48 < (masked > complete).mean() < 0.52
    expected = np.zeros(64)
    for anchor in complete:
        law = np.array([0 if t == anchor else abs(t - anchor) ** (0.01 - 1) for t in range(64)])
        expected += np.bincount(np.abs(np.arange(64) - anchor), law / law.sum(), 64)
    counts = np.bincount(np.abs(masked - complete), minlength=64)
    assert (
        abs(chi_square(np.append(counts[1:40], counts[40:].sum()), np.append(expected[1:40], expected[40:].sum()))) < 4
    )


@pytest.mark.parametrize("pattern", [NC, CC])
def test_places_in_cross_patterns_are_uniform(pattern: Pattern) -> None:
    delay = {"delay": 4} if pattern.causal else {}
    task = make(pattern, settings=[[64, 8]], pairs=[8], test_examples=3000, **delay)
    places = task.batch("test", range(3000))["labels"].ne(NO_LABEL).sum(0).numpy()
    if pattern is CC:  # queries and answers take turns
        queries, answers = places.reshape(8, 2, 4).transpose(1, 0, 2).reshape(2, 32)
        assert not queries.any()
        places = answers
    assert abs(chi_square(places, np.full(len(places), 3000 * 8 / len(places)))) < 4


# causal_cross


def test_a_leak_of_later_queries_solves_causal_cross_and_no_memory_does_not() -> None:
    cheated = solved = count = 0
    for row in rows(make(CC, settings=[[64, 8]])):
        # Without memory: everything up to t, the queries and the answers that were carried, is known. A query that was
        # answered before would be solved by it.
        answered: dict[int, int] = {}
        for t, label in enumerate(row["labels"]):
            assert row["carried"][t] == (max(NOTHING, row["labels"][t - 1]) if t else NOTHING)
            if row["carried"][t]:
                answered[row["tokens"][t - 17]] = row["carried"][t]
            if label != NO_LABEL:
                count += 1
                cheated += t + 1 < 64 and row["carried"][t + 1] == label
                solved += answered.get(row["tokens"][t - 16], VALUES[0]) == label
    assert cheated / count > 0.97
    assert solved / count < 0.06  # chance is 1/27


@pytest.mark.parametrize("pattern", [CC, NC])
def test_values_say_nothing_about_each_other(pattern: Pattern) -> None:
    """A value may appear twice, so that earlier answers rule nothing out."""
    repeats = sum(len(set(ls)) < len(ls) for ls in ([x for x in r["labels"] if x > 0] for r in rows(make(pattern))))
    assert repeats > 60


# Ids, splits and padding


@pytest.mark.parametrize("pattern", Pattern)
def test_an_example_depends_on_its_id_alone(pattern: Pattern) -> None:
    one, two, other = make(pattern), make(pattern), make(pattern, seed=1)
    every = list(rows(one, count=9 * GROUP))
    ids = [5, GROUP + 7, 2, 8 * GROUP, GROUP - 1, 6]
    for group in range(12):
        two.batch("train", [group * GROUP])  # fills and empties what is kept
    mixed = two.batch("train", ids)
    for place, i in enumerate(ids):
        alone = two.batch("train", [i])
        assert not {"valid", "memory_valid"} & alone.keys()
        for name, tensor in alone.items():
            assert tensor[0].tolist() == every[i][name]
            padded = mixed[name][place]
            assert torch.equal(padded[: tensor.shape[1]], tensor[0])
            filler = NO_LABEL if name in ("labels", "distance") else NOTHING
            assert (padded[tensor.shape[1] :] == filler).all()
        assert mixed["valid"][place].sum() == alone["tokens"].shape[1]
    assert list(rows(other)) != every
    for split in ("validation", "test"):
        count = one.examples(split)
        assert torch.equal(one.batch(split, range(count))["labels"], other.batch(split, range(count))["labels"])


def test_every_example_is_another_one() -> None:
    for seed in (0, 1):
        task = make(CS, seed=seed, settings=[[64, 8]])
        seen = {
            split: {tuple(row["tokens"]) for row in rows(task, split, count)}
            for split, count in (("train", 3000), ("validation", 48), ("test", 256))
        }
        assert [len(tokens) for tokens in seen.values()] == [3000, 48, 256]
        assert len(set().union(*seen.values())) == 3304


@pytest.mark.parametrize("pattern", Pattern)
def test_a_batch_of_several_lengths_is_the_sum_of_its_examples(pattern: Pattern) -> None:
    """Exact with micro-batches and in several processes: padding changes nothing."""
    task = make(pattern)
    model = task.build(Slots(partial(Vanilla), pattern))
    ids = [0, 1, GROUP, 2 * GROUP, 2 * GROUP + 1]
    together = task.batch("train", ids)
    alone = [task.batch("train", [i]) for i in ids]
    assert task.targets(together) == sum(task.targets(batch) for batch in alone) == 2 + 2 + 8 + 4 + 4
    losses = [task.loss(model, batch)[0] for batch in alone]
    torch.testing.assert_close(task.loss(model, together)[0], torch.stack(losses).sum())
    logits = torch.cat([task.logits(model, batch)[0] for batch in alone])
    assert logits.shape == (20, 64)  # the head runs where an answer is due
    torch.testing.assert_close(task.logits(model, together)[0], logits)


# Metrics and tables


class Oracle(nn.Module):
    """Solves causal_self from the tokens where `good` says so."""

    def __init__(self, good=lambda tokens, t: True) -> None:
        super().__init__()
        self.good = good

    def forward(self, tokens: Tensor, asked: Tensor, *_) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(*tokens.shape, 64)
        for b, row in enumerate(tokens.tolist()):
            for t, answer in enumerate(solve_causal(row)):
                if answer != NO_LABEL and self.good(row, t):
                    logits[b, t, answer] = 50.0
        return logits[asked], no_loss(tokens)


def test_the_headline_is_the_mean_over_numbers_of_pairs_at_the_design_length() -> None:
    task = make(CS, test_examples=40)
    perfect = task.evaluate(Oracle(), "test", lambda batch: batch)
    assert perfect.metrics["accuracy"] == 1
    assert perfect.metrics["loss"] == pytest.approx(0, abs=1e-6)

    half = task.evaluate(Oracle(lambda tokens, t: tokens[t] % 2), "test", lambda batch: batch)
    settings = [(64, 4), (64, 8), (64, 16), (128, 4), (128, 8), (128, 16), (32, 4), (32, 8)]
    assert [(row["length"], row["pairs"]) for row in half.tables["accuracy_by_setting"]] == settings
    expected = []
    for number, row in enumerate(half.tables["accuracy_by_setting"]):
        batch = task.batch("test", range(number * 40, (number + 1) * 40))
        assert batch["tokens"].shape == (40, row["length"])
        assert row["answers"] == 40 * row["pairs"]
        expected.append((batch["tokens"][batch["labels"] != NO_LABEL] % 2).double().mean().item())
        assert row["accuracy"] == pytest.approx(expected[-1])
        assert row["trained"] == ((row["length"], row["pairs"]) == (64, 8))
    headline = sum(expected[:3]) / 3
    assert half.metrics["accuracy"] == pytest.approx(headline)
    assert half.metrics["loss"] == pytest.approx((1 - headline) * math.log(64), rel=1e-4)


def test_tables_are_slices_and_distances() -> None:
    task = make(CS, test_examples=40)
    near = Oracle(lambda tokens, t: t - tokens.index(tokens[t]) - 1 < 16)
    tables = task.evaluate(near, "test", lambda batch: batch).tables
    for row in tables["accuracy_by_distance"]:
        assert row["accuracy"] == (row["to"] <= 16)
    assert sum(row["answers"] for row in tables["accuracy_by_distance"]) == 40 * (4 + 8 + 16)
    every = {(row["length"], row["pairs"]): row["accuracy"] for row in tables["accuracy_by_setting"]}
    by_pairs = [(row["pairs"], row["accuracy"]) for row in tables["accuracy_by_pairs"]]
    by_length = [(row["length"], row["accuracy"]) for row in tables["accuracy_by_length"]]
    assert by_pairs == [(pairs, every[64, pairs]) for pairs in (4, 8, 16)]
    assert by_length == [(length, every[length, 8]) for length in (32, 64, 128)]


@pytest.mark.parametrize("pattern", [NC, CC])
def test_tables_of_cross_patterns(pattern: Pattern) -> None:
    task = make(pattern, test_examples=40)
    model = task.build(Slots(partial(Vanilla), pattern)).eval()
    with torch.no_grad():
        tables = task.evaluate(model, "test", lambda batch: batch).tables
    quarters = [(row["from"], row["to"]) for row in tables["accuracy_by_item"]]
    assert quarters == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    memory = [(row["pairs"], row["memory"]) for row in tables["accuracy_by_setting"]]
    assert set(memory) == {(4, 12), (8, 24), (16, 48)}  # 24 with the 8 pairs of the training


def test_validation_is_the_headline_alone() -> None:
    task = make(CS, validation_examples=5)
    assert task.examples("validation") == 15
    tables = task.evaluate(Oracle(), "validation", lambda batch: batch).tables
    assert tables["accuracy_by_pairs"] == [
        {k: v for k, v in row.items() if k != "length"} for row in tables["accuracy_by_setting"]
    ]


def test_predictor_is_the_best_constant() -> None:
    task = make(CS, test_examples=100)
    shares = torch.zeros(64)
    for number in range(3):
        labels = task.batch("test", range(number * 100, (number + 1) * 100))["labels"]
        shares += torch.tensor([(labels == value).sum() / (labels != NO_LABEL).sum() for value in range(64)]) / 3
    [constant] = task.predictors()
    assert constant.metrics["accuracy"] == pytest.approx(shares.max().item())
    assert constant.metrics["chance"] == 1 / 27
    assert constant.metrics["loss"] == pytest.approx(math.log(27))


# The network


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("family", [Vanilla, NoAttention])
def test_loss_and_the_slot_that_is_filled(pattern: Pattern, family) -> None:
    task = make(pattern)
    slots = Slots(partial(family), pattern)
    model = task.build(slots)
    assert slots.took == [{NS: "encoder.self", CS: "decoder.self"}.get(pattern, "decoder.cross")]
    batch = task.batch("train", range(GROUP, GROUP + 3))
    assert task.targets(batch) == 3 * 8
    loss, auxiliary = task.loss(model, batch)
    loss.backward()
    assert 0.8 * math.log(64) < loss.item() / task.targets(batch) < 1.5 * math.log(64)
    assert auxiliary == 0


def test_memory_is_read_whole_and_order_does_not_matter() -> None:
    task = make(CC)
    model = task.build(Slots(partial(Vanilla), CC)).eval()
    batch = task.batch("test", range(2))
    with torch.no_grad():
        logits, _ = task.logits(model, batch)
        turned, _ = task.logits(model, batch | {"memory": batch["memory"].flip(1)})
        torch.testing.assert_close(logits, turned)
        other = batch["memory"].clone()
        other[:, -1, 1] = (other[:, -1, 1] - 36) % 27 + 37
        assert not torch.allclose(logits, task.logits(model, batch | {"memory": other})[0])


# Options


def test_source_tells_different_generators_apart() -> None:
    sources = [make(CS), make(CS, seed=3), make(CS, gap_power=1.0), make(CS, settings=[[64, 8]]), make(NS)]
    contents = [task.prepare().content for task in sources]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 4
    assert not sources[0].prepare().real


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        (CS, {"settings": [[128, 40]], "length": 128}, "pairs=40: vocabulary=64 has 27 keys: use fewer pairs"),
        (CS, {"settings": [[64, 8], [64, 22]]}, "length=64 is too short for pairs=22 in causal_self: use at least 66"),
        (CS, {"delay": 41}, "length=64 is too short for pairs=8, delay=41 in causal_self: use at least 65"),
        (
            NS,
            {"settings": [[20, 11], [64, 4]]},
            "length=20 is too short for pairs=11 in noncausal_self: use at least 22",
        ),
        (CC, {"delay": 57}, "length=64 is too short for pairs=8, delay=57 in causal_cross: use at least 65"),
        (NC, {"memory": 7}, "memory=7 holds no 8 pairs: use at least model.memory=8"),
        (CS, {"pairs": [40]}, r"pairs=\[40\]: none fit in model.length=64: use fewer"),
        (CS, {"length": 128}, "settings: the longest has 64 tokens: set model.length=64"),
    ],
)
def test_impossible_sizes(pattern: Pattern, options: dict, message: str) -> None:
    if "delay" in options:
        options = options | {"settings": [[64, 8]]}
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(pattern, **options)


def test_delays_where_none_is_given() -> None:
    for pattern, delay in ((NS, 0), (CS, 0), (NC, 0), (CC, 16)):
        assert {sizes.delay for sizes in make(pattern).mixture} == {delay}
        for given in (0, 3):
            if not pattern.causal:
                with pytest.raises(ValueError, match=f"task.delay={given}: has no effect in {pattern}: leave it out"):
                    make(pattern, delay=given)
                continue
            task = make(pattern, delay=given)
            assert {sizes.delay for sizes in task.mixture + task.tested} == {given}


def test_learned_positions_are_not_tested_beyond_their_table() -> None:
    assert max(sizes.length for sizes in make(CS).tested) == 128
    assert max(sizes.length for sizes in make(CS, positions="learned").tested) == 64


def test_data_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match=r"data.source=local: recall is synthetic: use data.source=embedded"):
        Recall(TaskContext(CS, Shape(16, 2, 2, 16, 64), Data("local", "/x"), 0, Path()), Options())
