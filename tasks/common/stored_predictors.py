"""Predictors that take seconds to score: scored once for all cells with the same data, and kept in the cache folder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tasks.base import Predictor
from tasks.data.cache_folder import stored

VERSION = 1
"""Increased when the same data would give other scores."""
SCORES = "predictors.json"


def stored_predictors(
    cache: Path, name: str, data: Sequence[np.ndarray], score: Callable[[], list[Predictor]]
) -> list[Predictor]:
    """What `score()` returns, which may depend on the task's `name` and on `data` only."""
    digest = hashlib.sha256(f"{VERSION} {name}".encode())
    for array in data:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())

    def build(folder: Path) -> None:
        (folder / SCORES).write_text(json.dumps([asdict(each) for each in score()]))

    folder = stored(cache / f"predictors-{digest.hexdigest()[:24]}", build, f"the predictors of {name}")
    return [Predictor(**each) for each in json.loads((folder / SCORES).read_text())]
