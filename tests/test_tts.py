"""Transformer-TTS' task: what a batch holds, the loss by hand, speech and its scores, what is left out, learning."""

import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, no_loss
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.base import Data, TaskContext
from tasks.data import synthetic_speech
from tasks.data.mel import BANDS
from tasks.data.packed_samples import LOWEST, unpack_mel
from tasks.metrics.speech import mcd, msd
from tasks.tts import Options, TextToSpeech

NS, CS, NC, CC = Pattern
SIZES = {"train": 12, "validation": 3, "test": 4}
FRAMES = 5
FEATURES = FRAMES * BANDS


@pytest.fixture(scope="module", autouse=True)
def little_speech():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_speech, "CLIPS", SIZES)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def make(cache: Path, pattern: Pattern = CC, seed: int = 0, **options) -> TextToSpeech:
    sizes = {"dim": 16, "heads": 2, "depth": 1, "hidden": 24, "length": 48, "memory": 32}
    shape = Shape(**{name: options.pop(name, value) for name, value in sizes.items()})
    options = {"frames_per_step": FRAMES, "prenet": 8, "postnet": 8, **options}
    task = TextToSpeech(TaskContext(pattern, shape, Data(), seed, cache), Options(**options))
    task.prepare()
    return task


def stay(batch):
    return batch


class Scripted(nn.Module):
    """Predicts the same values for every input, and stops each row after as many steps as `stops` has for it."""

    def __init__(self, before: float = 0.0, added: float = 0.0, stop: float = 0.0, stops: list[int] | None = None):
        super().__init__()
        self.before, self.added, self.logit, self.stops = before, added, stop, stops
        self.frames = nn.Linear(1, FEATURES)
        self.seen: dict[str, Tensor] = {}

    def forward(self, symbols, symbols_valid, previous, kept, valid):
        self.seen = {"previous": previous, "kept": kept}
        before = torch.full_like(previous, self.before)
        return before, before + self.added, torch.full(valid.shape, self.logit), no_loss(previous)

    def prefill(self, symbols, symbols_valid, previous, kept):
        return self._next(len(symbols), 1)

    def step(self, previous, kept, count):
        return self._next(len(previous), count + 1)

    def refine(self, before, valid):
        return before + self.added

    def _next(self, rows, count):
        ends = torch.tensor(([99] * rows if self.stops is None else self.stops)[:rows]).unsqueeze(1)
        return torch.full((rows, 1, FEATURES), self.before), torch.where(ends == count, 1.0, -1.0), count


# Examples


