"""Summarization: examples are pure, losses and scores agree with hand-made ones, nothing of test reaches train."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.base import Data, TaskContext
from tasks.data.text import Corpus
from tasks.data.typical_summary import most_typical
from tasks.summarization import NO_LABEL, Options, Summarization

CC = Pattern.CAUSAL_CROSS
ROWS = {
    "train": [("one two three four five six seven eight nine", ["a b c", "d e f g h"]), ("ten eleven", ["ten"])]
    + [(f"document {n} of many", [f"summary {n}"]) for n in range(18)],
    "validation": [("valid document", ["valid summary"])],
    "test": [
        ("the cat sat on the mat, and the dog barked", ["the cat sat", "a dog barked"]),
        ("nothing happened here today", ["nothing happened"]),
        ("é", ["é last one"]),
    ],
}


def write(folder: Path, rows=ROWS) -> Path:
    for split, pairs in rows.items():
        lines = [json.dumps({"document": document, "summary": references}) for document, references in pairs]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def make(folder: Path, length: int = 16, memory: int = 24, seed: int = 0, **options) -> Summarization:
    shape = Shape(dim=16, heads=2, depth=2, hidden=32, length=length, memory=memory)
    options = {"vocabulary": "bytes", **options}
    task = Summarization(TaskContext(CC, shape, Data("local", str(folder)), seed, folder / "cache"), Options(**options))
    task.prepare()
    return task


def ids_of(text: str) -> list[int]:
    return list(text.encode())


class Scripted(nn.Module):
    """Writes a given text for every document; every token has the same probabilities in `forward`."""

    def __init__(self, texts: dict[str, str], logits: Tensor | None = None) -> None:
        super().__init__()
        self.texts, self.logits = texts, torch.zeros(257) if logits is None else logits

    def forward(self, document, document_valid, tokens, valid):
        return self.logits.expand(*tokens.shape, -1), no_loss(tokens)

    def prefill(self, document, document_valid, tokens):
        assert tokens.tolist() == [[256]] * len(document)
        rows = [bytes(row[real].tolist()).decode() for row, real in zip(document, document_valid, strict=True)]
        return self.step(tokens, [[*ids_of(self.texts[row]), *[256] * 99] for row in rows])

    def step(self, token, state):
        logits = torch.nn.functional.one_hot(torch.tensor([row[0] for row in state]), 257).double().unsqueeze(1)
        return logits, [row[1:] for row in state]


def stay(batch):
    return batch


# Examples


def test_ids_are_pure(folder: Path) -> None:
    one, two = make(folder), make(folder)
    ids = [7, 3, 100, 8]
    expected = one.batch("train", ids)
    for i in range(0, 300, 7):
        two.batch("train", [i])  # other epochs in between
    again = two.batch("train", ids)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    for row, i in enumerate(ids):  # alone as in a batch, but for the padding
        for name, tensor in two.batch("train", [i]).items():
            assert torch.equal(tensor[0], expected[name][row, : tensor.shape[1]])


def test_an_epoch_has_references_at_most_once_and_seeds_differ(folder: Path) -> None:
    task, other = make(folder), make(folder, seed=1)
    count = task.examples("train")
    assert count == 16  # whole groups of the 21 references
    epochs = [task.batch("train", range(e * count, (e + 1) * count)) for e in (0, 1)]
    epochs.append(other.batch("train", range(count)))
    texts = [[row.numpy().tobytes() for row in epoch["labels"]] for epoch in epochs]
    assert texts[0] != texts[1]
    assert texts[0] != texts[2]
    for split in ("validation", "test"):
        mine, theirs = (t.batch(split, range(t.examples(split))) for t in (task, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_batches_are_shifted_padded_and_cut(folder: Path) -> None:
    task = make(folder, length=12, memory=25)
    batch = task.batch("test", range(task.examples("test")))
    s, n = 256, NO_LABEL
    wanted = [
        ("the cat sat on the mat, and the dog barked", [s, *ids_of("the cat sat")], [*ids_of("the cat sat"), s]),
        ("the cat sat on the mat, and the dog barked", [s, *ids_of("a dog barke")], ids_of("a dog barked")),
        ("nothing happened here today", [s, *ids_of("nothing hap")], ids_of("nothing happ")),
        ("é", [s, *ids_of("é last one")], [*ids_of("é last one"), s]),
    ]
    for row, (document, tokens, labels) in enumerate(wanted):
        assert batch["document"][row][batch["document_valid"][row]].tolist() == ids_of(document)[:25]
        assert batch["tokens"][row][batch["valid"][row]].tolist() == tokens
        assert batch["labels"][row].tolist() == [*labels, *[n] * (12 - len(labels))]
        assert batch["valid"][row].sum() == len(labels)
    for name in ("valid", "document_valid"):  # padding is on the right
        assert (batch[name].int().diff(dim=1) <= 0).all()
    assert task.targets(batch) == sum(len(labels) for _, _, labels in wanted)


def test_facts_say_what_was_cut(folder: Path) -> None:
    task = make(folder, length=12, memory=25)
    facts = task.prepare().facts
    assert (facts["test_documents"], facts["test_documents_cut"]) == (3, 2)
    assert facts["test_text_in_train"] == 0
    assert (facts["test_summaries"], facts["test_summaries_cut"]) == (4, 2)  # that of 11 letters has its end
    assert task.prepare().real


def test_nothing_of_test_or_validation_reaches_train(folder: Path, tmp_path: Path) -> None:
    task = make(folder, memory=99, vocabulary=300)
    held = {document for split in ("validation", "test") for document, _ in ROWS[split]}
    seen = set()
    for row in range(8 * task.examples("train")):
        batch = task.batch("train", [row])
        seen.add(task.tokens.decode(batch["document"][0].numpy()).decode())
    assert seen == {document for document, _ in ROWS["train"]}
    assert not seen & held
    (tmp_path / "other").mkdir()
    other = make(
        write(tmp_path / "other", {**ROWS, "test": [("zebra " * 9, ["zebra"])], "validation": [("yak", ["yak"])]}),
        memory=99,
        vocabulary=300,
    )
    assert task.tokens.tokenizer.to_str() == other.tokens.tokenizer.to_str()
    assert torch.equal(task.batch("train", range(9))["document"], other.batch("train", range(9))["document"])
    assert task.predictors()[0].name == other.predictors()[0].name


# Losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_by_hand(folder: Path, smoothing: float) -> None:
    """-(1 - e) log p of the label - e times the mean over all tokens of log p, summed over labels."""
    task = make(folder, label_smoothing=smoothing)
    logits = torch.linspace(-2, 3, 257)
    log_p = (logits - logits.exp().sum().log()).tolist()
    batch = task.batch("train", range(5))
    labels = [label for label in batch["labels"].flatten().tolist() if label != NO_LABEL]
    expected = -sum((1 - smoothing) * log_p[label] + smoothing * sum(log_p) / 257 for label in labels)
    loss, auxiliary = task.loss(Scripted({}, logits), batch)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert (auxiliary, task.targets(batch)) == (0, len(labels))


def test_perplexity_is_over_all_references_without_smoothing(folder: Path) -> None:
    task = make(folder, length=12, label_smoothing=0.3)
    logits = torch.linspace(-2, 3, 257)
    log_p = (logits - logits.exp().sum().log()).tolist()
    texts = dict.fromkeys((document[:24] for document, _ in ROWS["test"]), "x")
    labels = [[*ids_of(r), 256][:12] for _, references in ROWS["test"] for r in references]
    nats = -sum(log_p[token] for row in labels for token in row)
    evaluation = task.evaluate(Scripted(texts, logits), "test", stay)
    assert evaluation.metrics["perplexity"] == pytest.approx(math.exp(nats / sum(map(len, labels))), rel=1e-5)


def test_padding_does_not_change_the_loss(folder: Path) -> None:
    task = make(folder)
    torch.manual_seed(0)
    model = task.build(Slots(partial(Vanilla), CC)).double().eval()
    together = task.loss(model, task.batch("train", range(8)))[0]
    alone = sum(task.loss(model, task.batch("train", [i]))[0] for i in range(8))
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)


# Scores


def test_rouge_by_hand(folder: Path) -> None:
    """Texts are judged against whole references; the best one of a document counts, for each measure on its own."""
    texts = {"the cat sat on the mat, ": "the dog barked", "nothing happened here to": "", "é": "é last one"}
    evaluation = make(folder).evaluate(Scripted(texts), "test", stay)
    # 1st: dog, barked of 3 and 3 words; "dog barked" of 2 and 2 pairs. 2nd: nothing. 3rd: all of it.
    scores = evaluation.metrics
    assert scores["rouge_1"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert scores["rouge_2"] == pytest.approx(100 * (1 / 2 + 0 + 1) / 3)
    assert scores["rouge_l"] == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert evaluation.tables["texts"] == [
        {"document": document, "reference": references[0], "generated": texts[document[:24]]}
        for document, references in ROWS["test"]
    ]


def test_generated_text_ends_at_the_design_length_and_not_before_the_least(folder: Path) -> None:
    texts = {"valid document": "w" * 30}
    evaluation = make(folder, length=8).evaluate(Scripted(texts), "validation", stay)
    assert evaluation.tables["texts"][0]["generated"] == "w" * 8
    evaluation = make(folder, least_length=3).evaluate(Scripted({"valid document": ""}), "validation", stay)
    assert len(evaluation.tables["texts"][0]["generated"]) == 3


@pytest.mark.parametrize(
    ("reference", "text", "score"),
    [
        ("мама мыла раму", "Мама мыла окно", 2 * 2 / (3 + 3)),
        ("今天天气很好。", "今天下雨", 2 * 2 / (4 + 6)),
        ("สวัสดี", "สวย", 2 * 1 / (3 + 4)),
        ("नमस्ते दुनिया", "नमस्ते जी", 2 * 1 / (2 + 2)),
    ],
)
def test_every_script_has_a_rouge(tmp_path: Path, reference: str, text: str, score: float) -> None:
    rows = {"train": [("a", ["b"])], "validation": [("c", ["d"])], "test": [("e", [reference])]}
    task = make(write(tmp_path, rows))
    assert task.rouge("test", [text])["rouge_l"] == pytest.approx(100 * score)
    assert task.rouge("test", [reference])["rouge_2"] == pytest.approx(100)
    assert "single letters" in str(task.prepare().facts["words"])


def test_order_counts_in_the_headline_and_words_are_stemmed(folder: Path) -> None:
    task = make(folder)
    assert task.metrics[0].name == "rouge_l"
    scores = task.rouge("test", ["sat cat the"])
    assert scores["rouge_1"] == pytest.approx(100)
    assert scores["rouge_l"] == pytest.approx(100 / 3)
    assert task.rouge("test", ["the cat sat", "nothings happening"])["rouge_l"] == pytest.approx(100)


def test_the_beginning_of_the_document(folder: Path) -> None:
    """Train references have 3, 5, 1 and eighteen times 2 words: 45 / 21, rounded."""
    lead = make(folder, memory=4).predictors()[0]  # of the whole document, whatever the model reads
    assert lead.name == "first 2 words"
    # "the cat", "nothing happened" and "é" of "é last one"
    assert lead.metrics["rouge_l"] == pytest.approx(100 * (4 / 5 + 1 + 2 / 4) / 3)
    assert set(lead.metrics) == {"rouge_1", "rouge_2", "rouge_l"}


def test_one_summary_for_all(tmp_path: Path) -> None:
    """What most train references say, not the document's first words, nor the reference that is there twice."""
    train = [("a b c", ["the cat ran"]), ("d e f", ["the cat sat"]), ("g h i", ["the dog sat"])]
    train += [("j k l", ["zebras"])] * 2
    test = [("x y z", ["the cat slept"]), ("u v w", ["cat"])]
    write(tmp_path, {"train": train, "validation": [("yak", ["yak"])], "test": test})
    lead, one = make(tmp_path, memory=4).predictors()
    assert one.name == "one summary for all"
    assert one.metrics["rouge_l"] > lead.metrics["rouge_l"]
    assert one.metrics["rouge_l"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)  # "the cat sat"


