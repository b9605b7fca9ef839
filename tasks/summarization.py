"""Summarization: write a document's summary, in the patterns noncausal_self, causal_self and causal_cross.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): an encoder-decoder of 6 + 6 layers on Multi-News, ROUGE. Here
documents come from any of three sources (`tasks.data.summaries`).

`shape.memory` is the design length of documents in tokens, `shape.length` that of summaries with their end; longer ones
are cut, and the record has their number. Efficiency is measured on stacks of this width, heads and depth, at other
lengths.

Scores are ROUGE F-measures (Lin 2004, by `rouge-score`) in percent between generated texts (greedy, by prefill and
step) and complete references; of several of a document the best one counts for each measure, as in rouge-score.
ROUGE-L is the headline: it depends on the order of words, so that a bag of frequent words scores low. What a word is,
in any script, says `tasks.metrics.words`. The perplexity is that of the references.

Every reference is one training example. An epoch has each of them at most once, in random order, but with documents of
similar length as neighbours, so that a batch has little padding.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind
from tasks.backbones.seq2seq import Seq2Seq, greedy
from tasks.base import (
    NO_LABEL,
    SPLITS,
    Batch,
    Evaluation,
    Metric,
    Move,
    Predictor,
    Row,
    Source,
    Split,
    Task,
    TaskContext,
)
from tasks.base import Options as BaseOptions
from tasks.data.epochs import Epochs, in_complete_groups, of_similar_length
from tasks.data.overlap import overlap
from tasks.data.padding import padded
from tasks.data.summaries import Collection, Columns, summaries
from tasks.data.tokens import Tokens, Vocabulary, check_reached, tokenise, vocabulary_size
from tasks.data.typical_summary import most_typical
from tasks.metrics.words import DESCRIPTION, Tokenizer, first_words, words

TOKENS_PER_BATCH, LOGITS_PER_BATCH = 2**15, 2**27
"""Of an evaluation batch, tokens of documents and summaries together."""
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Metrics by their names in rouge-score."""
SHOWN_TEXTS = 8
"""Rows of the table `texts`, evenly spread over the documents."""
SHOWN_CHARACTERS = 400


class Options(BaseOptions):
    vocabulary: Vocabulary = 2048
    positions: PositionKind = "rotary"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """In training."""
    least_length: int = Field(0, ge=0)
    """Tokens before which a generated text does not end."""
    validation_documents: int = Field(64, ge=1)
    test_documents: int = Field(512, ge=1)
    document_column: str = "document"
    """Of local and hub data."""
    summary_column: str = "summary"


