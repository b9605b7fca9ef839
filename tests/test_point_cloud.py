"""Point cloud completion: distances by brute force, examples and splits, predictors, every family and size."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from cab.compose import compose_requests
from tasks.backbones import pointops
from tasks.base import Data, TaskContext
from tasks.common import completion_baselines
from tasks.common.completion_baselines import CompletionBaselines
from tasks.data.packed_samples import unpack_cloud
from tasks.metrics.chamfer import chamfer_l1, distances, scores
from tasks.point_cloud import Options, PointCloud

NS, CS, NC, CC = Pattern
SHAPE = Shape(dim=16, heads=2, depth=2, hidden=32, length=16, memory=16)


def make(folder: Path, pattern: Pattern = NS, seed: int = 0, data: Data | None = None, **options) -> PointCloud:
    given = {"points": 32, "truth": 48, "width": 32, "validation_clouds": 4, "test_clouds": 6} | options
    if data is None:
        given = {"solids": 10} | given
    task = PointCloud(TaskContext(pattern, given.pop("shape", SHAPE), data or Data(), seed, folder), Options(**given))
    task.prepare()
    return task


def npz(folder: Path, shapes: np.ndarray) -> Data:
    """Three train shapes, then one for validation and two for test."""
    splits = np.array(["train"] * 3 + ["validation"] + ["test"] * 2)
    np.savez(folder / "shapes.npz", points=shapes, name=np.array(list("abcdef")), split=splits)
    return Data("local", str(folder / "shapes.npz"))


class Gives(nn.Module):
    """Completes to what is given, moved."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, partial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return partial[:, :8], partial + self.offset, no_loss(partial)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 9), (70, 33), (300, 200)])
@pytest.mark.parametrize("entries", [1, 1000, 2**21])
def test_scores_by_brute_force(n: int, m: int, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pointops.ENTRIES, "cpu", entries)
    rng = np.random.default_rng(n)
    clouds, truths = rng.normal(size=(3, n, 3)) * 0.02, rng.normal(size=(3, m, 3)) * 0.02
    found = scores(torch.from_numpy(clouds), torch.from_numpy(truths))
    loss = chamfer_l1(torch.from_numpy(clouds).float(), torch.from_numpy(truths).float())
    for row, (cloud, truth) in enumerate(zip(clouds, truths, strict=True)):
        table = np.sqrt(((cloud[:, None] - truth[None]) ** 2).sum(2))
        there, back = table.min(1), table.min(0)
        precision, recall = (there < 0.01).mean(), (back < 0.01).mean()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert found["cd_l1"][row].item() == pytest.approx(1000 * (there.mean() + back.mean()) / 2, rel=1e-9)
        assert found["cd_l2"][row].item() == pytest.approx(1000 * ((there**2).mean() + (back**2).mean()), rel=1e-9)
        assert found["f_score"][row].item() == pytest.approx(expected, abs=1e-9)
        assert loss[row].item() == pytest.approx((there.mean() + back.mean()) / 2, rel=1e-4)


def test_scores_by_hand() -> None:
    """One point at the origin, two true ones 0.003 and 0.004 (a right angle: 0.005 apart) and 0.02 away."""
    cloud = torch.zeros(1, 1, 3)
    truth = torch.tensor([[[0.003, 0.004, 0.0], [0.0, 0.0, 0.02]]])
    found = {name: value.item() for name, value in scores(cloud, truth).items()}
    assert found["cd_l1"] == pytest.approx((5 + 12.5) / 2)
    assert found["cd_l2"] == pytest.approx(1000 * (0.005**2 + (0.005**2 + 0.02**2) / 2))
    assert found["f_score"] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_gradients_of_distances() -> None:
    """Towards the nearest, of length 1; none, and no nan, where a point is met exactly. Both ways are finite."""
    truth = ball(6)[None]
    cloud = torch.from_numpy(np.concatenate([truth[:, :2], 3 * ball(3, 1)[None]], 1)).requires_grad_()
    given, back = distances(cloud, torch.from_numpy(truth)), distances(torch.from_numpy(truth), cloud)
    (gradient,) = torch.autograd.grad(given.sum(), cloud, retain_graph=True)
    torch.testing.assert_close(gradient.norm(dim=2)[0], torch.tensor([0.0, 0, 1, 1, 1], dtype=torch.float64))
    assert torch.autograd.grad(given.sum() + back.sum(), cloud)[0].isfinite().all()


def test_ids_are_pure(tmp_path: Path) -> None:
    one, two = make(tmp_path, views=2), make(tmp_path, views=2)
    ids = [7, 3, 1000, 8]
    expected = one.batch("train", ids)
    for i in range(0, 300, 10):
        two.batch("train", [i])
    for name, tensor in two.batch("train", ids).items():
        assert torch.equal(tensor, expected[name])
        assert torch.equal(torch.cat([two.batch("train", [i])[name] for i in ids]), tensor)


