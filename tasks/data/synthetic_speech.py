"""Synthetic speech: sentences of invented words by formant synthesis.

Source and filter (Fant 1960): pulses at the pitch, and noise, each through an envelope that moves from frame to frame,

    |H(f)| = tilt(f) sum_n g_n / (1 + ((f - F_n) / B_n)^2)        voice, three formants
    |H(f)| = g / (1 + ((f - C) / W)^2)                            noise around a centre

Every letter has formants and gains; stops are a closure and a burst; neighbours run into each other over a few frames.
Every symbol, including spaces, marks and edges, lasts one unit of 6 frames (70 ms), a stressed vowel two. So durations
are known exactly, and the position of a frame tells roughly where in the text it belongs: small models have minutes to
learn to follow a text. The sound of a letter also depends on its context, near and far:

  * the first vowel of a word is stressed: twice as long, and louder
  * the pitch falls through the sentence and rises at stress
  * the mark at the end sets the voice of the *whole* sentence: "!" is higher, brighter and with more open vowels, "?"
    is softer and breathy, with fronted vowels, its pitch rising at the end

So a model that does not look from the first letters to the last mark cannot know how they sound.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tasks.base import SPLITS, Split
from tasks.data.ljspeech import Recording, Recordings
from tasks.data.mel import HOP, RATE, WINDOW, inverse_stft, stft
from tasks.data.symbols import EDGE

VERSION = 2
"""Increased when the same call would give other speech."""
CLIPS: dict[Split, int] = {"train": 1600, "validation": 32, "test": 128}
UNIT = 6
"""Frames of a symbol that is not a stressed vowel."""
SEED = 20_060_455
PITCH = 150.0
"""Hz at the beginning of a sentence."""
WIDTHS = (90.0, 120.0, 180.0)
GAINS = (1.0, 0.6, 0.35)
"""Of the three formants."""


@dataclass(frozen=True)
class Letter:
    formants: tuple[float, float, float]
    voice: float
    noise: float = 0.0
    centre: float = 3000.0
    width: float = 1500.0
    stop: bool = False


def _stop(voice: float, noise: float, centre: float) -> Letter:
    return Letter((300, 1500, 2500), voice, noise, centre, 900, stop=True)


LETTERS: dict[str, Letter] = {
    "a": Letter((730, 1090, 2440), 1.0),
    "e": Letter((530, 1840, 2480), 1.0),
    "i": Letter((270, 2290, 3010), 1.0),
    "o": Letter((570, 840, 2410), 1.0),
    "u": Letter((300, 870, 2240), 0.9),
    "y": Letter((300, 2000, 2700), 0.8),
    "m": Letter((250, 1000, 2200), 0.5),
    "n": Letter((250, 1500, 2500), 0.5),
    "l": Letter((360, 1300, 2700), 0.6),
    "r": Letter((350, 1100, 1600), 0.6),
    "w": Letter((300, 650, 2200), 0.6),
    "j": Letter((280, 2200, 3000), 0.5, 0.1, 3500),
    "v": Letter((300, 1300, 2400), 0.35, 0.15, 4500, 2500),
    "z": Letter((300, 1600, 2500), 0.3, 0.3, 6500, 1200),
    "f": Letter((300, 1300, 2400), 0.0, 0.2, 4500, 3000),
    "h": Letter((500, 1500, 2500), 0.0, 0.2, 1500, 1200),
    "s": Letter((300, 1600, 2500), 0.0, 0.5, 6500, 1000),
    "c": Letter((300, 1600, 2500), 0.0, 0.4, 3500, 900),
    "x": Letter((300, 1600, 2500), 0.0, 0.4, 5000, 900),
    "b": _stop(0.15, 0.2, 800),
    "d": _stop(0.15, 0.3, 3500),
    "g": _stop(0.15, 0.3, 2000),
    "p": _stop(0.0, 0.4, 900),
    "t": _stop(0.0, 0.5, 4300),
    "k": _stop(0.0, 0.5, 2200),
    "q": _stop(0.0, 0.4, 1500),
    " ": Letter((400, 1500, 2500), 0.05),
    ",": Letter((400, 1500, 2500), 0.0),
    ".": Letter((400, 1500, 2500), 0.0),
    "?": Letter((400, 1500, 2500), 0.0),
    "!": Letter((400, 1500, 2500), 0.0),
    EDGE: Letter((400, 1500, 2500), 0.0),
}
VOWELS = "aeiouy"
CONSONANTS = "bcdfghjklmnpqrstvwxz"


@dataclass(frozen=True)
class Mood:
    """The effect of the last mark on the voice of a sentence."""

    pitch: float = 1.0
    tilt: float = 1.0
    """Fall with frequency: dB at 1 kHz, doubled for every octave above, are about 6 of these."""
    breath: float = 0.0
    formants: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rise: float = 0.0


MOODS = {
    ".": Mood(),
    "!": Mood(1.35, 0.5, 0.0, (1.25, 1.0, 1.0)),
    "?": Mood(1.1, 1.5, 0.12, (0.9, 1.15, 1.08), 0.4),
}


def recordings() -> Recordings:
    """All splits; no text comes twice."""
    content = hashlib.sha256(f"formants {VERSION} {CLIPS}".encode()).hexdigest()
    return Recordings("synthetic speech", False, content, CLIPS, _read, {"alignment": "generated"})


def _read(split: Split) -> Iterator[Recording]:
    for number, text in enumerate(_texts()[split]):
        yield speak(f"{split}-{number:04d}", text, np.random.default_rng((SEED, SPLITS.index(split), number)))


def _texts() -> dict[Split, list[str]]:
    rng, seen = np.random.default_rng(SEED), set[str]()
    texts: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        while len(texts[split]) < CLIPS[split]:
            text = _sentence(rng)
            if text not in seen:
                seen.add(text)
                texts[split].append(text)
    return texts


def _sentence(rng: np.random.Generator) -> str:
    words = [_word(rng) for _ in range(rng.integers(2, 5))]
    if rng.random() < 0.4:
        words[len(words) // 2 - 1] += ","
    return " ".join(words) + str(rng.choice(list(MOODS)))


def _word(rng: np.random.Generator) -> str:
    """One to three syllables of a consonant and a vowel, perhaps closed by a consonant."""
    syllables = [
        str(rng.choice(list(CONSONANTS))) + str(rng.choice(list(VOWELS)))
        for _ in range(rng.choice(3, p=(0.4, 0.45, 0.15)) + 1)
    ]
    return "".join(syllables) + (str(rng.choice(list("nslrtkm"))) if rng.random() < 0.4 else "")


def speak(id: str, text: str, rng: np.random.Generator) -> Recording:
    """Synthesises a sentence that ends with one of the three marks. Only the noise in it depends on `rng`."""
    mood = MOODS[text[-1]]
    stressed = np.array(_stressed(text))
    durations = np.where(stressed, 2 * UNIT, UNIT)
    tracks = _tracks(EDGE + text + EDGE, durations, stressed, mood)
    return Recording(id, text, _synthesis(tracks, mood, rng), durations)


def _stressed(text: str) -> list[bool]:
    """For each symbol with both edges, whether it is the first vowel of a word."""
    stressed, fresh = [False], True
    for symbol in text:
        vowel = symbol in VOWELS
        stressed.append(vowel and fresh)
        fresh = symbol == " " or (fresh and not vowel)
    return [*stressed, False]


@dataclass(frozen=True)
class Tracks:
    """Parameters of the synthesis by frame, (F,) each, formants (F, 3)."""

    pitch: np.ndarray
    formants: np.ndarray
    voice: np.ndarray
    noise: np.ndarray
    centre: np.ndarray
    width: np.ndarray


def _tracks(symbols: str, durations: np.ndarray, stressed: np.ndarray, mood: Mood) -> Tracks:
    letters = [LETTERS[symbol] for symbol in symbols]
    owner = np.repeat(np.arange(len(letters)), durations)
    begins = np.repeat(durations.cumsum() - durations, durations)
    into = (np.arange(len(owner)) - begins) / durations[owner]  # 0 to 1 through the symbol
    values = {name: np.array([getattr(letter, name) for letter in letters])[owner] for name in Letter.__annotations__}
    loud = np.where(stressed[owner], 1.3, 1.0)
    closed = values["stop"] & (into < 0.55)
    noise = np.where(closed, 0.0, values["noise"])
    voice = np.where(values["stop"] & ~closed, 0.0, values["voice"]) * loud
    through = np.arange(len(owner)) / len(owner)
    hertz = PITCH * mood.pitch * (1.1 - 0.35 * through + mood.rise * np.maximum(0, through - 0.6) / 0.4)
    hertz = hertz * np.where(stressed[owner], 1.12, 1.0)
    return Tracks(
        pitch=_smooth(hertz, 9),
        formants=_smooth(values["formants"] * np.array(mood.formants), 5),
        voice=_smooth(voice, 3),
        noise=_smooth(noise + mood.breath * voice, 3),
        centre=_smooth(values["centre"], 3),
        width=_smooth(values["width"], 3),
    )


def _smooth(track: np.ndarray, frames: int) -> np.ndarray:
    """A moving average over an odd number of frames, the ends held."""
    padded = np.pad(track, [(frames // 2, frames // 2)] + [(0, 0)] * (track.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, frames, axis=0)
    return windows.mean(-1).astype(np.float32)


def _synthesis(tracks: Tracks, mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """(T,), T = 256 (F - 1)."""
    samples = HOP * (len(tracks.pitch) - 1)
    hertz = np.interp(np.arange(samples), HOP * np.arange(len(tracks.pitch)), tracks.pitch)
    cycles = np.floor(np.cumsum(hertz) / RATE)
    pulses = np.diff(cycles, prepend=0) * np.sqrt(RATE / hertz)  # of power 1
    hiss = rng.normal(size=samples)
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=np.float32)
    distance = (frequencies[:, None] - tracks.formants[:, None]) / np.array(WIDTHS, np.float32)  # (F, 513, 3)
    tilt = (1 + frequencies / 1000) ** -mood.tilt
    voiced = (1 / (1 + distance**2)) @ np.array(GAINS, np.float32) * tilt * tracks.voice[:, None]
    around = (frequencies - tracks.centre[:, None]) / tracks.width[:, None]
    noisy = 0.5 * tracks.noise[:, None] / (1 + around**2)
    sources = (stft(torch.from_numpy(source).float()) for source in (pulses, hiss))
    filtered = (source * torch.from_numpy(envelope) for source, envelope in zip(sources, (voiced, noisy), strict=True))
    return 0.1 * inverse_stft(sum(filtered, torch.zeros(()))).numpy()
