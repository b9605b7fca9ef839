"""Masked language modelling: predict masked tokens of real text, in the pattern noncausal_self, with RoBERTa.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): RoBERTa-base on PG-19 at 2,048 tokens, perplexity of the masked
tokens (CAB on its validation set; here on the test set). In every window a share `masked` of the positions is
predicted. Of these, the input is the mask token with probability 0.8, a random token with 0.1, and the original token
with 0.1 (Devlin et al. 2019, arXiv 1810.04805). Each training id has positions of its own (RoBERTa's dynamic masking);
those of validation and test are the same for every seed.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.roberta import RoBERTa
from tasks.base import Batch, Evaluation, Metric, Move, Predictor, Split, TaskContext
from tasks.common.stored_predictors import stored_predictors
from tasks.common.text_predictors import counted, neighbour_probabilities
from tasks.common.windowed_text import WindowedText, WindowedTextOptions
from tasks.data.tokens import vocabulary_size

MASKED, RANDOM = 0.8, 0.1
"""Probabilities of a mask token and of a random token at a position to predict; else the token stays."""

NEIGHBOURS = (1, -1, 2, -2)
"""Places from which a count model predicts a token, the nearest first."""


class Options(WindowedTextOptions):
    masked: float = Field(0.15, gt=0, lt=1)
    """Share of the positions to predict."""


class MaskedLanguageModelling(WindowedText):
    name = "mlm"
    patterns = (Pattern.NONCAUSAL_SELF,)
    metrics = (Metric("masked_perplexity", "lower"), Metric("masked_accuracy", "higher"))
    overlap = 0
    options: Options

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        self.places = self.predicted(self.shape.length)
        self.mask = vocabulary_size(options.vocabulary)
        """Id of the mask token, after all others."""

    def build(self, slots: Slots) -> nn.Module:
        return RoBERTa(slots, self.shape, self.mask + 1, self.options.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """Masked `tokens` (B, N), the positions to predict `places` (B, K), ascending, and their `labels` (B, K)."""
        tokens = self.windows(split, ids)
        draws = [self._draw(split, i) for i in ids]
        places, kinds, others = (np.stack(each) for each in zip(*draws, strict=True))
        labels = np.take_along_axis(tokens, places, 1)
        hidden = np.where(kinds < MASKED, self.mask, np.where(kinds < MASKED + RANDOM, others, labels))
        np.put_along_axis(tokens, places, hidden, 1)
        return {name: torch.from_numpy(x) for name, x in (("tokens", tokens), ("places", places), ("labels", labels))}

    def predicted(self, length: int) -> int:
        return max(1, round(self.options.masked * length))

    def targets(self, batch: Batch) -> int:
        return batch["labels"].numel()

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, auxiliary = model(batch["tokens"], batch["places"])
        return self._cross_entropy(logits, batch["labels"]), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        loss, right, count = 0.0, 0, 0
        for batch in self.batches(split, self.windows_at_once(self.shape.length), move):
            logits, _ = model(batch["tokens"], batch["places"])
            loss += float(self._cross_entropy(logits, batch["labels"]).double().sum())
            right += int((logits.argmax(-1) == batch["labels"]).sum())
            count += self.targets(batch)
        return Evaluation({"masked_perplexity": math.exp(loss / count), "masked_accuracy": right / count})

    def predictors(self) -> list[Predictor]:
        """Token frequencies of the train text (one added to every count), and the nearest tokens. Cached."""
        train, _ = counted(self.tokens.streams["train"])
        batch = self.batch("test", range(self.examples("test")))
        return stored_predictors(self.cache, self.name, [train, *(x.numpy() for x in batch.values())], self._predictors)

    def _predictors(self) -> list[Predictor]:
        batch = self.batch("test", range(self.examples("test")))
        tokens, places, labels = (batch[name].numpy() for name in ("tokens", "places", "labels"))
        frequencies = self.unigram_counts()
        share = frequencies / frequencies.sum()
        accuracy = float((labels == frequencies.argmax()).mean())
        unigram = {"masked_perplexity": _perplexity(share[labels]), "masked_accuracy": accuracy}
        train, part = counted(self.tokens.streams["train"])
        shown = np.take_along_axis(tokens, places, 1)
        hidden = shown == self.mask
        size = self.tokens.size
        both = np.concatenate([labels, np.where(hidden, 0, shown)], 1)
        found = neighbour_probabilities(train, tokens, np.concatenate([places, places], 1), both, size, NEIGHBOURS)[-1]
        of_label, of_shown = np.split(found, 2, 1)
        # A token that is shown is the right one or, as often as is known, a random one: Bayes' rule.
        kept, random = 1 - MASKED - RANDOM, RANDOM / size
        informed = of_label * (random + kept * (shown == labels)) / (random + kept * of_shown)
        name = f"{len(NEIGHBOURS)} nearest tokens{part}"
        counts = {"masked_perplexity": _perplexity(np.where(hidden, of_label, informed))}
        return [Predictor("unigram", unigram), Predictor(name, counts)]

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, K, V) and (B, K) to (B, K)."""
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        return losses.view(labels.shape)

    def _draw(self, split: Split, id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For one window, (K,) each: positions to predict, a uniform number that selects the input, a random token."""
        rng = self.random(split, id)
        places = np.sort(rng.permutation(self.shape.length)[: self.places])
        return places, rng.random(self.places), rng.integers(self.tokens.size, size=self.places)


def _perplexity(probabilities: np.ndarray) -> float:
    return math.exp(-float(np.log(probabilities).mean()))
