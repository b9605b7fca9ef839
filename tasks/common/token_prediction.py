"""Defaults of tasks that predict tokens at some positions: loss, accuracy, and a constant answer as the baseline.

A subclass gives `prepare`, `build`, `batch` and `examples`. A batch has `tokens` (B, N) and `labels` (B, N), the token
to predict at each position or NO_LABEL; the model maps `tokens` to logits (B, N, V) and an auxiliary loss. A backbone
whose head runs at the K labelled positions only saves time where they are few: its task overrides `logits`.
"""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base import NO_LABEL, Batch, Evaluation, Metric, Move, Predictor, Split, Task

TOKENS_PER_BATCH = 2**14
"""Of an evaluation batch, to bound its memory."""


class TokenPrediction(Task):
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", "higher"), Metric("loss", "lower"))

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """(K, V) at the labelled positions in order, and the auxiliary loss."""
        logits, auxiliary = model(batch["tokens"])
        return logits[batch["labels"] != NO_LABEL], auxiliary

    def targets(self, batch: Batch) -> int:
        return int((batch["labels"] != NO_LABEL).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, auxiliary = self.logits(model, batch)
        return summed_loss(logits, answers(batch)), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        size = max(1, TOKENS_PER_BATCH // (self.shape.length + self.shape.memory))
        correct, loss = self.score(model, self.batches(split, size, move))
        return Evaluation({"accuracy": float(correct.mean()), "loss": loss})

    def predictors(self) -> list[Predictor]:
        """Always the most frequent label of the test split; the loss is that of the labels' frequencies."""
        labels = answers(self.batch("test", range(self.examples("test"))))
        counts = np.unique(labels.numpy(), return_counts=True)[1]
        shares = counts / counts.sum()
        scores = {"accuracy": float(shares.max()), "loss": -float(shares @ np.log(shares))}
        return [Predictor("most frequent label", scores)]

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[np.ndarray, float]:
        """Whether each prediction is right, in order, and the mean loss."""
        correct, loss = [], 0.0
        for batch in batches:
            logits, _ = self.logits(model, batch)
            labels = answers(batch)
            correct.append((logits.argmax(-1) == labels).cpu().numpy())
            loss += summed_loss(logits, labels).item()
        right = np.concatenate(correct)
        return right, loss / len(right)


def answers(batch: Batch) -> Tensor:
    """The labels (K,) at labelled positions, in order."""
    labels = batch["labels"]
    return labels[labels != NO_LABEL]


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in nats of (K, V) and (K,), summed."""
    return F.cross_entropy(logits.float(), labels, reduction="sum")