def test_most_typical_text_by_brute_force() -> None:
    texts = [text.split() for text in ("red apple", "red pear", "", "red red", "green grape", "a red pear in a tree")]

    def likeness(one: list[str]) -> float:
        return sum(2 * len(set(one) & set(other)) / (len(set(one)) + len(set(other)) or 1) for other in texts)

    assert most_typical(texts) == max(range(len(texts)), key=lambda index: likeness(texts[index])) == 1
    assert most_typical(texts[::-1]) == 4
    assert most_typical([[], []]) == 0


def test_evaluation_is_batched_and_of_the_first_documents(folder: Path) -> None:
    documents = ("the cat sat on the mat, and the dog barked", "nothing happened here today", "é")
    texts = dict(zip(documents, ("the cat", "nothing", "last"), strict=True))
    together = make(folder, memory=60).evaluate(Scripted(texts), "test", stay).metrics
    one_by_one = make(folder, memory=2**15)  # so long that an evaluation batch has one document
    assert one_by_one.evaluate(Scripted(texts), "test", stay).metrics == pytest.approx(together)
    task = make(folder, memory=60, test_documents=1)
    assert task.examples("test") == 2
    assert task.evaluate(Scripted(texts), "test", stay).metrics["rouge_l"] == pytest.approx(80)


