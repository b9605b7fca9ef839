"""Checkpoints: written atomically, with a digest, and never used when damaged or of another origin."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cab.store.record import set_aside, write_atomically

CHECKPOINT = "checkpoint.pt"
"""The file in a cell's folder."""
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """A file of three parts: SHA-256 of the other two, SHA-256 of the origin, the state."""

    path: Path
    origin: str
    """What a training depends on besides the cell's identity: the code and the content of the data."""

    def save(self, state: dict[str, Any]) -> None:
        """Writes a state of tensors, numbers, text, and lists and dicts of these."""
        buffer = io.BytesIO()
        buffer.write(self._origin_digest())
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_atomically(self.path, hashlib.sha256(content).digest() + content)

    def load(self) -> dict[str, Any] | None:
        """The state with its tensors on the CPU, or None if the training has to start from step 0.

        Prints why if there is a file: a damaged one is renamed, one of another origin will be overwritten.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            print(f"warning: {self.path}: damaged; renamed to {set_aside(self.path).name}, training starts from step 0")
            return None
        if content[:_DIGEST_BYTES] != self._origin_digest():
            print("the code or the data changed since this training was interrupted: it starts from step 0")
            return None
        return torch.load(io.BytesIO(content[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)

    def _origin_digest(self) -> bytes:
        return hashlib.sha256(self.origin.encode()).digest()


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of this process's random generators, for a checkpoint."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Sets what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_process(seed: int, rank: int, step: int) -> None:
    """Seeds the random generators of one of several processes, for a training that begins or resumes at this step
    without their states."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(repr((seed, rank, step)).encode()).digest()[:8], "big"))
