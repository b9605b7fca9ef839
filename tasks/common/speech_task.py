"""Base class of text-to-speech tasks: the clips, which of them are used, the scores and the spectrograms in a record.

`shape.memory` is the largest number of symbols of a text, `shape.length` that of steps of its speech (a step is one
frame or several): longer clips are left out of every split, as in fairseq, and the record says how many.

Scores are means over clips of a generated log-mel spectrogram against the complete recording (`tasks.metrics.speech`).
The record keeps two packed spectrograms, one of a test clip and one of a train clip: `python -m cab.show` turns them
into sound.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from tasks.backbones.positions import InputPositions
from tasks.base import Evaluation, Metric, Options, Predictor, Row, Source, Split, Task, TaskContext
from tasks.data.epochs import Epochs, of_similar_length
from tasks.data.letter_spectrograms import LetterSpectrograms, letter_spectrograms
from tasks.data.packed_samples import pack_mel
from tasks.data.speech import Clip, Clips, Speech, speech
from tasks.metrics.speech import mcd, msd

TOKENS_PER_BATCH = 2**14
"""Symbols and steps in an evaluation batch."""
SHOWN_CLIPS = 8
"""Rows of the table `clips`, evenly spread over the clips."""
LETTER_BASELINES = {"mean of each letter": 1, "mean of each quarter of a letter": 4}
"""Baselines, and the parts into which they cut a letter."""

Baseline = Callable[[Clip], np.ndarray]
"""Predicts the log-mel spectrogram (F, 80) of a clip from its text."""


class SpeechOptions(Options):
    positions: InputPositions = "sinusoidal"
    validation_clips: int = Field(32, ge=1)
    test_clips: int = Field(128, ge=1)


class SpeechTask(Task):
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mcd", "lower"), Metric("msd", "lower"))
    options: SpeechOptions
    speech: Speech
    _epochs: Epochs
    _used: dict[Split, np.ndarray]
    """Indices of the clips of each split that fit into the design lengths."""

    def __init__(self, context: TaskContext, options: SpeechOptions, frames_per_step: int = 1) -> None:
        super().__init__(context, options)
        if self.shape.memory < 1:
            raise ValueError("memory=0: texts need a length: set model.memory to the most symbols of a text")
        self.frames_per_step = frames_per_step
        self.counts: dict[Split, int] = {"validation": options.validation_clips, "test": options.test_clips}
        self.clips_per_batch = max(1, TOKENS_PER_BATCH // (self.shape.memory + self.shape.length))

    def prepare(self) -> Source:
        self.speech = found = speech(self.data, self.cache)
        facts, self._used = dict(found.facts), {}
        for split, clips in found.clips.items():
            steps = clips.lengths // self.frames_per_step
            fits = (clips.text_lengths <= self.shape.memory) & (steps >= 1) & (steps <= self.shape.length)
            if not fits.any():
                raise ValueError(self._none_fits(split, clips))
            self._used[split] = np.flatnonzero(fits)
            facts |= {f"{split}_clips_left_out": int((~fits).sum())}
        used = self._used["train"]
        self._epochs = Epochs(self.seed, len(used), of_similar_length(found.clips["train"].lengths[used]))
        facts["test_clips_evaluated"] = self.examples("test")
        return Source(found.description, found.real, found.content, facts)

    def _none_fits(self, split: Split, clips: Clips) -> str:
        """The error message, with the clip that needs the least."""
        steps, length, memory = clips.lengths // self.frames_per_step, self.shape.length, self.shape.memory
        if not steps.any():
            longest = clips.lengths.max()
            return f"frames_per_step={self.frames_per_step}: the longest {split} clip has {longest} frames: lower it"
        needs = np.where(steps > 0, np.maximum(steps / length, clips.text_lengths / memory), np.inf)
        least = int(needs.argmin())
        frames, symbols = int(steps[least]), int(clips.text_lengths[least])
        unit = "frames" if self.frames_per_step == 1 else f"steps of {self.frames_per_step} frames"
        return (
            f"length={length}, memory={memory}: no {split} clip fits: {clips.ids[least]}, which needs least, has "
            f"{frames} {unit} and {symbols} symbols: set model.length={max(frames, length)} and "
            f"model.memory={max(symbols, memory)} or more"
        )

    def examples(self, split: Split) -> int:
        used = len(self._used[split])
        return min(self.counts.get(split, used), used)

    def clips(self, split: Split, ids: Sequence[int]) -> list[Clip]:
        """The clips behind these example ids."""
        places = self._used[split][self._epochs(ids) if split == "train" else list(ids)]
        return [self.speech.clips[split][place] for place in places]

    def scored(self, split: Split, generated: Sequence[np.ndarray], seen: np.ndarray) -> Evaluation:
        """Scores of the speech generated for all examples of a split, standardised (F, 80) each. `seen` is that for
        `seen_clip`."""
        mels = [self.speech.mel(mel) for mel in generated]
        rows = [self._row(self.clips(split, [id])[0], mel) for id, mel in enumerate(mels)]
        shown = np.unique(np.linspace(0, len(rows) - 1, SHOWN_CLIPS).round().astype(int))
        first = self._spectrograms(split, self.clips(split, [0])[0], mels[0])
        spectrograms = [first, self._spectrograms("train", self.seen_clip, self.speech.mel(seen))]
        return Evaluation(_means(rows), {"clips": [rows[id] for id in shown], "spectrograms": spectrograms})

    def _spectrograms(self, split: Split, clip: Clip, mel: np.ndarray) -> Row:
        """The generated and the real spectrogram of a clip."""
        real = pack_mel(self.speech.mel(clip.mel))
        return {"split": split, **self._row(clip, mel), "generated": pack_mel(mel), "real": real}

    @property
    def seen_clip(self) -> Clip:
        """The first train clip, which is generated, too: how well a model knows what it was trained on."""
        return self.speech.clips["train"][self._used["train"][0]]

    def predictors(self) -> list[Predictor]:
        """The mean spectrogram, and two tables of mean letters."""
        train = self.speech.clips["train"]
        baselines: dict[str, Baseline] = {"mean spectrogram": self._mean_spectrogram}
        for name, parts in LETTER_BASELINES.items():
            baselines[name] = partial(self._from_letters, letter_spectrograms(train, parts))
        clips = self.clips("test", range(self.examples("test")))
        return [
            Predictor(name, _means([self._row(clip, predict(clip)) for clip in clips]))
            for name, predict in baselines.items()
        ]

    def _mean_spectrogram(self, clip: Clip) -> np.ndarray:
        return self.speech.mean_spectrogram(len(clip.symbols))

    def _from_letters(self, letters: LetterSpectrograms, clip: Clip) -> np.ndarray:
        return self.speech.mel(letters.predict(clip.symbols))

    def _row(self, clip: Clip, generated: np.ndarray) -> Row:
        """The scores of a log-mel spectrogram (F, 80) against the complete clip."""
        real = self.speech.mel(clip.mel)
        row: Row = {"clip": clip.id, "text": clip.text, "frames": len(real), "generated_frames": len(generated)}
        return row | {"mcd": mcd(generated, real), "msd": msd(generated, real)}


def _means(rows: Sequence[Row]) -> dict[str, float]:
    return {metric.name: sum(float(row[metric.name]) for row in rows) / len(rows) for metric in SpeechTask.metrics}