class Summarization(Task):
    name = "summarization"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)
    metrics = (
        Metric("rouge_l", "higher"),
        Metric("rouge_1", "higher"),
        Metric("rouge_2", "higher"),
        Metric("perplexity", "lower"),
    )
    options: Options
    tokens: Tokens
    _collections: dict[Split, Collection]
    _epochs: Epochs

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        if self.data.source == "embedded":
            for name in ("document_column", "summary_column"):
                self.refuse_option(name, "with data.source=embedded")
        if self.shape.memory < 1:
            raise ValueError("memory=0: documents need a length: set model.memory to the most tokens of a document")
        if options.least_length >= self.shape.length:
            limit = f"below model.length={self.shape.length}"
            raise ValueError(f"least_length={options.least_length}: a number {limit} is needed")
        self.counts: dict[Split, int] = {"validation": options.validation_documents, "test": options.test_documents}
        self.columns = Columns(options.document_column, options.summary_column)

    @property
    def _vocabulary(self) -> int:
        return vocabulary_size(self.options.vocabulary)

    @property
    def separator(self) -> int:
        return self.tokens.size - 1

    def prepare(self) -> Source:
        found = summaries(self.data, self.columns)
        self.tokens = tokenise(found, self.options.vocabulary, self.cache)
        check_reached(self.tokens, self.options.vocabulary)
        self._collections = {split: Collection.of(self.tokens.streams[split], self.separator) for split in SPLITS}
        facts = dict(found.facts)
        for split, collection in self._collections.items():
            if not len(collection.summaries):
                raise ValueError(f"no {split} document has a summary: choose other data")
            cut_documents = (np.diff(collection.documents) > self.shape.memory).sum()
            cut_summaries = (np.diff(collection.summaries) >= self.shape.length).sum()
            facts |= {
                f"{split}_documents": len(collection.documents),
                f"{split}_documents_cut": int(cut_documents),
                f"{split}_summaries": len(collection.summaries),
                f"{split}_summaries_cut": int(cut_summaries),
            }
        train, count = self._collections["train"], self.examples("train")
        lengths = np.minimum(np.diff(train.documents)[:, 0], self.shape.memory)[train.owner]
        self._epochs = Epochs(self.seed, count, of_similar_length(lengths, count))
        facts |= {"vocabulary": self.tokens.size, "test_documents_evaluated": self._evaluated("test")}
        facts |= {"words": DESCRIPTION, **overlap(found, self.cache)}
        return Source(found.description, True, found.content, facts)

    def build(self, slots: Slots) -> nn.Module:
        return Seq2Seq(slots, self.shape, self._vocabulary, self.options.positions)

    def vocabulary_numbers(self, examples: int) -> int:
        return self._vocabulary * (4 * self.shape.dim + 3 * examples * self.shape.length)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """One reference each. `document` (B, M) and `tokens` (B, N) with `document_valid` and `valid`, `labels` (B, N)
        or NO_LABEL; M and N are the longest in the batch."""
        collection = self._collections[split]
        chosen = self._epochs(ids) if split == "train" else np.asarray(ids)
        references = [collection.summary(index) for index in chosen]
        labels = [np.append(reference, self.separator)[: self.shape.length] for reference in references]
        tokens = [np.append(self.separator, reference)[: self.shape.length] for reference in references]
        shifted, valid = padded(tokens, self.separator)
        documents = self._documents(split, collection.owner[chosen])
        return {**documents, "tokens": shifted, "valid": valid, "labels": padded(labels, NO_LABEL)[0]}

    def examples(self, split: Split) -> int:
        """References: in an epoch those of complete groups, in an evaluation those of all its documents."""
        collection = self._collections[split]
        if split == "train":
            return in_complete_groups(len(collection.summaries))
        return int(np.searchsorted(collection.owner, self._evaluated(split)))

    def targets(self, batch: Batch) -> int:
        return int((batch["labels"] != NO_LABEL).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._sum_of_losses(model, batch, self.options.label_smoothing)

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        tokens, logits = self.shape.memory + self.shape.length, self.shape.length * self._vocabulary
        size = max(1, min(TOKENS_PER_BATCH // tokens, LOGITS_PER_BATCH // logits))
        nats, targets = 0.0, 0
        for batch in self.batches(split, size, move):
            nats += self._sum_of_losses(model, batch, 0.0)[0].item()
            targets += self.targets(batch)
        texts: list[str] = []
        count = self._evaluated(split)
        for start in range(0, count, size):
            batch = move(self._documents(split, range(start, min(start + size, count))))
            generated = greedy(
                model,  # type: ignore[arg-type]
                batch["document"],
                batch["document_valid"],
                self.separator,
                self.shape.length,
                self.options.least_length,
            )
            texts += [self._text(row) for row in generated.cpu().numpy()]
        scores = self.rouge(split, texts)
        metrics = {**scores, "perplexity": math.exp(nats / targets)}
        return Evaluation(metrics, {"texts": self._shown(split, texts)})

    def predictors(self) -> list[Predictor]:
        """The first words of each document, as many as train references have on average, and one train reference for
        all documents, the most typical one."""
        train = self._collections["train"]
        references = [self._text(train.summary(index)) for index in range(len(train.summaries))]
        spoken = [words(reference) for reference in references]
        count = max(1, round(sum(map(len, spoken)) / len(spoken)))
        documents = [self._text(self._collections["test"].document(i)) for i in range(self._evaluated("test"))]
        leads = [first_words(document, count) for document in documents]
        return [
            Predictor(f"first {count} words", self.rouge("test", leads)),
            Predictor("one summary for all", self.rouge("test", [references[most_typical(spoken)]] * len(documents))),
        ]

    def _evaluated(self, split: Split) -> int:
        return min(self.counts[split], len(self._collections[split].documents))

    def _documents(self, split: Split, indices: Iterable[int]) -> Batch:
        found = [self._collections[split].document(index)[: self.shape.memory].astype(np.int64) for index in indices]
        document, valid = padded(found, self.separator)
        return {"document": document, "document_valid": valid}

    def _sum_of_losses(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        logits, auxiliary = model(batch["document"], batch["document_valid"], batch["tokens"], batch["valid"])
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(),
            batch["labels"].flatten(),
            ignore_index=NO_LABEL,
            reduction="sum",
            label_smoothing=smoothing,
        )
        return losses, auxiliary

    def _text(self, tokens: np.ndarray) -> str:
        return self.tokens.decode(tokens).decode(errors="replace")

    def _references(self, split: Split, document: int) -> list[str]:
        collection = self._collections[split]
        return [self._text(collection.summary(index)) for index in collection.references(document)]

    def rouge(self, split: Split, texts: Sequence[str]) -> dict[str, float]:
        """ROUGE of the texts of the first documents, in percent."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(ROUGE.values()), tokenizer=Tokenizer())
        scores = [scorer.score_multi(self._references(split, index), text) for index, text in enumerate(texts)]
        return {
            name: 100 * sum(score[known].fmeasure for score in scores) / len(scores) for name, known in ROUGE.items()
        }

    def _shown(self, split: Split, texts: Sequence[str]) -> list[Row]:
        """Some of the texts beside their documents and references, each cut after SHOWN_CHARACTERS."""
        rows: list[Row] = []
        for index in np.unique(np.linspace(0, len(texts) - 1, SHOWN_TEXTS).round().astype(int)):
            document = self._text(self._collections[split].document(index)[:SHOWN_CHARACTERS])
            row = {"document": document, "reference": self._references(split, index)[0], "generated": texts[index]}
            rows.append({name: text[:SHOWN_CHARACTERS] for name, text in row.items()})
        return rows
