"""Durations of the symbols of a recording in frames: from a file of word times, or by a simple rule.

A file of word times has a line `begin end word` for every word of the text in order, in seconds, separated by white
space; any forced aligner's word tier can be written so. What lies between two words belongs to the space and marks
there, what lies before the first word and after the last to the edges and marks.

Without a file (the simple alignment): the edges last as long as it is silent at both ends, 40 dB below the loudest
frame, and what is between is one stretch.

The frames of a word or stretch are shared out among its symbols in proportion to typical lengths: vowels 1.4,
consonants 1, a space 0.6, other marks inside a word 0.2, commas and stops 3. This ignores the sound: it is
right only on average, and a forced aligner is better.
"""

import re
from pathlib import Path

import numpy as np

from tasks.data.files import read_text
from tasks.data.mel import HOP, RATE
from tasks.data.symbols import EDGE

SILENT = 40.0
"""dB below the loudest frame."""
LENGTHS = dict.fromkeys("aeiou", 1.4) | dict.fromkeys(",.;:!?", 3.0) | dict.fromkeys("'\"-()", 0.2) | {" ": 0.6}
WORDS = re.compile("[a-z][a-z']*")


def simple(text: str, energy: np.ndarray) -> np.ndarray:
    """(S,) frames of each symbol of a clean text and its two edges; energy (frames,) is a norm."""
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-SILENT / 20))
    if not energy.max() > 0 or not len(loud):
        raise ValueError("is silent: remove it")
    begin, end = int(loud[0]), int(loud[-1]) + 1
    if end - begin < len(text):
        raise ValueError(
            f"{end - begin} frames with sound are too few for {len(text)} characters: check the transcript"
        )
    inner = shared(end - begin, [LENGTHS.get(character, 1.0) for character in text])
    return np.array([begin, *inner, len(energy) - end])


def from_words(text: str, frames: int, words: list[tuple[float, float, str]]) -> np.ndarray:
    """The same from the times of words, as `read` gives them."""
    spans = list(WORDS.finditer(text))
    if [span.group() for span in spans] != [word for _, _, word in words]:
        raise ValueError(f"its words are not those of the transcript {text[:60]!r}: align it again")
    if words and round(words[-1][1] * RATE / HOP) > frames:
        end = (frames - 1) * HOP / RATE
        raise ValueError(f"its last word ends at {words[-1][1]:g} s, the sound at {end:.2f} s: align it again")
    wrapped = EDGE + text + EDGE  # so that there is a symbol before and after every word
    durations: list[int] = []
    place = frame = 0
    cuts: list[tuple[int, int]] = []
    """Where a word begins or ends: the place in `wrapped` and the frame."""
    for span, times in zip(spans, words, strict=True):
        cuts += [(1 + at, round(s * RATE / HOP)) for at, s in zip(span.span(), times[:2], strict=True)]
    for until, to in [*cuts, (len(wrapped), frames)]:
        durations += shared(to - frame, [LENGTHS.get(character, 1.0) for character in wrapped[place:until]])
        place, frame = until, to
    return np.array(durations)


def read(file: Path) -> list[tuple[float, float, str]]:
    """The lines of a file of word times, checked."""
    words: list[tuple[float, float, str]] = []
    last = 0.0
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        match line.split():
            case [begin, end, word] if _is_number(begin) and _is_number(end):
                words.append((float(begin), float(end), word.lower()))
            case _:
                raise ValueError(f"{file}:{number}: {line[:60]!r}: write begin, end (seconds) and one word")
        if not last <= words[-1][0] < words[-1][1]:
            raise ValueError(f"{file}:{number}: times must ascend and words not overlap")
        last = words[-1][1]
    return words


def shared(frames: int, weights: list[float]) -> list[int]:
    """Whole numbers of sum `frames`, in proportion to the weights: the ends are rounded, not the lengths."""
    ends = np.rint(np.cumsum(weights) / sum(weights) * frames).astype(int)
    return np.diff(ends, prepend=0).tolist()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?", text) is not None
