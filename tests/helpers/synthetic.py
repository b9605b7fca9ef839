"""Synthetic records that look like real ones, for the tests of tables, plots and the mirror, and for timing them."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab.store.record import SCIENCE_VERSION, Record

DATA = "a" * 64
SCORES = {"vanilla": 1.92, "eager": 1.93, "lightning": 1.97, "routing": 2.02, "none": 2.61}
COSTS = {  # seconds of a training step at length n: constant, per token, per pair of tokens
    "vanilla": (2e-3, 6e-6, 2.0e-9),
    "eager": (2e-3, 6e-6, 9.0e-9),
    "lightning": (3e-3, 7e-6, 0.0),
    "routing": (5e-3, 1.1e-5, 1e-10),
    "none": (1e-3, 5e-6, 0.0),
}
PHASES = {"forward": 0.33, "train": 1.0, "prefill": 0.35, "decode": 0.0}
MODEL = {"dim": 128, "heads": 4, "depth": 3, "length": 256, "memory": 0}
LENGTHS = (128, 256, 512, 1024, 2048)


def hidden_of(attention: str) -> int:
    return {"lightning": 480, "routing": 504, "none": 768}.get(attention, 512)


def noise(*key: Any) -> np.random.Generator:
    """A generator that depends on the names in `key` only."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big"))


