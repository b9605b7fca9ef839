"""Language modelling: windows are a pure function of ids, nothing crosses splits, bits per byte is exact."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from tasks.base import Data, TaskContext
from tasks.common import windowed_text
from tasks.common.text_predictors import ngram_probabilities, xz_bits
from tasks.data.windows import Windows
from tasks.lm import LanguageModelling, Options, buckets
from tasks.metrics.repetition import repetition_lengths

WORDS = ["alpha", "bêta", "gamma", "δέλτα", "epsilon", "zeta", "été", "theta"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A little text; every split has its own letters in every word, so that a leak shows."""
    for number, (split, mark) in enumerate([("train", "a"), ("validation", "v"), ("test", "t")]):
        rng = np.random.default_rng(number)
        (tmp_path / split).mkdir()
        for file in range(3):
            text = " ".join(mark + WORDS[i] for i in rng.integers(0, len(WORDS), 150))
            (tmp_path / split / f"{file}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def make(folder: Path, length: int = 20, seed: int = 0, **options) -> LanguageModelling:
    shape = Shape(dim=8, heads=1, depth=1, hidden=8, length=length)
    data = Data("local", str(folder))
    task = LanguageModelling(TaskContext(Pattern.CAUSAL_SELF, shape, data, seed, folder / "cache"), Options(**options))
    task.prepare()
    return task


class Constant(nn.Module):
    """Gives every token the same log probabilities, everywhere."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(*tokens.shape, -1), no_loss(tokens)


def test_ids_are_pure(folder: Path) -> None:
    one, two = make(folder), make(folder)
    ids = [7, 3, 1000, 8]
    expected = one.batch("train", ids)["tokens"]
    for i in range(0, 3000, 50):
        two.batch("train", [i])  # other epochs in between
    torch.testing.assert_close(two.batch("train", ids)["tokens"], expected)
    torch.testing.assert_close(torch.cat([two.batch("train", [i])["tokens"] for i in ids]), expected)


def test_seeds_and_epochs_differ(folder: Path) -> None:
    task, other = make(folder), make(folder, seed=1)
    count = task.examples("train")
    first, second = (task.batch("train", range(e * count, (e + 1) * count))["tokens"] for e in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other.batch("train", range(count))["tokens"])
    for split in ("validation", "test"):
        ids = range(task.examples(split))
        assert torch.equal(task.batch(split, ids)["tokens"], other.batch(split, ids)["tokens"])


def test_a_vocabulary_that_the_text_does_not_give_is_refused(folder: Path) -> None:
    """Its ids would never occur, and the model would be another one for them."""
    with pytest.raises(
        ValueError, match=r"^task.vocabulary=5000: the train text gives \d+ tokens at most: use"
    ) as error:
        make(folder, vocabulary=5000)
    given = int(str(error.value).split("gives ")[1].split()[0])
    assert given > make(folder, vocabulary=257).tokens.size
    assert make(folder, vocabulary=given).tokens.size == given
    with pytest.raises(ValueError, match="at most"):
        make(folder, vocabulary=given + 1)


@pytest.mark.parametrize("vocabulary", [257, 300])
def test_evaluation_batches_are_bounded_by_their_logits(folder: Path, vocabulary: int, monkeypatch) -> None:
    task = make(folder, vocabulary=vocabulary)
    assert task.windows_at_once(20) == windowed_text.TOKENS_PER_BATCH // 20
    monkeypatch.setattr(windowed_text, "LOGITS_PER_BATCH", 3 * 20 * vocabulary + 1)
    assert [task.windows_at_once(length) for length in (20, 60, 90)] == [3, 1, 1]


def test_numbers_of_a_vocabulary(folder: Path) -> None:
    """Weights, gradients and both averages of a table of 8 features, and three for every logit of 2 windows of 20."""
    assert make(folder, vocabulary=300).vocabulary_numbers(2) == 4 * 300 * 8 + 3 * 2 * 20 * 300


@pytest.mark.parametrize("length", [3, 20, 500, 1500, 2500])
def test_an_epoch_sees_every_label_at_most_once(folder: Path, length: int) -> None:
    size = len(make(folder, length).tokens.streams["train"])
    windows = Windows({"train": np.arange(size)}, length + 1, length, {}, seed=0)  # a token is its position
    count = windows.examples("train")
    assert count * length >= size - 2 * length - 1  # little is left out
    for epoch in range(5):
        labels = windows("train", range(epoch * count, (epoch + 1) * count))[:, 1:]
        assert len(np.unique(labels)) == labels.size


def test_batch_is_the_text(folder: Path) -> None:
    task = make(folder)
    text = task.tokens.decode(task.tokens.streams["train"])
    for row in task.batch("train", range(50))["tokens"]:
        assert task.tokens.decode(row.numpy()) in text


def test_splits_do_not_meet(folder: Path) -> None:
    task = make(folder)
    texts = {split: task.tokens.decode(task.tokens.streams[split]) for split in ("train", "validation", "test")}
    for split, mark in (("validation", b" v"), ("test", b" t")):
        assert mark in texts[split]
        assert mark not in texts["train"]
        windows = task.batch(split, range(task.examples(split)))["tokens"]
        assert all(task.tokens.decode(row.numpy()) in texts[split] for row in windows)


@pytest.mark.parametrize("wanted", [1, 2, 7, 10_000])
def test_evaluation_windows_are_spread_and_disjoint(folder: Path, wanted: int) -> None:
    have = len(make(folder).tokens.streams["test"])
    windows = Windows({"test": np.arange(have)}, 21, 20, {"test": wanted}, seed=0)
    starts = windows("test", range(windows.examples("test")))[:, 0]
    assert len(starts) == min(wanted, have // 21)
    assert (np.diff(starts) >= 21).all()
    assert starts[-1] + 21 <= have
    if len(starts) > 1:
        assert (starts[0], starts[-1]) == (0, have - 21)


def test_bits_per_byte_by_hand(folder: Path) -> None:
    """A model that gives the token i the probability p_i costs -log2 p_i each, and the separator is no byte."""
    task = make(folder, test_windows=1000)
    logits = torch.linspace(-2, 3, 257)
    evaluation = task.evaluate(Constant(logits), "test", lambda batch: batch)
    labels = [t for i in range(task.examples("test")) for t in task.batch("test", [i])["tokens"][0, 1:].tolist()]
    total = math.log2(sum(math.exp(v) for v in logits.tolist()))
    bits = sum(total - logits[t].item() / math.log(2) for t in labels)
    size = sum(t < 256 for t in labels)
    assert size < len(labels)
    assert evaluation.metrics["bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)
    assert evaluation.metrics["perplexity"] == pytest.approx(2 ** (bits / len(labels)), rel=1e-5)
    rows = evaluation.tables["loss_by_position"]
    assert [(row["from"], row["to"]) for row in rows] == [(0, 1), (1, 4), (4, 16), (16, 20)]
    assert sum(int(row["tokens"]) for row in rows) == len(labels)


def test_bits_per_byte_compares_across_vocabularies(folder: Path) -> None:
    """A uniform model over BPE tokens: bits for the tokens, bytes of the text that they stand for."""
    task = make(folder, vocabulary=300)
    size = task.tokens.size
    evaluation = task.evaluate(Constant(torch.zeros(size)), "test", lambda batch: batch)
    windows = task.batch("test", range(task.examples("test")))["tokens"][:, 1:]
    text = sum(len(task.tokens.decode(row.numpy())) for row in windows)
    assert evaluation.metrics["bits_per_byte"] == pytest.approx(windows.numel() * math.log2(size) / text, rel=1e-5)
    assert evaluation.metrics["perplexity"] == pytest.approx(size, rel=1e-5)


def test_loss_is_the_sum_over_targets(folder: Path) -> None:
    task = make(folder)
    batch = task.batch("train", range(4))
    loss, auxiliary = task.loss(Constant(torch.zeros(257)), batch)
    assert task.targets(batch) == 4 * 20
    assert loss.item() == pytest.approx(80 * math.log(257), rel=1e-5)
    assert auxiliary == 0


def test_loss_is_for_the_next_token(folder: Path) -> None:
    """A model that knows the next token must score 0, one that repeats its input must not."""
    task = make(folder)
    batch = task.batch("test", range(2))

    class Shifted(nn.Module):
        def __init__(self, shift: int) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
            known = batch["tokens"][:, self.shift : self.shift + tokens.shape[1]]
            return 100.0 * nn.functional.one_hot(known, 257), no_loss(tokens)

    assert task.loss(Shifted(1), batch)[0] < 1e-3
    assert task.loss(Shifted(0), batch)[0] > 100


def test_unigram_is_what_its_counts_say(folder: Path) -> None:
    task = make(folder, test_windows=5)
    counts = [1] * 257
    for token in task.tokens.streams["train"].tolist():
        counts[token] += 1
    labels = task.batch("test", range(5))["tokens"][:, 1:].flatten().tolist()
    bits = -sum(math.log2(counts[t] / sum(counts)) for t in labels)
    unigram = task.predictors()[0]
    assert unigram.metrics["bits_per_byte"] == pytest.approx(bits / sum(t < 256 for t in labels))
    assert set(unigram.metrics) == {metric.name for metric in task.metrics}


def test_predictors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """n-grams score the labels of the test windows, from the tokens of their windows; xz their text after train's."""
    task = make(folder, length=5, test_windows=80)
    found = {each.name: each.metrics for each in task.predictors()}
    assert list(found) == ["unigram", "bigram", "5-gram", "xz"]
    windows = task.batch("test", range(80))["tokens"].numpy()
    size = int((windows[:, 1:] < 256).sum())
    by_order = ngram_probabilities(task.tokens.streams["train"], windows, 257, 5)
    for name, order in (("bigram", 2), ("5-gram", 5)):
        bits = -np.log2(by_order[order - 1]).sum()
        assert found[name]["bits_per_byte"] == pytest.approx(bits / size)
        assert found[name]["perplexity"] == pytest.approx(2 ** (bits / windows[:, 1:].size))
    train = b"".join((folder / "train" / f"{file}.txt").read_bytes() for file in range(3))
    test = bytes(windows[:, 1:][windows[:, 1:] < 256].astype(np.uint8))
    assert found["xz"] == {"bits_per_byte": pytest.approx(xz_bits(train, test) / size)}
    assert found["bigram"]["bits_per_byte"] < found["unigram"]["bits_per_byte"]
    monkeypatch.setattr(LanguageModelling, "_predictors", lambda self: pytest.fail("computed twice"))
    assert make(folder, length=5, seed=1, test_windows=80).predictors() == task.predictors()


def test_the_model_is_tested_at_other_contexts(folder: Path) -> None:
    """A model that knows something from the 15th position of a window on, and nothing before."""
    task = make(folder, test_windows=3, contexts=[0.5, 1, 2, 1000])
    logits = torch.linspace(-2, 3, 257)

    class Late(nn.Module):
        def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
            late = torch.arange(tokens.shape[1])[:, None] >= 15
            return (logits * late).expand(len(tokens), -1, -1), no_loss(tokens)

    evaluation = task.evaluate(Late(), "test", lambda batch: batch)
    half, one, two, far = evaluation.tables["loss_by_context"]
    assert half["perplexity"] == pytest.approx(257)  # no position is late
    assert one["bits_per_byte"] == evaluation.metrics["bits_per_byte"]
    assert (half["tokens"], one["tokens"], two["tokens"]) == (60, 60, 80)  # whole windows
    stream = task.tokens.streams["test"]
    bits = 0.0
    for start in (0, len(stream) - 41):  # two windows of 40: at the two ends
        labels = torch.from_numpy(stream[start + 1 : start + 41].astype(np.int64))
        bits += 15 * math.log2(257) - logits.log_softmax(-1)[labels[15:]].sum().item() / math.log(2)
    assert two["perplexity"] == pytest.approx(2 ** (bits / 80), rel=1e-4)
    assert far.keys() == {"context", "reason"}
    assert "loss_by_context" not in task.evaluate(Late(), "validation", lambda batch: batch).tables


def test_learned_positions_have_an_end(folder: Path) -> None:
    task = make(folder, positions="learned", contexts=[1, 2])
    rows = task.evaluate(Constant(torch.zeros(257)), "test", lambda batch: batch).tables["loss_by_context"]
    assert "bits_per_byte" in rows[0]
    assert rows[1] == {"context": 40, "reason": "learned positions end at 20"}


def test_buckets_cover_every_position_once() -> None:
    for length in (1, 2, 4, 5, 256, 1000):
        covered = [t for start, end in buckets(length) for t in range(start, end)]
        assert covered == list(range(length))


def test_text_shorter_than_a_window(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"length=100000: the train text has \d+ tokens, a window needs 100001: use"):
        make(folder, length=100_000)


def test_repetition_lengths_by_hand(folder: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 3, (4, 30))
    rows[0] = 1
    found = repetition_lengths(rows)
    for row, lengths in zip(rows.tolist(), found.tolist(), strict=True):
        for t in range(1, len(row)):
            fits = [n for n in range(1, t + 1) for s in range(n, t + 1) if row[s - n : s] == row[t + 1 - n : t + 1]]
            assert lengths[t - 1] == max(fits, default=0)
    text = b"the cat sat on the cat"
    assert repetition_lengths(np.frombuffer(text, np.uint8)[None])[0, -8:].tolist() == [1, 1, 2, 3, 4, 5, 6, 7]


def test_loss_by_repetition_covers_the_test(folder: Path) -> None:
    task = make(folder, test_windows=1000)
    evaluation = task.evaluate(Constant(torch.linspace(-2, 3, 257)), "test", lambda batch: batch)
    rows = evaluation.tables["loss_by_repetition"]
    assert (
        sum(row["tokens"] for row in rows) == task.batch("test", range(task.examples("test")))["tokens"][:, 1:].numel()
    )
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    mean = sum(row["share"] * row["bits_per_byte"] for row in rows)
    assert mean == pytest.approx(evaluation.metrics["bits_per_byte"])
    assert (
        "loss_by_repetition" not in task.evaluate(Constant(torch.zeros(257)), "validation", lambda batch: batch).tables
    )