def test_an_epoch_has_every_view_once_and_seeds_differ(tmp_path: Path) -> None:
    task, other = make(tmp_path, views=3), make(tmp_path, seed=1, views=3)
    count = task.examples("train")
    assert count == 30
    first, second = (task.batch("train", range(e * count, (e + 1) * count))["partial"] for e in (0, 1))
    assert len({cloud.numpy().tobytes() for cloud in first}) == count
    assert {cloud.numpy().tobytes() for cloud in first} == {cloud.numpy().tobytes() for cloud in second}
    assert not torch.equal(first, second)
    assert not torch.equal(first, other.batch("train", range(count))["partial"])
    for split in ("validation", "test"):
        ids = range(task.examples(split))
        assert torch.equal(task.batch(split, ids)["partial"], other.batch(split, ids)["partial"])


def test_nothing_of_test_reaches_train(tmp_path: Path) -> None:
    """Other shapes in validation and test: train batches and the mean shape stay."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(6, 200, 3))
    before = make(tmp_path, data=npz(tmp_path, shapes))
    kept = before.batch("train", range(20))
    shapes[3:] = rng.normal(size=(3, 200, 3)) ** 3
    after = make(tmp_path, data=npz(tmp_path, shapes))
    for name, tensor in after.batch("train", range(20)).items():
        assert torch.equal(tensor, kept[name])
    assert not torch.equal(after.batch("test", [0])["partial"], before.batch("test", [0])["partial"])


def test_evaluated_clouds_are_spread(tmp_path: Path) -> None:
    for wanted, expected in ((1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, [*range(6)]), (100, [*range(6)])):
        data = npz(tmp_path, np.random.default_rng(0).normal(size=(6, 200, 3)))
        task = make(tmp_path, data=data, views=3, test_clouds=wanted)
        every = task.clouds.splits["test"].partial
        found = task.batch("test", range(task.examples("test")))["partial"].numpy()
        np.testing.assert_array_equal(found, every[expected])


def test_metrics_and_tables_of_an_evaluation(tmp_path: Path) -> None:
    task = make(tmp_path)
    batch = task.batch("test", range(6))
    expected = scores(batch["partial"] + 0.01, batch["complete"])
    evaluation = task.evaluate(Gives(0.01), "test", lambda batch: batch)
    for name, values in expected.items():
        assert evaluation.metrics[name] == pytest.approx(values.mean().item())
    rows = evaluation.tables["by_group"]
    assert [(row["group"], row["clouds"]) for row in rows] == [("2 parts", 3), ("3 parts", 3)]
    assert rows[1]["cd_l1"] == pytest.approx(expected["cd_l1"][[1, 3, 5]].mean().item())
    shown = evaluation.tables["clouds"]
    assert [row["cd_l1"] for row in shown] == pytest.approx(expected["cd_l1"][[0, 2, 3, 5]].tolist())
    np.testing.assert_allclose(unpack_cloud(shown[1]["complete"]), batch["complete"][2], atol=0.003)
    np.testing.assert_allclose(unpack_cloud(shown[1]["completed"]), batch["partial"][2] + 0.01, atol=0.003)
    loss, auxiliary = task.loss(Gives(0.01), batch)
    coarse = chamfer_l1(batch["partial"][:, :8], batch["complete"])
    assert loss.item() == pytest.approx((coarse + expected["cd_l1"] / 1000).sum().item(), rel=1e-4)
    assert task.targets(batch) == 6
    assert auxiliary == 0


def ball(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_nearest_shapes_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mean distance of what is given from each shape, at once and one by one."""
    rng = np.random.default_rng(0)
    shapes = np.stack([ball(60, i) * rng.uniform(0.2, 1, 3) for i in range(9)]).astype(np.float32)
    given = torch.from_numpy(shapes[[4, 7], 20:52] + rng.normal(size=(2, 32, 3)).astype(np.float32) * 0.05)
    distance = np.linalg.norm(given.numpy()[:, None, :, None] - shapes[None, :, None], axis=-1).min(3).mean(2)
    for entries in (1, 5000, 2**21):
        monkeypatch.setitem(completion_baselines.ENTRIES, "cpu", entries)
        found = CompletionBaselines(shapes, 80).nearest(given, 5).numpy()
        np.testing.assert_array_equal(found, distance.argsort(1)[:, :5])
    assert found[:, 0].tolist() == [4, 7]


