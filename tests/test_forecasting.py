"""Forecasting: windows as published, nothing from behind a window's end, errors by hand, Informer in both patterns."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from attentions.base import Attention, Pattern, Shape, core_parameters, no_loss
from attentions.none import NoAttention
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.backbones.informer import Distil, distilled
from tasks.base import Data, TaskContext
from tasks.common import ridge_forecast
from tasks.forecasting import Forecasting, Options

NS, CS, NC, CC = Pattern
ROWS, LENGTH, HORIZON = 400, 30, 10
PARTS = {"train": (0, 280), "validation": (280, 320), "test": (320, 400)}


def frame() -> pd.DataFrame:
    """The first column counts the rows, so that a window says where it is from."""
    dates = pd.date_range("2016-07-01", periods=ROWS, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    rng = np.random.default_rng(0)
    day = np.sin(np.arange(ROWS) * 2 * np.pi / 24)
    noisy = 3 * day + rng.normal(0, 0.5, ROWS)
    return pd.DataFrame({"date": dates, "count": np.arange(float(ROWS)), "noisy": noisy, "OT": 5 + day})


def make(folder: Path, pattern: Pattern = NS, seed: int = 0, table: pd.DataFrame | None = None, **options):
    (frame() if table is None else table).to_csv(folder / "series.csv", index=False)
    shape = Shape(dim=16, heads=2, depth=2, hidden=32, length=options.pop("length", LENGTH))
    given = {"horizon": HORIZON, "label": 6, "validation_windows": None} | options
    context = TaskContext(pattern, shape, Data("local", str(folder / "series.csv")), seed, folder)
    task = Forecasting(context, Options(**given))
    task.prepare()
    return task


def rows_of(task: Forecasting, values: Tensor) -> np.ndarray:
    """Which rows of the file the values of column `count` are."""
    train = np.arange(280)
    return np.rint(values[..., 0].double().numpy() * train.std() + train.mean()).astype(int)


class Repeats(nn.Module):
    """Forecasts the last known step plus `offset`."""

    def __init__(self, horizon: int, offset: float = 0.0) -> None:
        super().__init__()
        self.horizon, self.offset = horizon, offset

    def forward(self, past: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return past[:, -1:].expand(-1, self.horizon, -1) + self.offset, no_loss(past)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_windows_are_every_one_of_their_part(tmp_path: Path, split) -> None:
    """Forecast steps lie in the part, each place once; known steps come right before, as in the published loader."""
    task = make(tmp_path)
    (start, end), count = PARTS[split], task.examples(split)
    batch = task.batch(split, range(count))
    past, future = rows_of(task, batch["past"]), rows_of(task, batch["future"])
    both = np.concatenate([past, future], 1)
    assert (np.diff(both) == 1).all()
    first = start + (LENGTH if split == "train" else 0)
    assert sorted(future[:, 0]) == list(range(first, end - HORIZON + 1))
    assert batch["time"].shape == (count, LENGTH + HORIZON, 4)
    hours = (batch["time"][:, :, 0] + 0.5) * 23
    np.testing.assert_array_equal(hours.round().int(), both % 24)


def test_ids_are_pure(tmp_path: Path) -> None:
    one, two = make(tmp_path), make(tmp_path)
    ids = [7, 3, 1000, 8]
    expected = one.batch("train", ids)["past"]
    for i in range(0, 3000, 50):
        two.batch("train", [i])  # other epochs in between
    torch.testing.assert_close(two.batch("train", ids)["past"], expected)
    torch.testing.assert_close(torch.cat([two.batch("train", [i])["past"] for i in ids]), expected)


def test_seeds_and_epochs_differ(tmp_path: Path) -> None:
    task, other = make(tmp_path), make(tmp_path, seed=1)
    count = task.examples("train")
    first, second = (task.batch("train", range(e * count, (e + 1) * count))["past"] for e in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other.batch("train", range(count))["past"])
    for split in ("validation", "test"):
        ids = range(task.examples(split))
        assert torch.equal(task.batch(split, ids)["future"], other.batch(split, ids)["future"])


def test_nothing_of_validation_or_test_reaches_train(tmp_path: Path) -> None:
    """Everything behind the train part may change, and every training example stays what it is."""
    table = frame()
    before = make(tmp_path, table=table).batch("train", range(1000))
    table.loc[280:, ["count", "noisy", "OT"]] = np.random.default_rng(1).normal(100, 50, (ROWS - 280, 3))
    changed = make(tmp_path, table=table)
    for name, tensor in changed.batch("train", range(1000)).items():
        assert torch.equal(tensor, before[name])
    assert not (changed.values[280:] < 1).all()


@pytest.mark.parametrize("wanted", [1, 2, 7, None, 10_000])
def test_evaluation_windows_are_spread(tmp_path: Path, wanted: int | None) -> None:
    task = make(tmp_path, test_windows=wanted)
    most = 80 - HORIZON + 1
    first = rows_of(task, task.batch("test", range(task.examples("test")))["future"])[:, 0]
    assert len(first) == task.examples("test") == min(wanted or most, most)
    assert (np.diff(first) > 0).all()
    if len(first) > 1:
        assert (first[0], first[-1]) == (320, 390)


def test_published_number_of_test_windows() -> None:
    """ETTh1, 168 steps ahead: every one of 2,880 - 168 + 1."""
    shape = Shape(16, 2, 2, 32, length=168)
    task = Forecasting(TaskContext(NS, shape, Data(), 0, Path()), Options(horizon=168, label=168, split="ett"))
    assert task.prepare().facts["test_windows"] == 2713
    assert task.examples("train") == 8640 - 2 * 168 + 1


def test_errors_by_hand(tmp_path: Path) -> None:
    task = make(tmp_path)
    model = Repeats(HORIZON, 0.25)
    batch = task.batch("test", range(task.examples("test")))
    error = (batch["past"][:, -1:] + 0.25 - batch["future"]).double().numpy()
    evaluation = task.evaluate(model, "test", lambda batch: batch)
    assert evaluation.metrics["mse"] == pytest.approx((error**2).mean())
    assert evaluation.metrics["mae"] == pytest.approx(np.abs(error).mean())
    distance, channel = evaluation.tables["error_by_distance"], evaluation.tables["error_by_channel"]
    assert [(row["from"], row["to"]) for row in distance] == [(1, 2), (3, 5), (6, 8), (9, 10)]
    assert distance[1]["mse"] == pytest.approx((error[:, 2:5] ** 2).mean())
    assert [row["channel"] for row in channel] == ["count", "noisy", "OT"]
    assert channel[2]["mae"] == pytest.approx(np.abs(error[..., 2]).mean())
    loss, auxiliary = task.loss(model, batch)
    assert loss.item() / task.targets(batch) == pytest.approx((error**2).mean(), rel=1e-5)
    assert auxiliary == 0


def scores(task: Forecasting) -> dict[str, dict[str, float]]:
    return {each.name: each.metrics for each in task.predictors()}


def test_last_value_and_seasonal_naive(tmp_path: Path) -> None:
    last = make(tmp_path, variables="univariate", target="count")
    repeated = last.evaluate(Repeats(HORIZON), "test", lambda batch: batch).metrics
    assert scores(last)["last value"] == pytest.approx(repeated)
    daily = make(tmp_path, variables="univariate")
    assert scores(daily)["seasonal naive (24 steps)"]["mse"] < 1e-6
    off = make(tmp_path, variables="univariate", period=7)
    batch = off.batch("test", range(off.examples("test")))
    naive = torch.cat([batch["past"][:, -7:], batch["past"][:, -7:-4]], 1)
    error = naive - batch["future"]
    expected = {"mse": error.square().mean().item(), "mae": error.abs().mean().item()}
    assert scores(off)["seasonal naive (7 steps)"] == pytest.approx(expected)
    short = make(tmp_path, variables="univariate", length=20)
    assert not any(name.startswith("seasonal") for name in scores(short))  # a day is not known


def test_ridge_regression(tmp_path: Path) -> None:
    """Least squares with rows for the penalty; of these strengths the one that does best on validation."""
    task = make(tmp_path, table=frame().drop(columns="count"))
    past = {split: [] for split in PARTS}
    future = {split: [] for split in PARTS}
    for split, (start, end) in PARTS.items():
        first = start + LENGTH if split == "train" else start
        for channel in task.values.T.astype(np.float64):
            for now in range(first, end - HORIZON + 1):
                past[split].append(
                    np.append(channel[now - LENGTH : now], 1) - np.append([channel[now - 1]] * LENGTH, 0)
                )
                future[split].append(channel[now : now + HORIZON] - channel[now - 1])
    rows = len(past["train"])
    found = []
    for strength in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1):
        penalty = np.sqrt(strength * rows) * np.eye(LENGTH + 1)[:LENGTH]
        targets = np.concatenate([future["train"], np.zeros((LENGTH, HORIZON))])
        weights = np.linalg.lstsq(np.concatenate([past["train"], penalty]), targets, rcond=None)[0]
        errors = {split: np.array(past[split]) @ weights - future[split] for split in ("validation", "test")}
        test = {"mse": (errors["test"] ** 2).mean(), "mae": np.abs(errors["test"]).mean()}
        found.append(((errors["validation"] ** 2).mean(), test))
    best = min(found, key=lambda each: each[0])[1]
    assert scores(task)["ridge regression"] == pytest.approx(best)
    assert best != max((test for _, test in found), key=lambda test: test["mse"])


def test_ridge_regression_does_not_see_the_test_part(tmp_path: Path) -> None:
    task, table = make(tmp_path), frame()
    table.loc[PARTS["test"][0] :, ["count", "noisy", "OT"]] *= -3
    other = make(tmp_path, table=table)
    assert (task._ridge_weights() == other._ridge_weights()).all()
    table.loc[PARTS["validation"][0] :, ["count", "noisy", "OT"]] = np.random.default_rng(0).normal(0, 9, (120, 3))
    assert (task._ridge_weights() != make(tmp_path, table=table)._ridge_weights()).any()


def test_ridge_regression_uses_windows_all_over_a_long_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_forecast, "MOST_ROWS", 6)
    values = np.random.default_rng(0).normal(size=(50, 2))
    found = ridge_forecast.moments(values, 4, 3)
    rows = np.array([values[start : start + 7, channel] for start in (0, 21, 43) for channel in (0, 1)])
    x = np.concatenate([rows[:, :4] - rows[:, 3:4], np.ones((6, 1))], 1)
    np.testing.assert_allclose(found.inputs, x.T @ x / 6, atol=1e-12)
    np.testing.assert_allclose(found.targets, x.T @ (rows[:, 4:] - rows[:, 3:4]) / 6, atol=1e-12)


def test_univariate_is_one_column(tmp_path: Path) -> None:
    for target, expected in ((None, "OT"), ("noisy", "noisy")):
        task = make(tmp_path, variables="univariate", target=target)
        own = frame()[expected].to_numpy()
        scaled = (own - own[:280].mean()) / own[:280].std()
        np.testing.assert_allclose(task.values[:, 0], scaled, rtol=1e-4, atol=1e-5)
        assert task.values.shape == (ROWS, 1)
        assert task.build(Slots(partial(Vanilla), NS)).head.out_features == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 31}, "label=31: only length=30 steps are known: use a smaller label"),
        ({"target": "load", "variables": "univariate"}, "target='load': no such column: use one of count, noisy, OT"),
        ({"target": "OT"}, "task.target=OT: has no effect with variables=multivariate: leave it out"),
        ({"split": "ett"}, "split=ett: 20 months are 14,400 steps"),
        ({"horizon": 41}, "horizon=41: the validation part has 40 steps, a window needs 41: use a smaller"),
        ({"horizon": 81}, "horizon=81: the validation part has 40 steps"),
        ({"length": 271}, "length=271, horizon=10: the train part has 280 steps, a window needs 281"),
    ],
)
def test_impossible_requests(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **options)


@pytest.mark.parametrize("length", [1, 2, 7, 30, 96, 337])
def test_distilling_halves(length: int) -> None:
    x, distil = torch.randn(2, length, 8), Distil(8)
    for times in range(1, 4):
        x = distil(x)
        assert x.shape == (2, distilled(length, times), 8)


@pytest.mark.parametrize(("pattern", "taken"), [(NS, "encoder.self"), (NC, "decoder.cross")])
def test_slots_have_the_lengths_that_they_see(tmp_path: Path, pattern: Pattern, taken: str) -> None:
    task = make(tmp_path, pattern, decoder_layers=2, length=29)
    slots = Slots(partial(NoAttention), pattern)
    model = task.build(slots)
    assert slots.took == [taken]
    seen: dict[Attention, tuple[int, int]] = {}

    def note(module: nn.Module, given: tuple) -> None:
        assert isinstance(module, Attention)
        seen[module] = (given[0].shape[1], 0 if given[1] is None else given[1].shape[1])

    for module in model.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(note)
            assert type(module) is (NoAttention if module.pattern is pattern else Vanilla)
    batch = task.batch("train", range(2))
    model(batch["past"], batch["time"])
    sizes = [(m.pattern, m.shape.length, m.shape.memory) for m in seen]
    assert sizes[:2] == [(NS, 29, 0), (NS, 15, 0)]
    assert sizes[2:] == [(CS, 16, 0), (NC, 16, 15)] * 2
    for module, (length, memory) in seen.items():
        assert length == module.shape.length
        assert memory == (module.shape.memory if module.pattern.cross else 0)
    vanilla = task.build(Slots(partial(Vanilla), pattern))
    assert core_parameters(model) == pytest.approx(core_parameters(vanilla), rel=0.01)


def test_what_a_forecast_depends_on(tmp_path: Path) -> None:
    """Both ends of the known steps and the dates ahead matter; the neighbours in a batch do not."""
    torch.manual_seed(0)
    task = make(tmp_path)
    model = task.build(Slots(partial(Vanilla), NS))
    batch = task.batch("train", range(3))
    base = model(batch["past"], batch["time"])[0]
    assert base.shape == batch["future"].shape
    for name, step in (("past", 0), ("past", LENGTH - 1), ("time", LENGTH + 3)):
        moved = {key: tensor.clone() for key, tensor in batch.items()}
        moved[name][1, step] += 1
        after = model(moved["past"], moved["time"])[0]
        assert (after[1] - base[1]).abs().amax() > 1e-4
        torch.testing.assert_close(after[[0, 2]], base[[0, 2]])


def test_the_dates_ahead_are_seen_by_all_steps_from_them_on(tmp_path: Path) -> None:
    """The decoder's own attention is causal: a date changes no forecast before it."""
    torch.manual_seed(0)
    task = make(tmp_path)
    model = task.build(Slots(partial(Vanilla), NS))
    batch = task.batch("train", range(1))
    base = model(batch["past"], batch["time"])[0]
    batch["time"][:, LENGTH + 4] += 1
    change = (model(batch["past"], batch["time"])[0] - base).abs().amax(-1)[0]
    assert (change[:4] < 1e-6).all()
    assert (change[4:] > 1e-6).all()


def test_it_learns(tmp_path: Path) -> None:
    """A few steps on the synthetic series beat repeating yesterday."""
    torch.manual_seed(0)
    shape = Shape(dim=32, heads=2, depth=2, hidden=64, length=48)
    task = Forecasting(TaskContext(NC, shape, Data(), 0, tmp_path), Options(horizon=12, label=12, test_windows=100))
    task.prepare()
    model = task.build(Slots(partial(Vanilla), NC))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(200):
        batch = task.batch("train", range(16 * step, 16 * step + 16))
        loss, auxiliary = task.loss(model, batch)
        (loss / task.targets(batch) + auxiliary).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found = task.evaluate(model, "test", lambda batch: batch)
    assert found.metrics["mse"] < 0.8 * scores(task)["seasonal naive (24 steps)"]["mse"]
