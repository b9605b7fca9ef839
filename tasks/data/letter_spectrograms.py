"""A baseline of speech without learning: every symbol as its mean over the train clips, for its mean duration.

Each symbol's frames are cut into `parts` equal parts; the table holds the mean frame of each part over train, and the
symbol's mean duration. Neighbours do not matter. A part that train does not have is the symbol's mean frame; a symbol
that train does not have is the mean frame of all symbols, for their mean duration.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tasks.data.mel import BANDS
from tasks.data.speech import Clip
from tasks.data.symbols import SYMBOLS


@dataclass(frozen=True)
class LetterSpectrograms:
    frames: np.ndarray
    """(symbols, parts, 80), standardised."""
    durations: np.ndarray
    """(symbols,) mean number of frames."""

    def predict(self, symbols: np.ndarray) -> np.ndarray:
        """(S,) to (F, 80), standardised, at least one frame. The ends of symbols are rounded, not their lengths."""
        ends = np.rint(self.durations[symbols].cumsum()).astype(int)
        ends[-1] = max(1, ends[-1])
        owner, part = _parts(np.diff(ends, prepend=0), self.frames.shape[1])
        return self.frames[symbols[owner], part]


def letter_spectrograms(clips: Iterable[Clip], parts: int) -> LetterSpectrograms:
    sums, counts = np.zeros((len(SYMBOLS), parts, BANDS)), np.zeros((len(SYMBOLS), parts))
    occurrences = np.zeros(len(SYMBOLS))
    for clip in clips:
        owner, part = _parts(clip.durations, parts)
        where = clip.symbols[owner], part
        np.add.at(sums, where, clip.mel)
        np.add.at(counts, where, 1)
        np.add.at(occurrences, clip.symbols, 1)
    total = counts.sum()
    of_symbol = _mean(sums.sum(1), counts.sum(1), sums.sum((0, 1)) / total)  # (symbols, 80)
    durations = _mean(counts.sum(1)[:, None], occurrences, np.array([total / occurrences.sum()]))
    return LetterSpectrograms(_mean(sums, counts, of_symbol[:, None]).astype(np.float32), durations[:, 0])


def _mean(sums: np.ndarray, counts: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """sums (..., K) by counts (...); `otherwise` where there is nothing."""
    counts = counts[..., None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), otherwise)


def _parts(durations: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """For each frame, (F,), the index of its symbol and in which part of it the frame's middle lies."""
    owner = np.repeat(np.arange(len(durations)), durations)
    begins = durations.cumsum() - durations
    into = (np.arange(len(owner)) - begins[owner] + 0.5) / durations[owner]
    return owner, (into * parts).astype(int)