def test_untrained_completions() -> None:
    """Of the nearest of the shapes that are looked at, with as many points as a model has."""
    shapes = np.stack([ball(60, i) * [1, 1, 0.1 * i] for i in range(9)]).astype(np.float32)
    given = torch.from_numpy(shapes[[3, 6], :32])
    found = CompletionBaselines(shapes, 82)(given)
    assert {name: len(completed[0]) for name, completed in found.items()} == {
        "mean shape (points of all train shapes)": 82,
        "what is given": 32,
        "what is given and the mean shape": 82,
        "what is given and its reflection through the middle": 64,
        "nearest train shape": 60,
        "what is given and the nearest train shape": 82,
        "what is given and the 4 nearest train shapes": 82,
    }
    for row, shape in enumerate((3, 6)):
        assert torch.equal(found["nearest train shape"][row], torch.from_numpy(shapes[shape]))
        assert (found["what is given and the nearest train shape"][row, 32:].numpy() == shapes[shape, :50]).all()
        mixed = found["what is given and the 4 nearest train shapes"][row, 32:].numpy()
        several = CompletionBaselines(shapes, 82).nearest(given, 4)[row].numpy()
        np.testing.assert_array_equal(mixed, shapes[several, :13].reshape(52, 3)[:50])
        assert torch.equal(found["what is given and the mean shape"][row, :32], given[row])
    assert "what is given and the 2 nearest train shapes" in CompletionBaselines(shapes[:2], 80)(given)
    assert len(CompletionBaselines(shapes[:1], 80)(given)) == 6
    few = CompletionBaselines(shapes, 80, most_shapes=3)
    assert len(set(few.compared)) == 3
    best = min(few.compared, key=lambda i: distances(given, torch.from_numpy(shapes[[i, i]])).mean(1)[0].item())
    assert torch.equal(few(given)["nearest train shape"][0], torch.from_numpy(shapes[best]))


def test_baselines_are_the_predictors(tmp_path: Path) -> None:
    """What is hidden of a ball is the reflection of what is seen; a test shape that is a train shape is known."""
    rng = np.random.default_rng(0)
    shapes = np.stack([ball(600, i) for i in range(6)])
    shapes[:3] = rng.normal(size=(3, 600, 3)) * [1, 0.1, 0.1]  # train shapes of another kind
    shapes[4] = shapes[5]
    reflected = make(tmp_path, data=npz(tmp_path, shapes), views=2)
    found = {each.name: each.metrics for each in reflected.predictors()}
    name = "what is given and its reflection through the middle"
    assert len(found) == 7
    assert min(found, key=lambda name: found[name]["cd_l1"]) == name
    batch = reflected.batch("test", range(reflected.examples("test")))
    expected = scores(torch.cat([batch["partial"], -batch["partial"]], 1), batch["complete"])
    assert found[name] == pytest.approx({name: values.mean().item() for name, values in expected.items()})
    reflected.clouds_per_batch = 3
    assert reflected.predictors()[3].metrics == pytest.approx(found[name])
    # One of three train shapes, sampled anew: nothing else comes near to it.
    shapes = np.stack([ball(600, i) * scale for i, scale in enumerate(([1, 0.1, 1], [0.1, 1, 1], [1, 1, 0.1]))] * 2)
    shapes[3:] = shapes[3:, ::-1]
    shapes += [0.3, 0, 0] * (shapes[..., :1] > 0)  # without a centre
    known = make(tmp_path, data=npz(tmp_path, shapes), views=2)
    best = min(known.predictors(), key=lambda each: each.metrics["cd_l1"])
    assert best.name == "what is given and the nearest train shape"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 15}, "memory=16: 15 points give as many proxies at most: use a smaller one"),
        ({"shape": Shape(16, 2, 2, 32, 16, 8)}, "memory=8, length=16: at least 16 proxies and queries are needed"),
        ({"shape": Shape(16, 2, 2, 32, 8, 16)}, "memory=16, length=8: at least 16"),
        ({"shape": Shape(16, 2, 2, 0, 16, 16)}, "hidden=0: at least 1 is needed"),
        ({"data": Data("hub")}, "data.source=hub: point_cloud has none"),
    ],
)
def test_impossible_requests(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **options)


def test_published_sizes() -> None:
    (request,) = compose_requests(["attention=vanilla", "pattern=noncausal_cross", "task=point_cloud", "size=paper"])
    task = request.build_task()
    assert task.completed_points == 14_336 + 2_048
    assert (request.shape.memory, request.shape.length) == (1_536, 3_584)


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    """Some steps on generated solids are better than what is given alone."""
    torch.manual_seed(0)
    shape = Shape(dim=32, heads=2, depth=1, hidden=64, length=64, memory=32)
    options = {"points": 128, "truth": 256, "solids": 512, "width": 64, "decoder_layers": 1, "fold": 1}
    task = make(tmp_path, NC, shape=shape, test_clouds=48, validation_clouds=16, **options)
    model = task.build(Slots(partial(Vanilla), NC))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(120):
        batch = task.batch("train", range(8 * step, 8 * step + 8))
        loss, auxiliary = task.loss(model, batch)
        (loss / task.targets(batch) + auxiliary).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found = task.evaluate(model, "test", lambda batch: batch)
        given = task.evaluate(Gives(), "test", lambda batch: batch)
    assert found.metrics["cd_l1"] < 0.9 * given.metrics["cd_l1"]