def test_a_model_learns_to_write_its_summaries(folder: Path) -> None:
    """A few dozen steps on two examples: loss, masks, greedy decoding and scores fit together."""
    rows = {"train": [("aaaa", ["go left"]), ("bbbbbb", ["now turn right"])]}
    rows |= {"validation": [("cc", ["go"])], "test": [("dd", ["go"])]}
    task = make(write(folder, rows))
    task._collections["test"] = task._collections["train"]
    torch.manual_seed(0)
    model = task.build(Slots(partial(Vanilla), CC))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(60):
        batch = task.batch("train", range(2 * step, 2 * step + 2))
        loss = task.loss(model, batch)[0] / task.targets(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        evaluation = task.evaluate(model.eval(), "test", stay)
    assert [row["generated"] for row in evaluation.tables["texts"]] == ["go left", "now turn right"]
    assert evaluation.metrics["rouge_l"] == pytest.approx(100)
    assert evaluation.metrics["perplexity"] < 1.5


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0}, "memory=0: documents need a length: set model.memory to the most tokens of a document"),
        ({"least_length": 16}, "least_length=16: a number below model.length=16 is needed"),
    ],
)
def test_invalid_options(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(folder, **options)


def test_a_split_without_any_summary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a hub data set whose rows are all left out."""
    rows = {"train": [b"a", b"b", b""], "validation": [], "test": [b"c", b"d", b""]}
    monkeypatch.setattr("tasks.summarization.summaries", lambda *_: Corpus("x", "0", lambda s: rows[s], large=True))
    with pytest.raises(ValueError, match="no validation document has a summary: choose other data"):
        make(folder)


def test_documents_come_before_anything_else(folder: Path) -> None:
    task = Summarization(TaskContext(CC, Shape(8, 1, 1, 8, 4, 4), Data(), 0, folder), Options())
    with pytest.raises(AttributeError, match="tokens"):
        _ = task.tokens
    task.build(Slots(partial(Vanilla), CC))  # the model is known without data
