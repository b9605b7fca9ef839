"""Base class of tasks on windows of running text: the text, its tokens, and the windows of each split."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from tasks.backbones.positions import PositionKind
from tasks.base import SPLITS, Batch, Options, Source, Split, Task, TaskContext
from tasks.data.overlap import overlap
from tasks.data.text import corpus
from tasks.data.tokens import Tokens, Vocabulary, check_reached, tokenise, vocabulary_size
from tasks.data.windows import Windows

TOKENS_PER_BATCH, LOGITS_PER_BATCH = 2**14, 2**27
"""Of an evaluation batch, to bound its memory."""


class WindowedTextOptions(Options):
    vocabulary: Vocabulary = "bytes"
    positions: PositionKind = "rotary"
    validation_windows: int = Field(64, ge=1)
    test_windows: int = Field(256, ge=1)
    column: str = "text"
    """The text column of a hub data set."""


class WindowedText(Task):
    """Without a revision of a hub data set, the commit of `main` is looked up and is part of the content hash."""

    uses_memory = False
    overlap: ClassVar[int]
    """Tokens that a window shares with the next one."""
    options: WindowedTextOptions
    tokens: Tokens
    windows: Windows

    def __init__(self, context: TaskContext, options: WindowedTextOptions) -> None:
        super().__init__(context, options)
        if self.data.source != "hub":
            self.refuse_option("column", f"with data.source={self.data.source}")
        self.counts: dict[Split, int] = {"validation": options.validation_windows, "test": options.test_windows}

    def prepare(self) -> Source:
        text = corpus(self.data, self.options.column)
        length, self.tokens = self.shape.length, tokenise(text, self.options.vocabulary, self.cache)
        check_reached(self.tokens, self.options.vocabulary)
        self.windows = Windows(self.tokens.streams, length + self.overlap, length, self.counts, self.seed)
        sizes: dict[str, int | float | str] = {f"{split}_tokens": len(self.tokens.streams[split]) for split in SPLITS}
        facts = text.facts | sizes | {"vocabulary": self.tokens.size, "test_windows": self.examples("test")}
        facts |= overlap(text, self.cache)
        return Source(text.description, True, text.content, facts)

    def examples(self, split: Split) -> int:
        return self.windows.examples(split)

    def vocabulary_numbers(self, examples: int) -> int:
        predicted = examples * self.predicted(self.shape.length)
        return vocabulary_size(self.options.vocabulary) * (4 * self.shape.dim + 3 * predicted)

    def predicted(self, length: int) -> int:
        """Positions of a window of this length that a model predicts."""
        return length

    def windows_at_once(self, length: int) -> int:
        """Windows of this length in an evaluation batch."""
        logits = self.predicted(length) * vocabulary_size(self.options.vocabulary)
        return max(1, min(TOKENS_PER_BATCH // length, LOGITS_PER_BATCH // logits))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, auxiliary = self.losses(model, batch)
        return losses.sum(), auxiliary

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods in nats, a row per window, and the auxiliary loss."""

    def unigram_counts(self) -> np.ndarray:
        """(V,): how often each token is in the train text, plus one."""
        return np.bincount(self.tokens.streams["train"], minlength=self.tokens.size) + 1
