"""Long-term forecasting: the next `horizon` steps of a series of several channels, with Informer.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): Informer (Zhou et al., AAAI 2021, arXiv 2012.07436) on ETT, ECL
and Weather; mean squared and absolute error of standardised values. noncausal_self puts the family under test into the
encoder, noncausal_cross into the decoder's attention to the encoder; the decoder's own attention stays vanilla.

`shape.length` is the encoder's input and `shape.depth` its layers; `shape.memory` is not used, the encoder's output is
the memory. A window is `length` known steps and `horizon` steps to forecast. Training windows start at every step of
the train part, in a random order in every epoch. What an evaluation window forecasts lies in its own part; what it
knows may reach back into the part before, as published.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern, Shape, check_whole
from attentions.slots import Slots
from tasks.backbones.informer import Informer
from tasks.backbones.positions import PositionKind, check_positions
from tasks.base import Batch, Data, Evaluation, Metric, Move, Source, Split, Task, Trivial
from tasks.data.epochs import Epochs
from tasks.data.series import DAY, Series, SplitKind, series, split_parts, standardised, time_features

EVALUATED_AT_ONCE = 2**14
"""Tokens in an evaluation batch."""
HORIZON_PARTS = 4
"""Rows of the table of errors by distance."""

Row = dict[str, int | float | str]


class Forecasting(Task):
    """Options: `horizon` and `label` (known steps that the decoder starts from), `decoder_layers`, `variables` with the
    `target` of univariate forecasts (null = the last column), `split`, the `period` of the seasonal naive forecast in
    steps (null = a day), `positions`, and how many windows are evaluated (null = one for every step, as published)."""

    name = "forecasting"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS)
    metrics = (Metric("mse", "lower"), Metric("mae", "lower"))
    values: np.ndarray
    """(T, C) float32, standardised."""
    _series: Series
    _time: np.ndarray
    _parts: dict[Split, tuple[int, int]]
    _epochs: Epochs

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        *,
        horizon: int = 48,
        label: int = 24,
        decoder_layers: int = 1,
        variables: Literal["multivariate", "univariate"] = "multivariate",
        target: str | None = None,
        split: SplitKind = "fractions",
        period: int | None = None,
        positions: PositionKind = "sinusoidal",
        validation_windows: int | None = 256,
        test_windows: int | None = None,
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache)
        check_positions(positions)
        if variables not in ("multivariate", "univariate"):
            raise ValueError(f"variables={variables!r}: use multivariate or univariate")
        wholes = {"horizon": horizon, "label": label, "decoder_layers": decoder_layers}
        optional = {"period": period, "validation_windows": validation_windows, "test_windows": test_windows}
        for name, value in (wholes | {name: value for name, value in optional.items() if value is not None}).items():
            check_whole(name, value)
        if label > shape.length:
            raise ValueError(f"label={label}: only length={shape.length} steps are known: use a smaller label")
        self.horizon, self.label, self.decoder_layers = horizon, label, decoder_layers
        self.variables, self.target, self.split, self.period = variables, target, split, period
        self.positions = positions
        self.windows: dict[Split, int | None] = {"validation": validation_windows, "test": test_windows}

    def prepare(self) -> Source:
        found = self._chosen(series(self.data))
        parts = split_parts(found, self.split)
        for name, (start, end) in parts.items():
            need = self.horizon + (self.shape.length if name == "train" else 0)
            if end - start < need:
                raise ValueError(
                    f"length={self.shape.length}, horizon={self.horizon}: the {name} part has {end - start:,} steps, "
                    f"a window needs {need:,}: use a smaller length or horizon, or a longer series"
                )
        self._series, self._parts = found, parts
        self.values, self._time = standardised(found, parts["train"]), time_features(found)
        self._epochs = Epochs(self.seed, self._starts("train")[1])
        facts: dict[str, int | float | str] = {f"{name}_steps": end - start for name, (start, end) in parts.items()}
        facts |= {"channels": len(found.columns), "step_seconds": found.step, "test_windows": self.examples("test")}
        return Source(found.description, found.real, found.content, facts)

    def build(self, slots: Slots) -> nn.Module:
        sizes = self.values.shape[1], self._time.shape[1], self.label, self.horizon, self.decoder_layers
        return Informer(slots, self.shape, *sizes, self.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`past` (B, L, C) is known, `future` (B, H, C) is to be forecast; `time` (B, L + H, F) covers both."""
        if split == "train":
            starts = self._starts("train")[0] + self._epochs(ids)
        else:
            starts = self._evaluation_starts(split)[list(ids)]
        rows = starts[:, None] + np.arange(self.shape.length + self.horizon)
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
        for batch in self.batches(split, self._at_once(), move):
            error = (model(batch["past"], batch["time"])[0].float() - batch["future"]).cpu().double()
            squared, absolute = squared + (error**2).sum(0).numpy(), absolute + error.abs().sum(0).numpy()
        mse, mae = squared / self.examples(split), absolute / self.examples(split)  # (H, C)
        tables = {"error_by_distance": self._by_distance(mse, mae), "error_by_channel": self._by_channel(mse, mae)}
        return Evaluation(_scores(mse, mae), tables)

    def trivial(self) -> Trivial:
        """The better of two: the last known values, and those of the last known period, over and over."""
        length, period = self.shape.length, self.period or max(1, DAY // self._series.step)
        ahead = np.arange(self.horizon)
        sources = {"last value": np.full(self.horizon, length - 1)}
        if period <= length:
            sources[f"seasonal naive ({period} steps)"] = length - period + ahead % period
        sums = {name: np.zeros(2) for name in sources}
        for batch in self.batches("test", self._at_once(), lambda batch: batch):
            for name, steps in sources.items():
                error = (batch["past"][:, steps] - batch["future"]).double()
                sums[name] += [(error**2).mean((1, 2)).sum().item(), error.abs().mean((1, 2)).sum().item()]
        name = min(sums, key=lambda name: sums[name][0])
        mse, mae = sums[name] / self.examples("test")
        return Trivial(name, {"mse": float(mse), "mae": float(mae)})

    def _chosen(self, found: Series) -> Series:
        """The series with the channels that are forecast."""
        target = found.columns[-1] if self.target is None else self.target
        if target not in found.columns:
            raise ValueError(f"target={target!r}: no such column: use one of {', '.join(found.columns)}")
        if self.variables == "multivariate":
            return found
        column = found.values[:, [found.columns.index(target)]]
        return Series(found.description, found.real, found.content, (target,), found.dates, column)

    def _at_once(self) -> int:
        return max(1, EVALUATED_AT_ONCE // (self.shape.length + self.label + self.horizon))

    def _starts(self, split: Split) -> tuple[int, int]:
        """Where the first window starts, and how many there are with a step between them."""
        start, end = self._parts[split]
        first = start if split == "train" else start - self.shape.length
        return first, end - first - self.shape.length - self.horizon + 1

    def _evaluation_starts(self, split: Split) -> np.ndarray:
        (first, most), count = self._starts(split), self.examples(split)
        return first + np.arange(count) * (most - 1) // max(1, count - 1)

    def _by_distance(self, mse: np.ndarray, mae: np.ndarray) -> list[Row]:
        ends = sorted({round(part * self.horizon / HORIZON_PARTS) for part in range(HORIZON_PARTS + 1)})
        rows: list[Row] = []
        for start, end in pairwise(ends):
            rows.append({"from": start + 1, "to": end, **_scores(mse[start:end], mae[start:end])})
        return rows

    def _by_channel(self, mse: np.ndarray, mae: np.ndarray) -> list[Row]:
        names = self._series.columns
        return [{"channel": name, **_scores(mse[:, i], mae[:, i])} for i, name in enumerate(names)]


def _scores(mse: np.ndarray, mae: np.ndarray) -> dict[str, float]:
    return {"mse": float(mse.mean()), "mae": float(mae.mean())}
