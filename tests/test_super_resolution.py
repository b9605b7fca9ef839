"""Super-resolution: pure examples, scores against brute force, every family in the U-Net, pictures in a record."""

import math
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.backbones.diffusion import RESIDUAL
from tasks.base import Data, TaskContext
from tasks.data.packed_samples import unpack_image
from tasks.super_resolution import Options, SuperResolution, scores

NS = Pattern.NONCAUSAL_SELF


def waves(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """Coloured waves almost too fine for half as many pixels: bicubic filters wear them down."""
    rng = np.random.default_rng(seed)
    down, across = np.indices((height, width))
    angle, rate, colour = rng.uniform(0, math.pi), rng.uniform(0.9, 1.2), rng.uniform(-1, 1, 3)
    wave = np.sin(rate * (down * math.cos(angle) + across * math.sin(angle)))
    return (127.5 + 100 * wave[..., None] * colour).astype(np.uint8)


def folder(root: Path, train: int = 6, test: int = 3, first_test: int = 100) -> Path:
    for split, first, count in (("train", 0, train), ("test", first_test, test)):
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(waves(first + i)).save(root / split / f"{i}.png")
    return root


def make(root: Path, seed: int = 0, shape: Shape | None = None, **options) -> SuperResolution:
    data = root if root.name == "data" else root / "data"
    if not data.exists():
        folder(data)
    given = {"multipliers": [1, 2], "attention_sizes": [16, 8]} | options
    shape = shape or Shape(16, 2, 1, 0, 256)
    task = SuperResolution(TaskContext(NS, shape, Data("local", str(data)), seed, root / "cache"), Options(**given))
    task.prepare()
    return task


class Adds(nn.Module):
    """Adds the same to every condition."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, noisy: Tensor, condition: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(noisy, self.value / RESIDUAL), no_loss(noisy)


# Examples


def test_ids_are_pure(tmp_path: Path) -> None:
    one, two = make(tmp_path), make(tmp_path)
    ids = [7, 3, 1000, 8]
    expected = one.batch("train", ids)
    for i in range(0, 500, 50):
        two.batch("train", [i])  # other epochs in between
    for name, tensor in two.batch("train", ids).items():
        torch.testing.assert_close(tensor, expected[name])
        torch.testing.assert_close(torch.cat([two.batch("train", [i])[name] for i in ids]), tensor)


def test_seeds_change_training_only(tmp_path: Path) -> None:
    task, other = make(tmp_path), make(tmp_path, seed=1)
    for name, tensor in task.batch("train", range(8)).items():
        assert not torch.equal(tensor, other.batch("train", range(8))[name])
    for split in ("validation", "test"):
        ids = range(task.examples(split))
        for name, tensor in task.batch(split, ids).items():
            assert torch.equal(tensor, other.batch(split, ids)[name])
            torch.testing.assert_close(torch.cat([task.batch(split, [i])[name] for i in ids]), tensor)
    same = task.batch("validation", [0])["noise"]
    assert not torch.equal(same, task.batch("test", [0])["noise"])
    assert not torch.equal(same, task.batch("validation", [1])["noise"])


def test_an_epoch_sees_every_whole_image_once(tmp_path: Path) -> None:
    task = make(tmp_path, crop="whole")
    count = task.examples("train")
    assert count == 5  # one of six is validation
    for epoch in range(3):
        images = task.batch("train", range(epoch * count, (epoch + 1) * count))["image"]
        both = {min(i.numpy().tobytes(), i.flip(-1).numpy().tobytes()) for i in images}
        assert len(both) == count
    orders = {tuple(task.batch("train", [i])["image"].mean().item() for i in range(e * 5, e * 5 + 5)) for e in range(4)}
    assert len(orders) > 1


def test_the_condition_is_made_from_a_small_image(tmp_path: Path) -> None:
    task = make(tmp_path)
    for split in ("train", "test"):
        batch = task.batch(split, range(3))
        for image, condition in zip(batch["image"], batch["condition"], strict=True):
            pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            small = Image.fromarray(pixels).resize((4, 4), Image.Resampling.BICUBIC)
            assert small.size == (4, 4)
            again = np.asarray(small.resize((16, 16), Image.Resampling.BICUBIC))
            np.testing.assert_array_equal(((condition + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), again)


def test_noise_and_levels_are_as_published(tmp_path: Path) -> None:
    batch = make(tmp_path).batch("train", range(400))
    assert batch["noise"].mean().abs() < 0.01
    assert batch["noise"].std() == pytest.approx(1, abs=0.01)
    level = batch["level"]
    assert len(set(level.tolist())) > 390
    assert 0 < level.min() < 0.05
    assert 0.95 < level.max() < 1
    assert (level > math.sqrt(0.5)).float().mean() == pytest.approx(526 / 2000, abs=0.07)


def test_nothing_of_test_reaches_train(tmp_path: Path) -> None:
    before = make(folder(tmp_path / "a" / "data")).batch("train", range(60))
    changed = make(folder(tmp_path / "b" / "data", first_test=500))
    for name, tensor in changed.batch("train", range(60)).items():
        assert torch.equal(tensor, before[name])


def test_evaluated_squares_are_spread(tmp_path: Path) -> None:
    task = make(tmp_path)
    assert task.examples("test") == 3 * 2 * 3
    few = make(tmp_path, test_images=4, validation_images=3)
    assert (few.examples("test"), few.examples("validation")) == (4, 3)
    everything, some = task.batch("test", range(18))["image"], few.batch("test", range(4))["image"]
    found = [next(i for i, image in enumerate(everything) if torch.equal(image, one)) for one in some]
    assert found == [0, 5, 11, 17]


def test_the_record_says_what_was_used(tmp_path: Path) -> None:
    task = make(tmp_path)
    source = task.prepare()
    assert source.real
    wanted = {
        "train_images": 5,
        "test_images": 3,
        "size": 16,
        "small_size": 4,
        "train_squares": 30,
        "test_evaluated": 18,
    }
    assert wanted.items() <= source.facts.items()


# Scores


def brute_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """(3, S, T) within [0, 1]: every window of 11 x 11 that fits."""
    offsets = np.arange(11) - 5
    one = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(one, one) / one.sum() ** 2
    found = []
    for x, y in zip(a, b, strict=True):
        for down in range(a.shape[1] - 10):
            for across in range(a.shape[2] - 10):
                p, q = x[down : down + 11, across : across + 11], y[down : down + 11, across : across + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p**2).sum() - mp**2, (window * q**2).sum() - mq**2
                both = (window * p * q).sum() - mp * mq
                top = (2 * mp * mq + 0.01**2) * (2 * both + 0.03**2)
                found.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    return float(np.mean(found))


def test_scores_against_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    rng = np.random.default_rng(0)
    truths = rng.uniform(-1, 1, (3, 3, 18, 20))
    images = (truths + rng.normal(0, [[[[0.1]]], [[[0.5]]], [[[0.02]]]], truths.shape)).clip(-1, 1)
    for found, image, truth in zip(scores(torch.tensor(images), torch.tensor(truths)), images, truths, strict=True):
        error = (((image - truth) / 2) ** 2).mean()
        assert found[0] == pytest.approx(10 * math.log10(1 / error), abs=1e-3)
        assert found[1] == pytest.approx(brute_ssim((image + 1) / 2, (truth + 1) / 2), abs=1e-4)


def test_an_image_without_error_has_a_score() -> None:
    flat = torch.full((2, 3, 16, 16), 0.5)
    assert scores(flat, flat) == [(100.0, pytest.approx(1))] * 2


def test_evaluation_by_hand(tmp_path: Path) -> None:
    """A model that adds nothing scores what bicubic interpolation does."""
    task = make(tmp_path, test_images=7)
    (bicubic,) = task.predictors()
    assert bicubic.name == "bicubic"
    assert task.evaluate(Adds(), "test", lambda batch: batch).metrics == pytest.approx(bicubic.metrics, rel=1e-5)
    found = task.evaluate(Adds(0.2), "test", lambda batch: batch)
    batch = task.batch("test", range(7))
    errors = ((((batch["condition"] + 0.2).clamp(-1, 1) - batch["image"]) / 2) ** 2).mean((1, 2, 3))
    psnr = 10 * (1 / errors).log10()
    assert found.metrics["psnr"] == pytest.approx(psnr.mean().item(), rel=1e-5)
    rows = found.tables["images"]
    assert [row["example"] for row in rows] == [0, 1, 2, 4, 5, 6]
    assert [row["psnr"] for row in rows] == pytest.approx(psnr[[0, 1, 2, 4, 5, 6]].tolist(), rel=1e-5)


def test_batches_do_not_change_an_evaluation(tmp_path: Path) -> None:
    task = make(tmp_path, test_images=5)
    model = task.build(Slots(partial(Vanilla), NS)).eval()
    nn.init.normal_(model.head[-1].weight, std=0.1)
    with torch.no_grad():
        at_once = task.evaluate(model, "test", lambda batch: batch).metrics
        task.images_per_batch = 2
        assert task.evaluate(model, "test", lambda batch: batch).metrics == pytest.approx(at_once, rel=1e-4)


# Pictures


def test_the_table_has_what_was_scored(tmp_path: Path) -> None:
    task = make(tmp_path, test_images=3)
    rows = task.evaluate(Adds(0.2), "test", lambda batch: batch).tables["images"]
    assert len(rows) == 3
    small, condition, made, true = np.split(unpack_image(str(rows[1]["small_bicubic_generated_true"])), 4, 1)
    batch = task.batch("test", [1])
    for strip, tensor in ((condition, batch["condition"]), (made, batch["condition"] + 0.2), (true, batch["image"])):
        expected = ((tensor[0].clamp(-1, 1).permute(1, 2, 0) + 1) * 127.5).round().numpy()
        assert np.abs(strip - expected).max() <= 1
    assert (small[:4, :4] == small[0, 0]).all()


def test_no_pictures_are_made_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.super_resolution.pack_image", lambda _: pytest.fail("packed"))
    found = make(tmp_path).evaluate(Adds(), "validation", lambda batch: batch)
    assert found.tables == {}
    assert found.metrics["psnr"] > 0


# Requests and families


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ({"hidden": 64}, {}, "hidden=64: the U-Net has no feed-forward: use model.hidden=0"),
        ({"length": 250}, {}, "length=250: the pixels of a square image are needed: use 225"),
        ({"length": 225}, {}, "length=225: 15 pixels cannot be halved 1 times: use fewer multipliers"),
        ({"length": 64}, {}, "length=64: at least 16 x 16 = 256 is needed"),
        ({}, {"attention_sizes": [32]}, "attention_sizes: 32 is no resolution here: use 16, 8"),
        ({}, {"factor": 3}, "factor=3: a divisor of 16 pixels is needed"),
        (
            {"length": 64**2},
            {"attention_sizes": [32]},
            "56 x 40 pixels, 64 x 64 are needed: remove it, or use a smaller length",
        ),
    ],
)
def test_impossible_requests(tmp_path: Path, shape: dict, options: dict, message: str) -> None:
    sizes = {"dim": 16, "heads": 2, "depth": 1, "hidden": 0, "length": 256} | shape
    with pytest.raises(ValueError, match=message):
        make(tmp_path, shape=Shape(**sizes), **options)


def test_it_learns(tmp_path: Path) -> None:
    """A few steps on waves beat bicubic upsampling of other waves."""
    torch.manual_seed(0)
    folder(tmp_path / "data", train=20)
    task = make(tmp_path, factor=2, attention_sizes=[8], test_images=8, sampling_steps=2)
    model = task.build(Slots(partial(Vanilla), NS))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        batch = task.batch("train", range(4 * step, 4 * step + 4))
        loss, auxiliary = task.loss(model, batch)
        (loss / task.targets(batch) + auxiliary).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found = task.evaluate(model.eval(), "test", lambda batch: batch)
    assert found.metrics["psnr"] > task.predictors()[0].metrics["psnr"] + 0.5