def provenance(command: str) -> dict[str, Any]:
    return {
        "command": command,
        "git": {"revision": "1ec352d7a1b2c3d4e5f60718293a4b5c6d7e8f90", "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "device": {"type": "cpu", "name": "a CPU", "threads": 2, "system": "Linux"},
        "started": "2026-01-01T00:00:00",
        "seconds": 61.2,
    }


def quality(
    attention: str = "vanilla",
    seed: int = 0,
    *,
    score: float | None = None,
    task: str = "lm",
    pattern: str = "causal_self",
    size: str = "smoke",
    data: str = DATA,
    real: bool = True,
    status: str = "ok",
    reason: str = "",
    options: dict[str, Any] | None = None,
    steps: int = 200,
    science_version: int = SCIENCE_VERSION,
    model: dict[str, int] | None = None,
    lr: float = 1e-3,
    tuned_over: Sequence[float] = (),
    validation: float | None = None,
    positions: str = "rotary",
    state: int | None = None,
) -> Record:
    """A quality record. Status other than ok: no result, as for a cell that could not run.

    `validation`: the headline metric there, at the selected step. `state`: numbers of the decoding state; by default
    that of `measurement`.
    """
    shape = {"hidden": 512} | (model or MODEL)
    family = {"_target_": f"attentions.{attention}.Family"} | (options or {})
    chosen = " ".join(f" attention.{key}={value}" for key, value in (options or {}).items())
    result: dict[str, Any] = {}
    if status == "ok":
        if score is None:
            score = SCORES.get(attention, 2.0) + 0.01 * float(noise(attention, seed, task, pattern).normal())
        result = {
            "metrics": {"bits_per_byte": score, "perplexity": 2**score},
            "headline": "bits_per_byte",
            "better": {"bits_per_byte": "lower", "perplexity": "lower"},
            "predictors": [
                {"name": "xz", "metrics": {"bits_per_byte": 4.7}},
                {"name": "5-gram", "metrics": {"bits_per_byte": 4.6, "perplexity": 2**4.6}},
                {"name": "unigram", "metrics": {"bits_per_byte": 4.9, "perplexity": 2**4.9}},
            ],
            "tables": {"by_length": [{"length": n, "bits_per_byte": score + 10 / n} for n in (64, 128, 256)]},
            "curve": curve(attention, seed, score, steps),
            "model": {
                "parameters": 730_000,
                "core_parameters": 590_000,
                "slots": ["decoder.self"],
                "hidden": {"decoder.self": hidden_of(attention)},
                "excess": 0.002,
                "positions": positions,
                "state": state_of(attention, shape) if state is None and pattern.startswith("causal") else state or 0,
            },
            "training": {
                "steps": steps,
                "selected_step": steps,
                "validation": validation,
                "seconds": 50.0,
                "examples_per_second": 64.0,
            },
            "data": {
                "source": "embedded",
                "description": "sources of the standard library",
                "real": real,
                "content": data,
                "facts": {"bytes": 1_000_000},
            },
        }
    identity = {
        "task": {"_target_": f"tasks.{task}.Task"},
        "pattern": pattern,
        "attention": family,
        "slots": ["decoder.self"],
        "size": size,
        "model": shape,
        "train": {"steps": steps, "batch": 16, "lr": lr, "tuned_over": list(tuned_over)},
        "data": {"source": "embedded", "path": data if data != DATA else None},
        "precision": "float32",
        "seed": seed,
    }
    command = f"python -m cab.run attention={attention}{chosen} pattern={pattern} task={task} size={size} seed={seed}"
    return Record(
        kind="quality",
        status=status,  # type: ignore[arg-type]
        reason=reason,
        cell={"attention": attention, "pattern": pattern, "task": task, "size": size, "seed": seed},
        identity=identity,
        result=result,
        config={"model": shape, "attention": family, "data": {"source": "embedded"}, "seed": seed},
        provenance=provenance(command),
        science_version=science_version,
    )


def curve(attention: str, seed: int, score: float, steps: int) -> list[dict[str, Any]]:
    random, pace = noise("curve", attention, seed), sum(COSTS.get(attention, COSTS["routing"])[:2]) * 40
    points: list[dict[str, Any]] = []
    for step in range(1, steps + 1, max(1, steps // 50)):
        bits = score + 3.5 * math.exp(-step / steps * 6) + 0.03 * float(random.normal())
        rate = 1e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        points.append({"step": step, "loss": bits * math.log(2), "seconds": step * pace, "learning_rate": rate})
    for point in points[:: max(1, len(points) // 6)]:
        bits = score + 3.4 * math.exp(-point["step"] / steps * 6)
        point["validation"] = {"bits_per_byte": bits, "perplexity": 2**bits}
    return points


def efficiency(
    attention: str = "lightning",
    *,
    pattern: str = "causal_self",
    lengths: Sequence[int] = LENGTHS,
    phases: Sequence[str] = ("forward", "train", "decode"),
    rounds: int = 9,
    batches: Sequence[int] = (1,),
    level: str = "stack",
    status: str = "ok",
    reason: str = "",
    options: dict[str, Any] | None = None,
    model: dict[str, int] | None = None,
    speed: float = 1.0,
    scatter: float = 0.04,
    science_version: int = SCIENCE_VERSION,
) -> Record:
    """An efficiency record; `eager` is not measured at the greatest length, as where its memory does not fit."""
    shape = {"hidden": 512} | (model or MODEL)
    cell = {"attention": attention, "pattern": pattern, "level": level, "device": "a CPU", "precision": "float32"}
    cell |= {name: shape[name] for name in ("dim", "heads", "depth", "hidden")}
    family = {"_target_": f"attentions.{attention}.Family"} | (options or {})
    subjects = list(dict.fromkeys(["vanilla", "eager", attention]))
    measurements = []
    random = noise(attention, pattern, level)
    if status == "ok":
        for phase in phases:
            for length in lengths:
                for batch in batches if phase == "decode" else (1,):
                    shared = np.exp(scatter * random.normal(size=rounds))
                    for subject in subjects:
                        own = shared * np.exp(scatter / 3 * random.normal(size=rounds))
                        measurements.append(measurement(subject, phase, length, batch, lengths[-1], own * speed))
    return Record(
        kind="efficiency",
        status=status,  # type: ignore[arg-type]
        reason=reason,
        cell=cell,
        identity=cell | {"attention": family, "lengths": list(lengths), "rounds": rounds, "speed": speed},
        result={"measurements": measurements, "gemm_gflops": 150.0, "allocator": "glibc"} if measurements else {},
        config={"model": shape, "attention": family},
        provenance=provenance(f"python -m cab.efficiency attention={attention} pattern={pattern}"),
        science_version=science_version,
    )


def state_of(attention: str, shape: dict[str, int]) -> int:
    """Numbers of a decoding state: all keys and values, or a matrix a head; nothing with `none`."""
    if attention == "none":
        return 0
    if COSTS.get(attention, COSTS["routing"])[2] > 1e-9:
        return 2 * shape["dim"] * shape["depth"] * shape["length"]
    return shape["dim"] ** 2 // shape["heads"] * shape["depth"]


def measurement(subject: str, phase: str, length: int, batch: int, longest: int, factors: np.ndarray) -> dict[str, Any]:
    constant, token, pair = COSTS.get(subject, COSTS["routing"])
    row: dict[str, Any] = {"subject": subject, "phase": phase, "length": length, "batch": batch}
    if subject == "eager" and length == longest and phase != "decode":
        return row | {
            "status": "not_measured",
            "reason": "memory",
            "seconds": [],
            "peak_bytes": None,
            "flops": None,
            "parameters": 590_000,
            "state_numbers": None,
            "state_bytes": None,
        }
    quadratic = pair > 1e-9
    if phase == "decode":
        seconds = 4e-4 + (2e-8 * length if quadratic else 0) * batch
    else:
        seconds = (constant + token * length + pair * length**2) * PHASES[phase] * batch
    state = state_of(subject, MODEL | {"length": length})
    return row | {
        "status": "ok",
        "reason": "",
        "seconds": [float(value) for value in seconds * factors],
        "peak_bytes": int(length * 128 * 4 * 30 + (length**2 * 4 * 4 * 3 if subject == "eager" else 0)) * batch,
        "flops": int(6 * 590_000 * length * PHASES[phase] + 1e5 * length**2 * quadratic),
        "parameters": 590_000,
        "state_numbers": state if phase == "decode" else None,
        "state_bytes": state * 4 * batch if phase == "decode" else None,
    }


def write(results: Path, *records: Record) -> list[Path]:
    return [record.write(results) for record in records]
