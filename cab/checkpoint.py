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


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state, or None if there is none. A damaged file is set aside and named, and training starts anew."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        print(f"warning: {path}: damaged; set aside as {set_aside(path).name}, training starts anew")
        return None
    return torch.load(io.BytesIO(content[_DIGEST:]), map_location=device, weights_only=True)


def random_state() -> dict[str, Any]:
    """The state of torch's generators, to be kept with a checkpoint."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