def test_what_a_batch_holds(cache: Path) -> None:
    task = make(cache)
    batch, clips = task.batch("test", range(4)), task.speech.clips["test"]
    assert task.examples("test") == 4
    assert task.targets(batch) == sum(clips.lengths // FRAMES)
    assert any(clips.lengths % FRAMES)
    assert batch["kept"].shape == (4, batch["valid"].shape[1], 2, 8)
    for row, clip in enumerate(clips):
        symbols, steps = len(clip.symbols), len(clip.mel) // FRAMES
        assert batch["symbols_valid"][row].tolist() == [i < symbols for i in range(batch["symbols"].shape[1])]
        assert batch["valid"][row].tolist() == [i < steps for i in range(batch["frames"].shape[1])]
        np.testing.assert_array_equal(batch["symbols"][row, :symbols], clip.symbols)
        found = batch["frames"][row, :steps].reshape(-1, BANDS)
        np.testing.assert_array_equal(found, clip.mel[: steps * FRAMES])


def test_ids_are_pure(cache: Path) -> None:
    one, two, other = make(cache), make(cache), make(cache, seed=1)
    ids = [25, 3, 11, 12]
    expected = one.batch("train", ids)
    for i in range(0, 90, 7):
        two.batch("train", [i])  # other epochs in between
    again = two.batch("train", ids)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    for row, i in enumerate(ids):  # alone as in a batch, but for the padding
        for name, tensor in two.batch("train", [i]).items():
            assert torch.equal(tensor[0], expected[name][row, : tensor.shape[1]])
    assert not torch.equal(other.batch("train", [3])["kept"][:, :9], expected["kept"][1:2, :9])
    for split in ("validation", "test"):
        mine, theirs = (task.batch(split, [1, 0]) for task in (one, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_prenet_keeps_the_share_it_should_and_something_else_in_every_example(cache: Path) -> None:
    task = make(cache, prenet=64, dropout=0.2)
    kept = task.batch("train", range(12))["kept"]
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
    for split in ("train", "validation", "test"):
        longer = task.dropout_mask(split, range(3), 40)
        assert torch.equal(task.dropout_mask(split, range(3), 7), longer[:, :7])
        assert len({longer[row].numpy().tobytes() for row in range(3)}) == 3
    assert make(cache, dropout=0.0).batch("train", range(12))["kept"].all()


def test_an_epoch_has_every_clip_once(cache: Path) -> None:
    task = make(cache)
    epochs = [[clip.id for clip in task.clips("train", range(e * 12, e * 12 + 12))] for e in range(6)]
    assert all(sorted(epoch) == sorted(task.speech.clips["train"].ids) for epoch in epochs)


@pytest.mark.parametrize("what", ["length", "memory"])
def test_clips_that_are_too_long_are_left_out_and_counted(cache: Path, what: str) -> None:
    clips = make(cache).speech.clips
    sizes = {split: own.lengths // FRAMES if what == "length" else own.text_lengths for split, own in clips.items()}
    most = max(int(own.min()) for own in sizes.values())
    task = make(cache, **{what: most})
    facts = task.prepare().facts
    for split, own in sizes.items():
        assert facts[f"{split}_clips_left_out"] == int((own > most).sum())
        assert task.examples(split) == (own <= most).sum()
        batch = task.batch(split, range(task.examples(split)))
        assert batch["valid" if what == "length" else "symbols_valid"].shape[1] <= most
    assert facts["test_clips_evaluated"] == task.examples("test")
    assert facts["train_clips_left_out"] > 0


def test_test_clips_do_not_reach_train(cache: Path) -> None:
    task = make(cache)
    held = {clip.text for split in ("validation", "test") for clip in task.speech.clips[split]}
    seen = {clip.text for clip in task.clips("train", range(60))}
    assert len(seen) == 12
    assert not seen & held
    frames = np.concatenate([clip.mel for clip in task.speech.clips["train"]])
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-4)  # standardised by train alone
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-3)


# Losses


@pytest.mark.parametrize("stop_weight", [1.0, 5.0])
def test_loss_by_hand(cache: Path, stop_weight: float) -> None:
    task, model = make(cache, stop_weight=stop_weight), Scripted(0.3, -0.1, stop=0.4)
    batch = task.batch("train", range(3))
    clips = task.clips("train", range(3))
    p, wanted, count = 1 / (1 + math.exp(-0.4)), 0.0, 0
    for clip in clips:
        for step in range(len(clip.mel) // FRAMES):
            values = clip.mel[step * FRAMES : (step + 1) * FRAMES].astype(np.float64)
            for predicted in (0.3, 0.2):
                wanted += np.abs(predicted - values).mean() + ((predicted - values) ** 2).mean()
            last = step == len(clip.mel) // FRAMES - 1
            wanted -= stop_weight * math.log(p) if last else math.log(1 - p)
            count += 1
    loss, auxiliary = task.loss(model, batch)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert (auxiliary, task.targets(batch)) == (0, count)
    assert (model.seen["previous"][:, 0] == 0).all()
    assert torch.equal(model.seen["previous"][:, 1:], batch["frames"][:, :-1])
    assert torch.equal(model.seen["kept"], batch["kept"])


# Scores


def test_scores_are_of_the_generated_speech(cache: Path) -> None:
    task, stops = make(cache), [3, 7, 1, 5]
    evaluation = task.evaluate(Scripted(0.3, -0.1, stops=stops), "test", stay)
    clips = task.speech.clips["test"]
    pairs = [
        (task.speech.mel(np.full((n * FRAMES, BANDS), 0.2, np.float32)), task.speech.mel(clip.mel))
        for n, clip in zip(stops, clips, strict=True)
    ]
    assert evaluation.metrics["mcd"] == pytest.approx(np.mean([mcd(*pair) for pair in pairs]))
    assert evaluation.metrics["msd"] == pytest.approx(np.mean([msd(*pair) for pair in pairs]))
    forced = np.concatenate([clip.mel[: len(clip.mel) // FRAMES * FRAMES] for clip in clips])
    assert evaluation.metrics["teacher_forced_l1"] == pytest.approx(
        np.abs(0.3 - forced).mean(), rel=1e-5
    )  # before the postnet
    assert [row["generated_frames"] for row in evaluation.tables["clips"]] == [n * FRAMES for n in stops]
    assert [row["split"] for row in evaluation.tables["spectrograms"]] == ["test", "train"]
    generated = unpack_mel(str(evaluation.tables["spectrograms"][0]["generated"]))
    np.testing.assert_allclose(generated, pairs[0][0].clip(LOWEST), atol=0.031)


def test_speech_that_never_stops_ends_at_the_design_length(cache: Path) -> None:
    task = make(cache, length=70)
    rows = task.evaluate(Scripted(), "test", stay).tables["clips"]
    assert {row["generated_frames"] for row in rows} == {70 * FRAMES}


def test_scores_do_not_depend_on_how_many_are_evaluated_at_once(cache: Path) -> None:
    task, other = make(cache), make(cache, seed=1)
    torch.manual_seed(0)
    model = task.build(Slots(partial(Vanilla), CC)).eval()
    metrics = []
    with torch.no_grad():
        for at_once in (1, 3, 4):
            task.clips_per_batch = at_once
            metrics.append(task.evaluate(model, "test", stay).metrics)
        metrics.append(other.evaluate(model, "test", stay).metrics)
    for found in metrics[1:]:
        assert found == pytest.approx(metrics[0], rel=1e-4)


def test_predictors(cache: Path) -> None:
    """The forced error of the last frame before each step, which is the mean frame before the first one."""
    task = make(cache)
    found, errors, mean = task.predictors(), [], []
    for clip in task.speech.clips["test"]:
        for start in range(0, len(clip.mel) // FRAMES * FRAMES, FRAMES):
            last = clip.mel[start - 1] if start else np.zeros(BANDS)
            errors += [np.abs(clip.mel[start + i] - last).mean() for i in range(FRAMES)]
            mean += [np.abs(clip.mel[start + i]).mean() for i in range(FRAMES)]
    assert np.mean(errors) < np.mean(mean)
    assert len(found) == 3
    for each in found:
        assert each.metrics["teacher_forced_l1"] == pytest.approx(np.mean(errors), rel=1e-5)
        assert each.metrics.keys() == {metric.name for metric in task.metrics}
    rough = make(cache, frames_per_step=60, length=40)  # so far apart that the last frame is worse than the mean
    wanted = np.concatenate([clip.mel[: len(clip.mel) // 60 * 60] for clip in rough.speech.clips["test"]])
    assert rough.predictors()[0].metrics["teacher_forced_l1"] == pytest.approx(np.abs(wanted).mean(), rel=1e-5)


@pytest.mark.parametrize("pattern", [NS, CS, CC])
def test_it_learns_two_clips(cache: Path, pattern: Pattern) -> None:
    """Two clips, half a hundred steps: the loss falls by half, every parameter has a gradient."""
    task = make(cache, pattern, dim=32, prenet=32)
    torch.manual_seed(0)
    model = task.build(Slots(partial(Vanilla), pattern))
    optimizer, losses = torch.optim.AdamW(model.parameters(), 4e-3), []
    batch = task.batch("train", range(2))
    for _ in range(50):
        loss, auxiliary = task.loss(model, batch)
        optimizer.zero_grad()
        (loss / task.targets(batch) + auxiliary).backward()
        optimizer.step()
        losses.append(loss.item() / task.targets(batch))
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    with torch.no_grad():
        json.dumps(task.evaluate(model.eval(), "validation", stay).tables)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0}, "memory=0: texts need a length: set model.memory"),
        (
            {"length": 3},
            "length=3, memory=32: no train clip fits: train-0001, which needs least, has 14 steps of 5 frames and 10 "
            "symbols: set model.length=14 and model.memory=32 or more",
        ),
        ({"frames_per_step": 1000}, "frames_per_step=1000: the longest train clip has 150 frames: lower it"),
    ],
)
def test_bad_options_are_one_clear_line(cache: Path, options, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        make(cache, **options)
    assert "\n" not in str(caught.value)
