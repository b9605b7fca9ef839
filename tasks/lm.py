"""Language modelling: predict every next token of real text, in the pattern causal_self, with GPT.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): GPT-2 on PG-19, perplexity. Here the text comes from any of
three sources (`tasks.data.text`) and the headline is bits per byte, which is comparable across vocabularies.

A window (`tasks.data.windows`) has length + 1 tokens: the labels are the inputs shifted by one. Neighbouring windows of
an epoch share one token, so that no label occurs twice. There is no state between windows.

The trained model is also tested at shorter and longer contexts on the same number of tokens (CAB's interpolation and
extrapolation): the table `loss_by_context`. It includes how well a family's positions extrapolate. The tables
`loss_by_position` and `loss_by_repetition` show what the context is worth: a token that ends a repetition of something
earlier in the window can be copied.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.gpt import GPT
from tasks.base import Batch, Evaluation, Metric, Move, Predictor, Row, Split, TaskContext
from tasks.common.stored_predictors import stored_predictors
from tasks.common.text_predictors import XZ_BYTES, counted, ngram_probabilities, xz_bits
from tasks.common.windowed_text import WindowedText, WindowedTextOptions
from tasks.data.tokens import vocabulary_size
from tasks.data.windows import Windows
from tasks.metrics.repetition import LONGEST, repetition_lengths

ORDERS = (2, 5)
"""Of the n-gram models that are predictors."""
BUCKET_GROWTH = 4
"""Ratio between the ends of the position buckets."""
REPETITIONS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, LONGEST + 1))
"""Buckets of the length of a repetition, in tokens, the predicted one included."""


class Options(WindowedTextOptions):
    contexts: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field([0.25, 0.5, 1, 2, 4])
    """Multiples of the length at which the test is repeated."""


class LanguageModelling(WindowedText):
    name = "lm"
    overlap = 1
    patterns = (Pattern.CAUSAL_SELF,)
    metrics = (Metric("bits_per_byte", "lower"), Metric("perplexity", "lower"))
    options: Options

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        self.contexts = sorted({max(1, int(factor * self.shape.length)) for factor in options.contexts})

    def build(self, slots: Slots) -> nn.Module:
        return GPT(slots, self.shape, vocabulary_size(self.options.vocabulary), self.options.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`tokens` (B, N + 1): inputs, and labels shifted by one."""
        return {"tokens": torch.from_numpy(self.windows(split, ids))}

    def targets(self, batch: Batch) -> int:
        return batch["tokens"][:, 1:].numel()

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        bits, tokens = self._bits(model, self.windows, split, move)
        labels = tokens[:, 1:]
        sizes = self.tokens.bytes_of[labels]  # (windows, N)
        tables: dict[str, list[Row]] = {"loss_by_position": []}
        for start, end in buckets(self.shape.length):
            here = np.zeros(bits.shape, bool)
            here[:, start:end] = True
            tables["loss_by_position"].append({"from": start, "to": end, **_part(bits, sizes, here)})
        if split == "test":
            lengths = repetition_lengths(tokens)
            tables["loss_by_repetition"] = [
                {"from": least, "to": most, **_part(bits, sizes, (lengths >= least) & (lengths < most))}
                for least, most in REPETITIONS
                if ((lengths >= least) & (lengths < most)).any()
            ]
        if split == "test" and self.contexts:
            tables["loss_by_context"] = [self._at_context(context, model, move) for context in self.contexts]
        return Evaluation(_scores(float(bits.sum()), int(sizes.sum()), labels.size), tables)

    def predictors(self) -> list[Predictor]:
        """Token frequencies of the train text (one added to every count), n-grams, and xz. Cached."""
        train, _ = counted(self.tokens.streams["train"])
        data = [train, self.windows("test", range(self.examples("test"))), self.tokens.bytes_of]
        return stored_predictors(self.cache, self.name, data, self._predictors)

    def _predictors(self) -> list[Predictor]:
        windows, stream = self.windows("test", range(self.examples("test"))), self.tokens.streams["train"]
        labels, (train, part) = windows[:, 1:], counted(stream)
        size, frequencies = int(self.tokens.bytes_of[labels].sum()), self.unigram_counts()
        found = {"unigram": (frequencies / frequencies.sum())[labels]}
        by_order = ngram_probabilities(train, windows, self.tokens.size, max(ORDERS))
        for order in ORDERS:
            found["bigram" + part if order == 2 else f"{order}-gram{part}"] = by_order[order - 1]
        predictors = [Predictor(name, _scores(-float(np.log2(p).sum()), size, p.size)) for name, p in found.items()]
        text, test = self.tokens.decode(stream[-XZ_BYTES:])[-XZ_BYTES:], self.tokens.decode(labels.ravel())
        name = "xz" if len(stream) <= XZ_BYTES else f"xz after {XZ_BYTES // 2**20} MiB"
        return [*predictors, Predictor(name, {"bits_per_byte": xz_bits(text, test) / max(1, size)})]

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, auxiliary = model(batch["tokens"][:, :-1])
        labels = batch["tokens"][:, 1:]
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        return losses.view(labels.shape), auxiliary

    def _bits(self, model: nn.Module, windows: Windows, split: Split, move: Move) -> tuple[np.ndarray, np.ndarray]:
        """Bits of every label (windows, N), and the tokens (windows, N + 1)."""
        tokens = windows(split, range(windows.examples(split)))
        size = self.windows_at_once(windows.stride)
        parts = []
        for start in range(0, len(tokens), size):
            batch = {"tokens": torch.from_numpy(tokens[start : start + size])}
            parts.append(self.losses(model, move(batch))[0].cpu().double().numpy())
        return np.concatenate(parts) / math.log(2), tokens

    def _at_context(self, context: int, model: nn.Module, move: Move) -> Row:
        """The test loss at another context, or the reason why there is none."""
        if self.options.positions == "learned" and context > self.shape.length:
            return {"context": context, "reason": f"learned positions end at {self.shape.length}"}
        count = -(-self.counts["test"] * self.shape.length // context)  # as many tokens as the test has
        try:
            windows = Windows({"test": self.tokens.streams["test"]}, context + 1, context, {"test": count}, self.seed)
        except ValueError as error:
            return {"context": context, "reason": str(error)}
        bits, tokens = self._bits(model, windows, "test", move)
        labels = tokens[:, 1:]
        size = int(self.tokens.bytes_of[labels].sum())
        return {"context": context, "tokens": labels.size, **_scores(float(bits.sum()), size, labels.size)}


def buckets(length: int) -> list[tuple[int, int]]:
    """[0, 1), [1, 4), [4, 16), ... up to `length`."""
    ends = [0, 1]
    while ends[-1] < length:
        ends.append(min(length, BUCKET_GROWTH * ends[-1]))
    return list(pairwise(ends))


def _part(bits: np.ndarray, sizes: np.ndarray, here: np.ndarray) -> Row:
    """The loss of some tokens; `share` is theirs of the bytes."""
    size = int(sizes[here].sum())
    share = size / max(1, int(sizes.sum()))
    return {"tokens": int(here.sum()), "share": share, "bits_per_byte": float(bits[here].sum()) / max(1, size)}


def _scores(bits: float, size: int, count: int) -> dict[str, float]:
    """Scores from the total `bits` of `count` tokens, which are `size` bytes of text."""
    return {"bits_per_byte": bits / max(1, size), "perplexity": 2 ** (bits / count)}
