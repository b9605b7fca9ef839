"""Checkpoints of a training that is under way: atomic, digested, and never used when damaged or of another origin."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cab.store.record import set_aside, write_atomically

NAME = "checkpoint.pt"
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """A file: digest of the rest, digest of the origin, state."""

    path: Path
    origin: str
    """What decides the training beside the cell itself: the code and the content of the data."""

    def save(self, state: dict[str, Any]) -> None:
        """Tensors, numbers, text, and lists and dicts of these."""
        buffer = io.BytesIO()
        buffer.write(self._mark())
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_atomically(self.path, hashlib.sha256(content).digest() + content)

    def load(self) -> dict[str, Any] | None:
        """The state, its tensors on the CPU, or None if there is none. A damaged file is set aside and named, one of
        another origin is named and written over; then training starts anew."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, content = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            print(f"warning: {self.path}: damaged; set aside as {set_aside(self.path).name}, training starts anew")
            return None
        if content[:_DIGEST] != self._mark():
            print("the code or the data changed since this training was interrupted: it starts anew")
            return None
        return torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)

    def _mark(self) -> bytes:
        return hashlib.sha256(self.origin.encode()).digest()


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
