"""FastSpeech 2's task: what a batch holds, the loss by hand, scores of speech, what is left out, and that it learns."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from attentions.base import Pattern, Shape
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.backbones.fastspeech import Spectrogram
from tasks.base import Data, TaskContext
from tasks.common.speech_task import SpeechOptions
from tasks.data import synthetic_speech
from tasks.data.letter_spectrograms import letter_spectrograms
from tasks.metrics.speech import mcd, msd
from tasks.tts_fastspeech2 import FastSpeech2Task

NS, CS, NC, CC = Pattern
SIZES = {"train": 12, "validation": 3, "test": 4}


@pytest.fixture(scope="module", autouse=True)
def little_speech():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_speech, "CLIPS", SIZES)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def make(cache: Path, pattern: Pattern = NS, seed: int = 0, **options) -> FastSpeech2Task:
    sizes = {"dim": 16, "heads": 2, "depth": 1, "hidden": 24, "length": 224, "memory": 32}
    shape = Shape(**{name: options.pop(name, value) for name, value in sizes.items()})
    task = FastSpeech2Task(TaskContext(pattern, shape, Data(), seed, cache), SpeechOptions(**options))
    task.prepare()
    return task


def same(batch):
    return batch


def test_what_a_batch_holds(cache: Path) -> None:
    task = make(cache)
    batch, clips = task.batch("test", range(4)), task.speech.clips["test"]
    assert task.examples("test") == 4
    assert task.targets(batch) == sum(clips.lengths)
    for row, clip in enumerate(clips):
        symbols, frames = len(clip.symbols), len(clip.mel)
        assert batch["symbols_valid"][row].tolist() == [i < symbols for i in range(batch["symbols"].shape[1])]
        assert batch["valid"][row].tolist() == [i < frames for i in range(batch["mel"].shape[1])]
        np.testing.assert_array_equal(batch["symbols"][row, :symbols], clip.symbols)
        np.testing.assert_array_equal(batch["durations"][row, :symbols], clip.durations)
        assert not batch["durations"][row, symbols:].any()
        np.testing.assert_array_equal(batch["mel"][row, :frames], clip.mel)
        frame = 0
        for place, duration in enumerate(clip.durations):
            for name, values in (("pitch", clip.pitch), ("energy", clip.energy)):
                mean = values[frame : frame + duration].mean() if duration else 0
                assert batch[name][row, place].item() == pytest.approx(mean, abs=1e-5)
            frame += duration


def test_ids_are_pure(cache: Path) -> None:
    one, two, other = make(cache), make(cache), make(cache, seed=1)
    ids = [25, 3, 11, 12]
    for name, tensor in one.batch("train", ids).items():
        torch.testing.assert_close(two.batch("train", ids)[name], tensor, atol=0, rtol=0)
    for name, tensor in one.batch("test", [1, 0]).items():
        torch.testing.assert_close(other.batch("test", [1, 0])[name], tensor, atol=0, rtol=0)


class Shifted(torch.nn.Module):
    """Returns the real values, each plus a constant."""

    def __init__(self, task: FastSpeech2Task, mel: float = 0.0) -> None:
        super().__init__()
        self.task, self.mel = task, mel

    def forward(self, symbols, symbols_valid, durations=None, pitch=None, energy=None) -> Spectrogram:
        found = [
            next(
                task_clip
                for split in SIZES
                for task_clip in self.task.speech.clips[split]
                if len(task_clip.symbols) == real.sum() and (row[real].numpy() == task_clip.symbols).all()
            )
            for row, real in zip(symbols, symbols_valid, strict=True)
        ]
        rows = [torch.from_numpy(clip.mel) + self.mel for clip in found]
        frames = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=99)
        valid = torch.arange(frames.shape[1]) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
        durations = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(c.durations) for c in found], batch_first=True)
        if pitch is None or energy is None:
            pitch = energy = torch.zeros_like(symbols).float()
        return Spectrogram(
            frames, valid, durations.float().log1p() + 0.5, pitch + 0.25, energy - 0.125, torch.zeros(())
        )


def test_loss_by_hand(cache: Path) -> None:
    task = make(cache)
    batch = task.batch("test", range(4))
    batch["durations"][0, 3] = 0  # a symbol without frames counts for durations only
    loss, auxiliary = task.loss(Shifted(task, 0.75), batch)
    train = task.speech.clips["train"]
    rate = sum(len(clip.mel) for clip in train) / sum(len(clip.symbols) for clip in train)
    symbols = int(batch["symbols_valid"].sum())
    exact = (np.log1p(int(task.speech.clips["test"][0].durations[3])) + 0.5) ** 2
    by_hand = 0.75 * task.targets(batch) + rate * (
        (symbols - 1) * 0.5**2 + exact + (symbols - 1) * (0.25**2 + 0.125**2)
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)
    assert auxiliary == 0
    parts = [task.loss(Shifted(task, 0.75), task.batch("test", [i]))[0].item() for i in range(4)]
    assert sum(parts) == pytest.approx(task.loss(Shifted(task, 0.75), task.batch("test", range(4)))[0].item(), rel=1e-4)


def test_scores_by_hand(cache: Path) -> None:
    task = make(cache)
    perfect = task.evaluate(Shifted(task), "test", same)
    assert perfect.metrics["mcd"] == pytest.approx(0, abs=1e-4)
    off = task.evaluate(Shifted(task, 0.5), "test", same)
    clips = task.speech.clips["test"]
    expected = [(mcd(m := task.speech.mel(c.mel + 0.5), w := task.speech.mel(c.mel)), msd(m, w)) for c in clips]
    assert off.metrics["mcd"] == pytest.approx(np.mean([one for one, _ in expected]))
    assert off.metrics["msd"] == pytest.approx(np.mean([two for _, two in expected]))
    rows = off.tables["clips"]
    assert [row["clip"] for row in rows] == [clip.id for clip in clips]
    assert [row["mcd"] for row in rows] == pytest.approx([one for one, _ in expected])
    task.clips_per_batch = 3  # other batches, the same scores
    assert task.evaluate(Shifted(task, 0.5), "test", same).metrics == pytest.approx(off.metrics)


def test_predictors(cache: Path) -> None:
    task = make(cache)
    train, test = task.speech.clips["train"], task.speech.clips["test"]
    mean = np.concatenate([task.speech.mel(clip.mel) for clip in train]).mean(0)
    rate = sum(len(clip.mel) for clip in train) / sum(len(clip.symbols) for clip in train)
    scores = []
    for clip in test:
        said = np.tile(mean, (round(rate * len(clip.symbols)), 1))
        scores.append(mcd(said, task.speech.mel(clip.mel)))
    quarters = letter_spectrograms(train, 4)
    looked_up = [mcd(task.speech.mel(quarters.predict(clip.symbols)), task.speech.mel(clip.mel)) for clip in test]
    found = {each.name: each.metrics for each in task.predictors()}
    assert list(found) == ["mean spectrogram", "mean of each letter", "mean of each quarter of a letter"]
    assert found["mean spectrogram"]["mcd"] == pytest.approx(np.mean(scores), rel=1e-5)
    assert found["mean of each quarter of a letter"]["mcd"] == pytest.approx(np.mean(looked_up))
    assert all(metrics.keys() == {metric.name for metric in task.metrics} for metrics in found.values())


def test_long_clips_are_left_out_and_counted(cache: Path) -> None:
    every = make(cache)
    lengths = {split: every.speech.clips[split].lengths for split in SIZES}
    longest = int(max(lengths[split].min() for split in SIZES))
    task = make(cache, length=longest)
    facts = task.prepare().facts
    for split in SIZES:
        assert facts[f"{split}_clips_left_out"] == (lengths[split] > longest).sum()
        count = min(task.examples(split), 100)
        assert all(len(clip.mel) <= longest for clip in task.clips(split, range(count)))
    with pytest.raises(ValueError, match=r"length=9, memory=32: no train clip fits: .* has 72 frames and 10 symbols"):
        make(cache, length=9)
    with pytest.raises(ValueError, match=r"memory=5: no train clip fits: .*set model.length=224 and model.memory=10"):
        make(cache, memory=5)


def test_texts_need_a_length(cache: Path) -> None:
    with pytest.raises(ValueError, match="memory=0: texts need a length"):
        make(cache, memory=0)


def test_fewer_clips_are_evaluated_where_asked(cache: Path) -> None:
    task = make(cache, test_clips=2, validation_clips=99)
    assert [task.examples(split) for split in SIZES] == [12, 3, 2]


def test_it_learns(cache: Path) -> None:
    """From a few clips: far better than the mean spectrogram."""
    torch.manual_seed(0)
    task = make(cache, dim=48, heads=2, depth=1, hidden=48)
    model = task.build(Slots(partial(Vanilla), NS))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for step in range(60):
        batch = task.batch("train", range(4 * step, 4 * step + 4))
        loss, auxiliary = task.loss(model, batch)
        (loss / task.targets(batch) + auxiliary).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found = task.evaluate(model.eval(), "test", same)
    scores = {row["split"]: row for row in found.tables["spectrograms"]}
    baseline = np.mean(
        [
            mcd(task.speech.mean_spectrogram(len(clip.symbols)), task.speech.mel(clip.mel))
            for clip in task.speech.clips["test"]
        ]
    )
    assert scores["train"]["mcd"] < 0.75 * baseline
    assert found.metrics["mcd"] < 0.85 * baseline
