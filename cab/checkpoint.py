"""Checkpoints of a training that is under way: atomic, digested, and never used when damaged."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from cab.record import set_aside, write_atomically

NAME = "checkpoint.pt"
_DIGEST = hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, text, and lists and dicts of these."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, hashlib.sha256(content).digest() + content)


def load(path: Path) -> dict[str, Any] | None:
    """The state, its tensors on the CPU, or None if there is none. A damaged file is set aside and named, and training
    starts anew."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        print(f"warning: {path}: damaged; set aside as {set_aside(path).name}, training starts anew")
        return None
    return torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators of this process, to be kept with a checkpoint."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_process(seed: int, rank: int, step: int) -> None:
    """Another stream for each of several processes, and a new one where a training goes on without its states."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(repr((seed, rank, step)).encode()).digest()[:8], "big"))
