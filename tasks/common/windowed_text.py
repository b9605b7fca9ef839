"""What tasks on windows of running text share: the text, its tokens, and which windows are seen."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from attentions.base import Pattern, Shape, check_whole
from tasks.backbones.positions import PositionKind, check_positions
from tasks.base import Batch, Data, Source, Split, Task
from tasks.data.text import SPLITS, corpus
from tasks.data.tokens import Tokens, Vocabulary, check_vocabulary, tokenise
from tasks.data.windows import Windows

EVALUATED_AT_ONCE = 2**14
"""Tokens in an evaluation batch, to bound the memory for logits."""


class WindowedText(Task):
    """Options of all of them: `vocabulary` (bytes, or the size of a BPE vocabulary), `positions`, and how many windows
    are evaluated.

    `column` is the text column of a hub data set. Without a revision, the commit that `main` points to is looked up,
    recorded and part of the content hash: results are tied to it.
    """

    overlap: ClassVar[int]
    """Tokens that a window shares with the next one."""
    tokens: Tokens
    windows: Windows

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        vocabulary: Vocabulary,
        positions: PositionKind,
        validation_windows: int,
        test_windows: int,
        column: str,
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache)
        check_vocabulary(vocabulary)
        check_positions(positions)
        self.counts: dict[Split, int] = {"validation": validation_windows, "test": test_windows}
        for split, count in self.counts.items():
            check_whole(f"{split}_windows", count)
        self.vocabulary, self.positions, self.column = vocabulary, positions, column

    def prepare(self) -> Source:
        text = corpus(self.data, self.column)
        length, self.tokens = self.shape.length, tokenise(text, self.vocabulary, self.cache)
        self.windows = Windows(self.tokens.streams, length + self.overlap, length, self.counts, self.seed)
        sizes: dict[str, int | float | str] = {f"{split}_tokens": len(self.tokens.streams[split]) for split in SPLITS}
        facts = text.facts | sizes | {"vocabulary": self.tokens.size, "test_windows": self.examples("test")}
        return Source(text.description, True, text.content, facts)

    def examples(self, split: Split) -> int:
        return self.windows.examples(split)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, auxiliary = self.losses(model, batch)
        return losses.sum(), auxiliary

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods in nats, a row per window, and the auxiliary loss."""
