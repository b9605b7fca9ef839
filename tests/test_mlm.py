"""Masked language modelling: what is hidden is a pure function of ids, the model does not see it, scores are exact."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lm import WORDS
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from attentions.none import NoAttention
from attentions.slots import Family, Slots
from attentions.vanilla import Vanilla
from tasks.base import Data, TaskContext
from tasks.common.text_predictors import neighbour_probabilities
from tasks.mlm import NEIGHBOURS, MaskedLanguageModelling, Options

NS = Pattern.NONCAUSAL_SELF


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, split in enumerate(["train", "validation", "test"]):
        rng = np.random.default_rng(number)
        (tmp_path / split).mkdir()
        text = " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), 900))
        (tmp_path / split / "text.txt").write_text(text, encoding="utf-8")
    return tmp_path


def make(folder: Path, length: int = 40, seed: int = 0, **options) -> MaskedLanguageModelling:
    shape = Shape(dim=8, heads=2, depth=1, hidden=8, length=length)
    context = TaskContext(NS, shape, Data("local", str(folder)), seed, folder / "cache")
    task = MaskedLanguageModelling(context, Options(**options))
    task.prepare()
    return task


class Constant(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(*places.shape, -1), no_loss(self.logits)


def test_examples_are_a_pure_function_of_ids(folder: Path) -> None:
    one, two, other = make(folder), make(folder), make(folder, seed=1)
    ids = [7, 3, 1000, 8]
    expected = one.batch("train", ids)
    two.batch("train", range(50))
    for name, value in expected.items():
        assert torch.equal(two.batch("train", ids)[name], value)
        assert torch.equal(torch.cat([two.batch("train", [i])[name] for i in ids]), value)
    assert not torch.equal(other.batch("train", ids)["places"], expected["places"])
    for split in ("validation", "test"):
        same, as_well = one.batch(split, ids[:2]), other.batch(split, ids[:2])
        assert all(torch.equal(same[name], as_well[name]) for name in same)


def test_the_same_window_is_masked_anew_in_every_epoch(folder: Path) -> None:
    task = make(folder, length=3000)  # two windows
    first, second = (task.batch("train", [i])["places"] for i in (0, task.examples("train")))
    assert not torch.equal(first, second)


def test_what_is_hidden(folder: Path) -> None:
    task = make(folder, length=200, test_windows=1000)
    batch = task.batch("train", range(200))
    tokens, places, labels = batch["tokens"], batch["places"], batch["labels"]
    assert places.shape == (200, 30)
    assert (places.diff(dim=1) > 0).all()
    seen = tokens.gather(1, places)
    assert ((seen == task.mask).double().mean() - 0.8).abs() < 0.03
    assert ((seen == labels).double().mean() - 0.1).abs() < 0.03
    rest = tokens.scatter(1, places, labels)
    text = task.tokens.decode(task.tokens.streams["train"])
    assert all(task.tokens.decode(row.numpy()) in text for row in rest)
    assert (tokens != rest).double().mean() == pytest.approx(0.15 * 0.9, abs=0.01)


def test_the_model_has_no_other_way_to_know_a_hidden_token(folder: Path) -> None:
    """Where the mask stands, the answer changes nothing of the output."""
    task = make(folder)
    torch.manual_seed(0)
    model = task.build(Slots(Family(Vanilla), NS)).double()
    batch = task.batch("test", [0])
    hidden = batch["tokens"][0, batch["places"][0]] == task.mask
    logits, _ = model(batch["tokens"], batch["places"])
    assert logits.shape == (1, 6, 258)
    other = dict(batch, labels=(batch["labels"] + 1) % 257)
    assert torch.equal(model(other["tokens"], other["places"])[0], logits)
    assert hidden.any()
    visible = (set(range(40)) - set(batch["places"][0].tolist())).pop()
    changed = batch["tokens"].clone()
    changed[0, visible] = (changed[0, visible] + 1) % 257
    assert ((model(changed, batch["places"])[0] - logits).abs().amax(-1) > 1e-9).all()  # both directions count
    silent = task.build(Slots(Family(NoAttention), NS)).double()
    assert torch.equal(silent(changed, batch["places"])[0], silent(batch["tokens"], batch["places"])[0])


def test_scores_by_hand(folder: Path) -> None:
    task = make(folder, test_windows=1000)
    logits = torch.linspace(-2, 3, 258)
    evaluation = task.evaluate(Constant(logits), "test", lambda batch: batch)
    labels = torch.cat([task.batch("test", [i])["labels"].flatten() for i in range(task.examples("test"))])
    nats = -logits.log_softmax(0)[labels].mean().item()
    assert evaluation.metrics["masked_perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert evaluation.metrics["masked_accuracy"] == 0
    logits = torch.nn.functional.one_hot(torch.tensor(ord("a")), 258).float()
    share = (labels == ord("a")).double().mean().item()
    found = task.evaluate(Constant(logits), "test", lambda batch: batch).metrics["masked_accuracy"]
    assert found == pytest.approx(share)
    assert found > 0
    batch = task.batch("train", range(4))
    loss, _ = task.loss(Constant(torch.zeros(258)), batch)
    assert loss.item() == pytest.approx(task.targets(batch) * math.log(258), rel=1e-5)


def test_unigram(folder: Path) -> None:
    task = make(folder, test_windows=5)
    counts = np.ones(257)
    np.add.at(counts, task.tokens.streams["train"], 1)
    labels = task.batch("test", range(5))["labels"].flatten().tolist()
    nats = -sum(math.log(counts[t] / counts.sum()) for t in labels) / len(labels)
    unigram = task.predictors()[0]
    assert unigram.metrics["masked_perplexity"] == pytest.approx(math.exp(nats))
    assert unigram.metrics["masked_accuracy"] == pytest.approx(labels.count(counts.argmax()) / len(labels))
    assert set(unigram.metrics) == {metric.name for metric in task.metrics}


def test_nearest_tokens(folder: Path) -> None:
    """A token that is shown in a place to predict counts as evidence, by Bayes' rule over all tokens."""
    task = make(folder, test_windows=5)
    batch = {name: value.numpy() for name, value in task.batch("test", range(5)).items()}
    tokens, places, labels = batch["tokens"], batch["places"], batch["labels"]
    train, shown = task.tokens.streams["train"], np.take_along_axis(tokens, places, 1)
    every = np.stack(
        [
            neighbour_probabilities(train, tokens, places, np.full(places.shape, token), 257, NEIGHBOURS)[-1]
            for token in range(257)
        ]
    )  # (V, B, K)
    right = shown == np.arange(257)[:, None, None]
    posterior = every * np.where(shown == task.mask, 1, 0.1 / 257 + 0.1 * right)
    posterior /= posterior.sum(0)
    expected = np.log(np.take_along_axis(posterior, labels[None], 0)).mean()
    unigram, nearest = task.predictors()
    assert nearest.name == "4 nearest tokens"
    assert nearest.metrics == {"masked_perplexity": pytest.approx(math.exp(-expected))}
    assert nearest.metrics["masked_perplexity"] < unigram.metrics["masked_perplexity"] / 2


def test_text_shorter_than_a_window(folder: Path) -> None:
    with pytest.raises(ValueError, match="length=100000: the train text has"):
        make(folder, length=100_000)
