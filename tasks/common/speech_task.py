"""What tasks share that turn text into speech: the clips, which of them are seen, their scores, and what one can hear.

`shape.memory` is the most symbols of a text, `shape.length` the most steps of its speech (a step is one frame or
several): clips with more are left out of every split, as in fairseq, and the record says how many were.

Scores are means over clips, all alike, of a generated log-mel spectrogram against the whole recording
(`tasks.metrics.speech`). The record keeps two of the spectrograms, packed: `python -m cab.show` makes them audible.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from attentions.base import Pattern, Shape, check_whole
from tasks.backbones.positions import PositionKind, check_positions
from tasks.base import Data, Evaluation, Metric, Source, Split, Task, Trivial
from tasks.data.epochs import Epochs, of_similar_length
from tasks.data.lettertable import LetterTable, letter_table
from tasks.data.packed import pack_mel
from tasks.data.speech import Clip, Clips, Speech, speech
from tasks.metrics.speech import mcd, msd

EVALUATED_AT_ONCE = 2**14
"""Symbols and steps in an evaluation batch."""
SHOWN = 8
"""Rows of the table `clips`, evenly spread over the clips."""

TABLES = {"mean of each letter": 1, "mean of each quarter of a letter": 4}
"""Trivial predictors, and the places of their tables."""

Row = dict[str, int | float | str]
Predictor = Callable[[Clip], np.ndarray]
"""What it says of a clip's text, log-mel (F, 80)."""


class Spoken(Task):
    """Options of all of them: `positions`, and how many clips are evaluated."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mcd", "lower", "dB"), Metric("msd", "lower", "dB"))
    speech: Speech
    _epochs: Epochs
    _used: dict[Split, np.ndarray]
    """Which clips of each split fit into the design lengths."""

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        frames_per_step: int,
        positions: PositionKind,
        validation_clips: int,
        test_clips: int,
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache)
        check_positions(positions)
        if shape.memory < 1:
            raise ValueError("memory=0: texts need a length: set model.memory to the most symbols of a text")
        counts = {"validation_clips": validation_clips, "test_clips": test_clips}
        for name, value in ({"frames_per_step": frames_per_step} | counts).items():
            check_whole(name, value)
        self.frames_per_step, self.positions = frames_per_step, positions
        self.counts: dict[Split, int] = {"validation": validation_clips, "test": test_clips}
        self.at_once = max(1, EVALUATED_AT_ONCE // (shape.memory + shape.length))
        """Clips in an evaluation batch."""

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
        """Why, by the clip that needs the least."""
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

    def scored(self, split: Split, said: Sequence[np.ndarray], by_heart: np.ndarray) -> Evaluation:
        """What was said for all examples of a split, and for the first train clip: standardised (F, 80) each."""
        mels = [self.speech.mel(mel) for mel in said]
        rows = [self._row(self.clips(split, [id])[0], mel) for id, mel in enumerate(mels)]
        shown = np.unique(np.linspace(0, len(rows) - 1, SHOWN).round().astype(int))
        heard = [(split, self.clips(split, [0])[0], mels[0]), ("train", self.by_heart, self.speech.mel(by_heart))]
        spectrograms = [
            {
                "split": whence,
                **self._row(clip, mel),
                "generated": pack_mel(mel),
                "real": pack_mel(self.speech.mel(clip.mel)),
            }
            for whence, clip, mel in heard
        ]
        return Evaluation(_means(rows), {"clips": [rows[id] for id in shown], "spectrograms": spectrograms})

    @property
    def by_heart(self) -> Clip:
        """A train clip that is generated, too: how well a model knows what it has seen."""
        return self.speech.clips["train"][self._used["train"][0]]

    def trivial(self) -> Trivial:
        """The best by MCD of three: the mean spectrogram, and two tables of letters."""
        train = self.speech.clips["train"]
        predictors: dict[str, Predictor] = {"mean spectrogram": self._mean}
        for name, places in TABLES.items():
            predictors[name] = partial(self._looked_up, letter_table(train, places))
        clips = self.clips("test", range(self.examples("test")))
        scores = {name: _means([self._row(c, say(c)) for c in clips]) for name, say in predictors.items()}
        name = min(scores, key=lambda name: scores[name]["mcd"])
        return Trivial(name, scores[name])

    def _mean(self, clip: Clip) -> np.ndarray:
        return self.speech.mean_spectrogram(len(clip.symbols))

    def _looked_up(self, table: LetterTable, clip: Clip) -> np.ndarray:
        return self.speech.mel(table.say(clip.symbols))

    def _row(self, clip: Clip, said: np.ndarray) -> Row:
        """A log-mel spectrogram (F, 80) against the whole clip."""
        wanted = self.speech.mel(clip.mel)
        about: Row = {"clip": clip.id, "text": clip.text, "frames": len(wanted), "generated_frames": len(said)}
        return about | {"mcd": mcd(said, wanted), "msd": msd(said, wanted)}


def _means(rows: Sequence[Row]) -> dict[str, float]:
    return {metric.name: sum(float(row[metric.name]) for row in rows) / len(rows) for metric in Spoken.metrics}
