"""Parallel text to speech: text to a log-mel spectrogram in the pattern noncausal_self, with FastSpeech 2.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): FastSpeech 2 (Ren et al. 2020, arXiv 2006.04558) on LJSpeech,
MCD and MSD. The family under test is in the encoder (over symbols) and in the decoder (over frames).

`shape.memory` is the design length of texts in symbols, `shape.length` that of spectrograms in frames; clips that are
longer are left out of every split. Both stacks have `shape.depth` layers. Efficiency is measured on stacks of this
width, heads and depth with a feed-forward of two linear maps, at other lengths.

    loss   mean over frames of mean_k |y - y'|  +  mean over symbols of squared errors: log(1 + frames), pitch, energy

The mean over symbols is weighted by the mean number of frames of a symbol in train, so that it is a sum over frames
like the first. Pitch and energy of a symbol are means over its frames; a symbol without frames has neither.

Scores are of generated speech: durations, pitch and energy are the model's own, and no speech is longer than
`shape.length` frames.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.fastspeech import FastSpeech2, Spectrogram
from tasks.base import Batch, Evaluation, Move, Split
from tasks.common.speech_task import SpeechTask
from tasks.data.mel import BANDS
from tasks.data.padding import padded
from tasks.data.speech import Clip
from tasks.data.symbols import SYMBOLS


class FastSpeech2Task(SpeechTask):
    name = "tts_fastspeech2"
    patterns = (Pattern.NONCAUSAL_SELF,)

    def build(self, slots: Slots) -> nn.Module:
        return FastSpeech2(slots, self.shape, len(SYMBOLS), BANDS, self.options.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`symbols`, `durations`, `pitch` and `energy` (B, S) with `symbols_valid`, `mel` (B, F, 80) with `valid`;
        S and F are the longest in the batch."""
        return _batch(self.clips(split, ids))

    def targets(self, batch: Batch) -> int:
        return int(batch["valid"].sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = (batch[name] for name in ("symbols", "symbols_valid", "durations", "pitch", "energy"))
        predicted: Spectrogram = model(*inputs)
        frames = (predicted.frames.float() - batch["mel"]).abs().mean(-1)[batch["valid"]]
        has_frames = batch["durations"] > 0
        symbols = [
            (predicted.log_durations.float() - batch["durations"].float().log1p()).square()[batch["symbols_valid"]],
            (predicted.pitch.float() - batch["pitch"]).square()[has_frames],
            (predicted.energy.float() - batch["energy"]).square()[has_frames],
        ]
        return frames.sum() + self._frames_per_symbol * torch.cat(symbols).sum(), predicted.auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        batches = self.batches(split, self.clips_per_batch, move)
        generated = [mel for batch in batches for mel in _generate(model, batch)]
        return self.scored(split, generated, _generate(model, move(_batch([self.seen_clip])))[0])

    @property
    def _frames_per_symbol(self) -> float:
        train = self.speech.clips["train"]
        return float(train.lengths.sum() / train.text_lengths.sum())


def _generate(model: nn.Module, batch: Batch) -> list[np.ndarray]:
    """(F, 80) for each text, standardised."""
    made: Spectrogram = model(batch["symbols"], batch["symbols_valid"])
    frames, valid = made.frames.float().detach().cpu().numpy(), made.valid.cpu().numpy()
    return [row[real] for row, real in zip(frames, valid, strict=True)]


def _batch(clips: Sequence[Clip]) -> Batch:
    symbols, symbols_valid = padded([clip.symbols for clip in clips])
    mel, valid = padded([clip.mel for clip in clips])
    return {
        "symbols": symbols,
        "symbols_valid": symbols_valid,
        "durations": padded([clip.durations for clip in clips])[0],
        "pitch": padded([_by_symbol(clip.pitch, clip.durations) for clip in clips])[0],
        "energy": padded([_by_symbol(clip.energy, clip.durations) for clip in clips])[0],
        "mel": mel,
        "valid": valid,
    }


def _by_symbol(values: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """(F,) to (S,) float32: the mean over each symbol's frames, 0 where it has none."""
    sums = np.append(0, values.cumsum(dtype=np.float64))
    ends = durations.cumsum()
    return ((sums[ends] - sums[ends - durations]) / np.maximum(durations, 1)).astype(np.float32)
