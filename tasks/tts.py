"""Autoregressive text to speech: text to a log-mel spectrogram, with Transformer-TTS.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): Transformer-TTS (Li et al. 2019, arXiv 1809.08895) on LJSpeech,
MCD and MSD. noncausal_self puts the family under test into the encoder, causal_self and causal_cross into the decoder.

`shape.memory` is the design length of texts in symbols, `shape.length` that of speech in steps of `frames_per_step`
frames; clips that are longer are left out of every split. Frames at a clip's end that do not fill a step are dropped
from training, as in fairseq, and kept in the references. Efficiency is measured on stacks of this width, heads and
depth, at other lengths.

    loss   sum over steps of mean_k |x - y| + (x - y)^2, before and after the postnet, + bce(stop, last step)

with the weight `stop_weight` for the last step.

Scores are of generated speech: every step is given the model's own frames before it, up to the stop token or
`shape.length`, through prefill and step. `teacher_forced_l1` is the mean error of standardised values when each step is
given the real frames before it. It is taken before the postnet, which smooths over later steps and was given the frames
to predict. The prenet's dropout is drawn for each example, in training from (seed, id), in evaluation from the id
alone; it stays on there, as published.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern
from attentions.slots import Slots
from tasks.backbones.transformer_tts import PRENET_LAYERS, TransformerTTS, generate
from tasks.base import Batch, Evaluation, Metric, Move, Predictor, Split, TaskContext
from tasks.common.speech_task import SpeechOptions, SpeechTask
from tasks.data.mel import BANDS
from tasks.data.padding import padded
from tasks.data.speech import Clip
from tasks.data.symbols import SYMBOLS


class Options(SpeechOptions):
    frames_per_step: int = Field(4, ge=1)
    prenet: int = Field(256, ge=1)
    """Width."""
    postnet: int = Field(512, ge=1)
    """Width."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Of the prenet, when speech is generated too."""
    stop_weight: float = Field(5.0, gt=0)
    """Of the last step in the loss of stopping."""


class TextToSpeech(SpeechTask):
    name = "tts"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)
    metrics = (*SpeechTask.metrics, Metric("teacher_forced_l1", "lower"))
    options: Options

    def __init__(self, context: TaskContext, options: Options) -> None:
        super().__init__(context, options, options.frames_per_step)

    def build(self, slots: Slots) -> nn.Module:
        features = self.frames_per_step * BANDS
        sizes = len(SYMBOLS), features, self.options.prenet, self.options.postnet
        return TransformerTTS(slots, self.shape, *sizes, self.options.dropout, self.options.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`symbols` (B, M) and `frames` (B, S, frames_per_step x 80), the steps to predict, with `symbols_valid` and
        `valid`; M and S are the longest in the batch. `kept` (B, S, 2, P): the prenet's dropout mask."""
        return self._batch(self.clips(split, ids), split, ids)

    def targets(self, batch: Batch) -> int:
        return int(batch["valid"].sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        before, after, stop, auxiliary = self._teacher_forced(model, batch)
        valid, target = batch["valid"], batch["frames"]
        errors = torch.stack([frames.float() - target for frames in (before, after)])
        losses = (errors.abs() + errors.square()).mean(-1).sum(0)  # (B, S)
        last = valid & ~F.pad(valid[:, 1:], (0, 1))
        weight = torch.tensor(self.options.stop_weight, device=stop.device)
        stops = F.binary_cross_entropy_with_logits(stop.float(), last.float(), reduction="none", pos_weight=weight)
        return (losses + stops)[valid].sum(), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        absolute, values = 0.0, 0
        generated: list[np.ndarray] = []
        for batch in self.batches(split, self.clips_per_batch, move):
            errors = (self._teacher_forced(model, batch)[0].float() - batch["frames"])[batch["valid"]]
            absolute, values = absolute + errors.abs().double().sum().item(), values + errors.numel()
            ids = range(len(generated), len(generated) + len(batch["symbols"]))
            generated += self._generate(model, batch, move({"kept": self.dropout_mask(split, ids, self.shape.length)}))
        batch = move(self._batch([self.seen_clip], "train", [0]))
        seen = self._generate(model, batch, move({"kept": self.dropout_mask("train", [0], self.shape.length)}))
        scored = self.scored(split, generated, seen[0])
        return Evaluation(scored.metrics | {"teacher_forced_l1": absolute / values}, scored.tables)

    def predictors(self) -> list[Predictor]:
        """As in every speech task. The teacher-forced error of each is that of the last frame before each step,
        repeated, or of the mean of train if that is better: no baseline looks at real frames but these."""
        copied, mean, values = 0.0, 0.0, 0
        for clip in self.clips("test", range(self.examples("test"))):
            steps = self._steps(clip.mel).reshape(-1, self.frames_per_step, BANDS)
            last = np.concatenate([np.zeros_like(steps[:1, -1:]), steps[:-1, -1:]])
            copied += float(np.abs(steps - last).sum(dtype=np.float64))
            mean += float(np.abs(steps).sum(dtype=np.float64))
            values += steps.size
        forced = {"teacher_forced_l1": min(copied, mean) / values}
        return [Predictor(each.name, each.metrics | forced) for each in super().predictors()]

    def _batch(self, clips: Sequence[Clip], split: Split, ids: Sequence[int]) -> Batch:
        symbols, symbols_valid = padded([clip.symbols for clip in clips])
        frames, valid = padded([self._steps(clip.mel) for clip in clips])
        kept = self.dropout_mask(split, ids, valid.shape[1])
        return {"symbols": symbols, "symbols_valid": symbols_valid, "frames": frames, "valid": valid, "kept": kept}

    def _steps(self, mel: np.ndarray) -> np.ndarray:
        """(F, 80) to (S, frames_per_step x 80), without frames that do not fill a step."""
        steps = len(mel) // self.frames_per_step
        return mel[: steps * self.frames_per_step].reshape(steps, -1)

    def dropout_mask(self, split: Split, ids: Sequence[int], steps: int) -> Tensor:
        """The prenet's dropout mask (B, steps, 2, P); fewer steps give the beginning of the mask of more steps."""
        sizes = steps, PRENET_LAYERS, self.options.prenet
        draws = [self.random(split, id).random(sizes, np.float32) for id in ids]
        return torch.from_numpy(np.stack(draws) >= self.options.dropout)

    def _teacher_forced(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        previous = F.pad(batch["frames"][:, :-1], (0, 0, 1, 0))
        return model(batch["symbols"], batch["symbols_valid"], previous, batch["kept"], batch["valid"])

    def _generate(self, model: nn.Module, batch: Batch, kept: Batch) -> list[np.ndarray]:
        """(F, 80) for each text, standardised; as many steps at most as `kept` has."""
        frames, steps = generate(model, batch["symbols"], batch["symbols_valid"], kept["kept"])  # type: ignore[arg-type]
        rows = frames.float().cpu().numpy()
        return [row[:n].reshape(-1, BANDS) for row, n in zip(rows, steps.tolist(), strict=True)]
