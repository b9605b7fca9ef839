"""Recordings with their transcripts, ready for a model: spectrograms, durations, pitch and energy, in three splits.

embedded   synthetic speech (`tasks.data.synthetic_speech`); durations are known
local      a folder in LJSpeech's layout (`tasks.data.ljspeech`); durations from word times in alignments/, or by the
           simple alignment (`tasks.data.alignment`)

Per frame of the spectrogram (`tasks.data.mel`): energy is log(1 + |X|), the norm of the magnitudes; pitch is log Hz by
autocorrelation (`tasks.data.pitch`), in a straight line through frames without voice. Spectrogram, pitch and energy are
standardised by mean and standard deviation over the frames of the train split: the spectrogram each band for itself.

Features are computed once and cached by the hash of the content.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from tasks.base import SPLITS, Data, Split
from tasks.data import ljspeech, synthetic_speech
from tasks.data.cache_folder import stored
from tasks.data.ljspeech import Recordings
from tasks.data.mel import BANDS, log_mel_of, magnitudes
from tasks.data.pitch import filled, pitch
from tasks.data.progress import each
from tasks.data.symbols import SYMBOLS, symbols

FORMAT = 2
"""Increased when the same recordings would give other features."""
LEAST_DEVIATION = 1e-3
"""A feature that varies less in train is as good as constant: it is centred, not scaled."""
FEATURES = {"mel": (BANDS, np.float32), "pitch": (1, np.float32), "energy": (1, np.float32)}
"""Features of a frame: how many numbers, of which type."""


@dataclass(frozen=True)
class Clip:
    id: str
    symbols: np.ndarray
    """(S,) int64: ids in `SYMBOLS`, an edge first and last."""
    mel: np.ndarray
    """(F, 80) float32, standardised; `Speech.mel` reverses it."""
    durations: np.ndarray
    """(S,) int64, frames of each symbol, 0 or more; their sum is F."""
    pitch: np.ndarray
    """(F,) float32, standardised; 0, the mean, in all frames of a clip without any voice."""
    energy: np.ndarray
    """(F,) float32, standardised."""
    text: str


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over the train frames: (80,) of the spectrogram, (1,) of pitch and energy."""

    mean: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray]


class Clips(Sequence[Clip]):
    """The clips of a split, from the files of `_build`, memory-mapped."""

    def __init__(self, folder: Path, split: Split, statistics: Statistics) -> None:
        about = json.loads((folder / f"{split}.json").read_text())
        self.ids, self.texts, self.statistics = about["ids"], about["texts"], statistics
        self.text_lengths, self.lengths = np.array(about["symbols"], int), np.array(about["frames"], int)
        """(clips,) symbols and frames of each."""
        self._symbols, self._durations = (np.load(folder / f"{split}-{name}.npy") for name in ("symbols", "durations"))
        self._features = {
            name: np.memmap(folder / f"{split}-{name}.raw", dtype, mode="r").reshape(-1, width)
            for name, (width, dtype) in FEATURES.items()
        }
        self._ends = {"symbols": self.text_lengths.cumsum(), "frames": self.lengths.cumsum()}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        own = slice(self._ends["symbols"][index] - self.text_lengths[index], self._ends["symbols"][index])
        frames = slice(self._ends["frames"][index] - self.lengths[index], self._ends["frames"][index])
        mean, std = self.statistics.mean, self.statistics.std
        mel, tone, energy = ((self._features[name][frames] - mean[name]) / std[name] for name in FEATURES)
        return Clip(
            self.ids[index],
            self._symbols[own].astype(np.int64),
            mel,
            self._durations[own].astype(np.int64),
            np.nan_to_num(tone[:, 0]),
            energy[:, 0],
            self.texts[index],
        )


@dataclass(frozen=True)
class Speech:
    description: str
    real: bool
    content: str
    clips: Mapping[Split, Clips]
    statistics: Statistics
    facts: dict[str, int | float | str]
    symbols: tuple[str, ...] = SYMBOLS

    @property
    def mean(self) -> np.ndarray:
        """(80,) of log-mel bands over the train frames."""
        return self.statistics.mean["mel"]

    @property
    def std(self) -> np.ndarray:
        return self.statistics.std["mel"]

    def mel(self, standardised: np.ndarray) -> np.ndarray:
        """The log-mel spectrogram (F, 80) behind a standardised one."""
        return standardised * self.std + self.mean

    def mean_spectrogram(self, symbols: int) -> np.ndarray:
        """The mean frame of train for the mean duration of so many symbols, log-mel (F, 80): a baseline."""
        train = self.clips["train"]
        frames = max(1, round(symbols * train.lengths.sum() / train.text_lengths.sum()))
        return np.tile(self.mean, (frames, 1))


