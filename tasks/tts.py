"""Text to speech, one step of frames after another: text to a log-mel spectrogram, with Transformer-TTS.

CAB's task (Zhang et al., ICML 2023, arXiv 2210.07661): Transformer-TTS (Li et al. 2019, arXiv 1809.08895) on LJSpeech,
MCD and MSD. noncausal_self puts the family under test into the encoder, causal_self and causal_cross into the decoder.

`shape.memory` is the design length of texts in symbols, `shape.length` that of speech in steps of `frames_per_step`
frames; clips that are longer are left out of every split. Frames at a clip's end that do not fill a step are dropped
from training, as in fairseq, and kept in the references. Costs are measured on stacks of the model's width, heads and
depth at lengths of their own (memory as long as the queries), so that these two lengths do not enter there.

    loss   sum over steps of mean_k |x - y| + (x - y)^2, before and after the postnet, + bce(stop, last step)

with the weight `stop_weight` for the one step that is the last.

Scores are of generated speech: every step is given what the model said before, up to the stop token or `shape.length`,
through prefill and step. `teacher_forced_l1` is the mean error of standardised values when each step is given the real
frames before it. It is taken before the postnet, which smooths over later steps, and those were given the very frames
that are to be said. The prenet's dropout is drawn for each example, in training from (seed, id), in evaluation from the
id alone; it stays on there, as published.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern, Shape, check_whole
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind
from tasks.backbones.transformer_tts import PRENET_LAYERS, TransformerTTS, generate
from tasks.base import Batch, Data, Evaluation, Metric, Move, Split, Trivial
from tasks.common.speech_task import Spoken
from tasks.data.letters import SYMBOLS
from tasks.data.mel import BANDS
from tasks.data.padding import padded
from tasks.data.speech import Clip
from tasks.data.text import SPLITS


class TextToSpeech(Spoken):
    """Options: `frames_per_step`, the widths of `prenet` and `postnet`, the prenet's `dropout`, `stop_weight`,
    `positions`, and how many clips are evaluated."""

    name = "tts"
    patterns = (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)
    metrics = (*Spoken.metrics, Metric("teacher_forced_l1", "lower"))

    def __init__(
        self,
        pattern: Pattern,
        shape: Shape,
        data: Data,
        seed: int,
        cache: Path,
        *,
        frames_per_step: int = 4,
        prenet: int = 256,
        postnet: int = 512,
        dropout: float = 0.5,
        stop_weight: float = 5.0,
        positions: PositionKind = "sinusoidal",
        validation_clips: int = 32,
        test_clips: int = 128,
    ) -> None:
        super().__init__(pattern, shape, data, seed, cache, frames_per_step, positions, validation_clips, test_clips)
        check_whole("prenet", prenet)
        check_whole("postnet", postnet)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: at least 0 and below 1 is needed")
        if not stop_weight > 0:
            raise ValueError(f"stop_weight={stop_weight}: more than 0 is needed")
        self.prenet, self.postnet, self.dropout, self.stop_weight = prenet, postnet, dropout, stop_weight

    def build(self, slots: Slots) -> nn.Module:
        features = self.frames_per_step * BANDS
        sizes = len(SYMBOLS), features, self.prenet, self.postnet
        return TransformerTTS(slots, self.shape, *sizes, self.dropout, self.positions)

    def batch(self, split: Split, ids: Sequence[int]) -> Batch:
        """`symbols` (B, M) and `frames` (B, S, frames_per_step x 80), the steps to say, with `symbols_valid` and
        `valid`; M and S are the longest in the batch. `kept` (B, S, 2, P): what the prenet does not drop."""
        return self._batch(self.clips(split, ids), split, ids)

    def targets(self, batch: Batch) -> int:
        return int(batch["valid"].sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        before, after, stop, auxiliary = self._teacher_forced(model, batch)
        valid, wanted = batch["valid"], batch["frames"]
        errors = torch.stack([frames.float() - wanted for frames in (before, after)])
        losses = (errors.abs() + errors.square()).mean(-1).sum(0)  # (B, S)
        last = valid & ~F.pad(valid[:, 1:], (0, 1))
        weight = torch.tensor(self.stop_weight, device=stop.device)
        stops = F.binary_cross_entropy_with_logits(stop.float(), last.float(), reduction="none", pos_weight=weight)
        return (losses + stops)[valid].sum(), auxiliary

    def evaluate(self, model: nn.Module, split: Split, move: Move) -> Evaluation:
        absolute, values = 0.0, 0
        said: list[np.ndarray] = []
        for batch in self.batches(split, self.at_once, move):
            errors = (self._teacher_forced(model, batch)[0].float() - batch["frames"])[batch["valid"]]
            absolute, values = absolute + errors.abs().double().sum().item(), values + errors.numel()
            ids = range(len(said), len(said) + len(batch["symbols"]))
            said += self._say(model, batch, move({"kept": self._kept(split, ids, self.shape.length)}))
        known = move(self._batch([self.by_heart], "train", [0]))
        by_heart = self._say(model, known, move({"kept": self._kept("train", [0], self.shape.length)}))
        scored = self.scored(split, said, by_heart[0])
        return Evaluation(scored.metrics | {"teacher_forced_l1": absolute / values}, scored.tables)

    def trivial(self) -> Trivial:
        """As in every speech task; the forced error is that of the last frame before each step, over and over, or of
        the mean of train where that is better."""
        copied, mean, values = 0.0, 0.0, 0
        for clip in self.clips("test", range(self.examples("test"))):
            steps = self._steps(clip.mel).reshape(-1, self.frames_per_step, BANDS)
            last = np.concatenate([np.zeros_like(steps[:1, -1:]), steps[:-1, -1:]])
            copied += float(np.abs(steps - last).sum(dtype=np.float64))
            mean += float(np.abs(steps).sum(dtype=np.float64))
            values += steps.size
        best = super().trivial()
        return Trivial(best.name, best.metrics | {"teacher_forced_l1": min(copied, mean) / values})

    def _batch(self, clips: Sequence[Clip], split: Split, ids: Sequence[int]) -> Batch:
        symbols, symbols_valid = padded([clip.symbols for clip in clips])
        frames, valid = padded([self._steps(clip.mel) for clip in clips])
        kept = self._kept(split, ids, valid.shape[1])
        return {"symbols": symbols, "symbols_valid": symbols_valid, "frames": frames, "valid": valid, "kept": kept}

    def _steps(self, mel: np.ndarray) -> np.ndarray:
        """(F, 80) to (S, frames_per_step x 80), without what does not fill a step."""
        steps = len(mel) // self.frames_per_step
        return mel[: steps * self.frames_per_step].reshape(steps, -1)

    def _kept(self, split: Split, ids: Sequence[int], steps: int) -> Tensor:
        """(B, steps, 2, P): that of fewer steps is the beginning of that of more."""
        seed, number = self.seed if split == "train" else 0, SPLITS.index(split)
        sizes = steps, PRENET_LAYERS, self.prenet
        draws = [np.random.default_rng((seed, number, id)).random(sizes, np.float32) for id in ids]
        return torch.from_numpy(np.stack(draws) >= self.dropout)

    def _teacher_forced(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        previous = F.pad(batch["frames"][:, :-1], (0, 0, 1, 0))
        return model(batch["symbols"], batch["symbols_valid"], previous, batch["kept"], batch["valid"])

    def _say(self, model: nn.Module, batch: Batch, kept: Batch) -> list[np.ndarray]:
        """(F, 80) for each text, standardised; as many steps at most as `kept` has."""
        frames, steps = generate(model, batch["symbols"], batch["symbols_valid"], kept["kept"])  # type: ignore[arg-type]
        rows = frames.float().cpu().numpy()
        return [row[:n].reshape(-1, BANDS) for row, n in zip(rows, steps.tolist(), strict=True)]
