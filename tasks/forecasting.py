"""Long-term forecasting: the next `horizon` steps of a series of several channels, with Informer.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): Informer (Zhou et al., AAAI 2021, arXiv 2012.07436) on ETT, ECL
and Weather; mean squared and absolute error of standardised values. noncausal_self puts the family under test into the
encoder, noncausal_cross into the decoder's attention to the encoder; the decoder's own attention stays vanilla.

`shape.length` is the length of the encoder's input and `shape.depth` its layers; `shape.memory` is not used, because
the encoder's output is the memory. A window is `length` known steps and `horizon` steps to forecast. Training windows
start at every step of the train part, in a random order in every epoch. The forecast steps of an evaluation window lie
in its own part; its known steps may reach back into the part before, as published.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.informer import Informer
from tasks.backbones.positions import InputPositions
from tasks.base import Batch, Evaluation, Metric, Move, Predictor, Row, Source, Split, Task, TaskContext
from tasks.base import Options as BaseOptions
from tasks.common.ridge_forecast import STRENGTHS, fitted, forecast, moments
from tasks.data.epochs import Epochs
from tasks.data.series import DAY, Series, SplitKind, series, split_parts, standardised, time_features

TOKENS_PER_BATCH = 2**14
"""Of an evaluation batch."""
HORIZON_PARTS = 4
"""Rows of the table of errors by distance."""

Forecast = Callable[[np.ndarray], np.ndarray]
"""Known steps (B, L, C) to steps to forecast (B, H, C)."""


class Options(BaseOptions):
    horizon: int = Field(48, ge=1)
    """Steps to forecast."""
    label: int = Field(24, ge=1)
    """Known steps that the decoder starts from."""
    decoder_layers: int = Field(1, ge=1)
    variables: Literal["multivariate", "univariate"] = "multivariate"
    target: str | None = None
    """The column of a univariate forecast; None = the last one."""
    split: SplitKind = "fractions"
    period: int | None = Field(None, ge=1)
    """Steps of the seasonal naive forecast; None = a day."""
    positions: InputPositions = "sinusoidal"
    validation_windows: int | None = Field(256, ge=1)
    """None = a window at every step, as published."""
    test_windows: int | None = Field(None, ge=1)


class Forecasting(Task):
    name = "forecasting"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS)
    metrics = (Metric("mse", "lower"), Metric("mae", "lower"))
    uses_memory = False
    options: Options
    values: np.ndarray
    """(T, C) float32, standardised."""
    _series: Series
    _time: np.ndarray
    _parts: dict[Split, tuple[int, int]]
    _epochs: Epochs

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options)
        if options.variables == "multivariate":
            self.refuse_option("target", "with variables=multivariate")
        length = self.shape.length
        if options.label > length:
            raise ValueError(f"label={options.label}: only length={length} steps are known: use a smaller label")
        self.windows_per_batch = max(1, TOKENS_PER_BATCH // (length + options.label + options.horizon))
        """In an evaluation."""
        self.windows: dict[Split, int | None] = {
            "validation": options.validation_windows,
            "test": options.test_windows,
        }

    def prepare(self) -> Source:
        found = self._select_channels(series(self.data))
        parts = split_parts(found, self.options.split)
        for name, (start, end) in parts.items():
            need = self.options.horizon + (self.shape.length if name == "train" else 0)
            if end - start < need:
                sizes = f"length={self.shape.length}, horizon={self.options.horizon}"
                raise ValueError(
                    f"{sizes}: the {name} part has {end - start:,} steps, a window needs {need:,}: "
                    "use a smaller length or horizon, or a longer series"
                )
        self._series, self._parts = found, parts
        self.values, self._time = standardised(found, parts["train"]), time_features(found)
        self._epochs = Epochs(self.seed, self._starts("train")[1])
        facts: dict[str, int | float | str] = {f"{name}_steps": end - start for name, (start, end) in parts.items()}
        facts |= {"channels": len(found.columns), "step_seconds": found.step, "test_windows": self.examples("test")}
        return Source(found.description, found.real, found.content, facts)

    def build(self, slots: Slots) -> nn.Module:
        options, channels = self.options, self.values.shape[1]
        sizes = channels, self._time.shape[1], options.label, options.horizon, options.decoder_layers
        return Informer(slots, self.shape, *sizes, options.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`past` (B, L, C) is known, `future` (B, H, C) is the target; `time` (B, L + H, F) covers both."""
        if split == "train":
            starts = self._starts("train")[0] + self._epochs(ids)
        else:
            starts = self._evaluation_starts(split)[list(ids)]
        rows = starts[:, None] + np.arange(self.shape.length + self.options.horizon)
        known, ahead = rows[:, : self.shape.length], rows[:, self.shape.length :]
        arrays = {"past": self.values[known], "future": self.values[ahead], "time": self._time[rows]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def examples(self, split: Split) -> int:
        wanted, most = self.windows.get(split), self._starts(split)[1]
        return most if wanted is None else min(wanted, most)

    def targets(self, batch: Batch) -> int:
        return batch["future"].numel()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        forecast, auxiliary = model(batch["past"], batch["time"])
        return F.mse_loss(forecast.float(), batch["future"], reduction="sum"), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        squared = absolute = np.zeros(())
        for batch in self.batches(split, self.windows_per_batch, move):
            error = (model(batch["past"], batch["time"])[0].float() - batch["future"]).cpu().double()
            squared, absolute = squared + (error**2).sum(0).numpy(), absolute + error.abs().sum(0).numpy()
        mse, mae = squared / self.examples(split), absolute / self.examples(split)  # (H, C)
        tables = {"error_by_distance": self._by_distance(mse, mae), "error_by_channel": self._by_channel(mse, mae)}
        return Evaluation(_scores(mse, mae), tables)

    def predictors(self) -> list[Predictor]:
        """The last known value, the last known period, repeated, and ridge regression, its strength from validation."""
        length, period = self.shape.length, self.options.period or max(1, DAY // self._series.step)
        ahead = np.arange(self.options.horizon)
        forecasts: dict[str, Forecast] = {"last value": lambda past: past[:, np.full_like(ahead, length - 1)]}
        if period <= length:
            steps = length - period + ahead % period
            forecasts[f"seasonal naive ({period} steps)"] = lambda past: past[:, steps]
        forecasts["ridge regression"] = partial(forecast, self._ridge_weights())
        return [Predictor(name, scores) for name, scores in self._scores_of(forecasts, "test").items()]

    def _ridge_weights(self) -> np.ndarray:
        start, end = self._parts["train"]
        found = moments(self.values[start:end], self.shape.length, self.options.horizon)
        candidates = {str(strength): fitted(found, strength) for strength in STRENGTHS}
        scores = self._scores_of({name: partial(forecast, own) for name, own in candidates.items()}, "validation")
        return candidates[min(scores, key=lambda name: scores[name]["mse"])]

    def _scores_of(self, forecasts: Mapping[str, Forecast], split: Split) -> dict[str, dict[str, float]]:
        sums = {name: np.zeros(2) for name in forecasts}
        for batch in self.batches(split, self.windows_per_batch, lambda batch: batch):
            past, future = batch["past"].numpy(), batch["future"].numpy()
            for name, own in forecasts.items():
                error = own(past) - future.astype(np.float64)
                sums[name] += [(error**2).mean((1, 2)).sum(), np.abs(error).mean((1, 2)).sum()]
        count = self.examples(split)
        return {name: {"mse": float(mse / count), "mae": float(mae / count)} for name, (mse, mae) in sums.items()}

    def _select_channels(self, found: Series) -> Series:
        """The series with the channels to forecast."""
        if self.options.variables == "multivariate":
            return found
        target = found.columns[-1] if self.options.target is None else self.options.target
        if target not in found.columns:
            raise ValueError(f"target={target!r}: no such column: use one of {', '.join(found.columns)}")
        column = found.values[:, [found.columns.index(target)]]
        return Series(found.description, found.real, found.content, (target,), found.dates, column)

    def _starts(self, split: Split) -> tuple[int, int]:
        """The start of the first window, and the number of windows at a distance of one step."""
        start, end = self._parts[split]
        first = start if split == "train" else start - self.shape.length
        return first, end - first - self.shape.length - self.options.horizon + 1

    def _evaluation_starts(self, split: Split) -> np.ndarray:
        (first, most), count = self._starts(split), self.examples(split)
        return first + np.arange(count) * (most - 1) // max(1, count - 1)

    def _by_distance(self, mse: np.ndarray, mae: np.ndarray) -> list[Row]:
        ends = sorted({round(part * self.options.horizon / HORIZON_PARTS) for part in range(HORIZON_PARTS + 1)})
        rows: list[Row] = []
        for start, end in pairwise(ends):
            rows.append({"from": start + 1, "to": end, **_scores(mse[start:end], mae[start:end])})
        return rows

    def _by_channel(self, mse: np.ndarray, mae: np.ndarray) -> list[Row]:
        names = self._series.columns
        return [{"channel": name, **_scores(mse[:, i], mae[:, i])} for i, name in enumerate(names)]


def _scores(mse: np.ndarray, mae: np.ndarray) -> dict[str, float]:
    return {"mse": float(mse.mean()), "mae": float(mae.mean())}