def speech(data: Data, cache: Path) -> Speech:
    """The clips of the data source."""
    found = _recordings(data, cache)
    key = hashlib.sha256(f"{FORMAT}:{found.content}".encode()).hexdigest()[:24]
    folder = stored(cache / f"speech-{key}", partial(_build, found), "spectrograms, pitch and energy")
    kept = json.loads((folder / "statistics.json").read_text())
    statistics = Statistics(*({n: np.array(kept[what][n], np.float32) for n in FEATURES} for what in ("mean", "std")))
    clips = {split: Clips(folder, split, statistics) for split in SPLITS}
    facts = dict(found.facts)
    for split, own in clips.items():
        facts |= {f"{split}_clips": len(own), f"{split}_frames": int(own.lengths.sum())}
        facts |= {f"{split}_longest_frames": int(own.lengths.max())}
        facts |= {f"{split}_longest_symbols": int(own.text_lengths.max())}
    return Speech(found.description, found.real, found.content, clips, statistics, facts)


def _recordings(data: Data, cache: Path) -> Recordings:
    if data.source == "embedded":
        return synthetic_speech.recordings()
    if data.source == "local":
        return ljspeech.folder(data.path, cache)
    raise ValueError(
        "data.source=hub: LJSpeech is there as a script only, which `datasets` no longer runs: "
        "download it and use data=local data.path=FOLDER"
    )


def _build(found: Recordings, folder: Path) -> None:
    """Writes what `Clips` reads, clip by clip; statistics are those of train."""
    sums = {name: np.zeros((3, width)) for name, (width, _) in FEATURES.items()}
    for split in SPLITS:
        about: dict[str, list[Any]] = {"ids": [], "texts": [], "symbols": [], "frames": []}
        texts, durations = [], []
        files: dict[str, BinaryIO] = {name: (folder / f"{split}-{name}.raw").open("wb") for name in FEATURES}
        for recording in each(found.read(split), f"speech, {split}", "clip", found.clips[split]):
            features = _features(recording.wave)
            texts.append(symbols(recording.text))
            durations.append(recording.durations.astype(np.int32))
            frames = len(features["mel"])
            if durations[-1].sum() != frames or len(durations[-1]) != len(texts[-1]):
                raise RuntimeError(f"{recording.id}: durations do not add up to {frames} frames")
            row = {"ids": recording.id, "texts": recording.text, "symbols": len(texts[-1]), "frames": frames}
            for key, value in row.items():
                about[key].append(value)
            for name, values in features.items():
                files[name].write(values.tobytes())
                if split == "train":
                    known = values[np.isfinite(values).all(1)].astype(np.float64)
                    sums[name] += [np.full(known.shape[1], len(known)), known.sum(0), (known**2).sum(0)]
        for file in files.values():
            file.close()
        np.save(folder / f"{split}-symbols.npy", np.concatenate(texts))
        np.save(folder / f"{split}-durations.npy", np.concatenate(durations))
        (folder / f"{split}.json").write_text(json.dumps(about))
    (folder / "statistics.json").write_text(json.dumps(_statistics(sums)))


def _features(wave: np.ndarray) -> dict[str, np.ndarray]:
    """(F, width) float32 each."""
    spectrum = magnitudes(torch.from_numpy(wave))
    energy = spectrum.norm(dim=1, keepdim=True).log1p()
    features = {"mel": log_mel_of(spectrum).numpy(), "pitch": filled(pitch(wave))[:, None], "energy": energy.numpy()}
    return {name: features[name].astype(dtype) for name, (_, dtype) in FEATURES.items()}


def _statistics(sums: Mapping[str, np.ndarray]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {"mean": {}, "std": {}}
    for name, (count, total, squares) in sums.items():
        mean = total / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
        scale = np.where(deviation < LEAST_DEVIATION, 1.0, deviation)
        found["mean"][name], found["std"][name] = mean.tolist(), scale.tolist()
    return found
