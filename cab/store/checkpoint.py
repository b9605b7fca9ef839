"""Checkpoints: written atomically, with a digest, and never used when damaged or of another cell or origin.

No clock decides whether a checkpoint still counts, but which record it was begun beside: a cell that runs again has the
record of its last run until it ends. A checkpoint beside any other record is that record's own, or an older one's.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cab.store.record import write_atomically
from tasks.data.set_aside import InTheWay, in_the_way, read_file, set_aside

CHECKPOINT = "checkpoint.pt"
"""The file in a cell's folder."""
ANEW = "training starts from step 0"
_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """A file of five parts: SHA-256 of the other four, of the cell, of the record beside it and of the origin, and the
    state."""

    path: Path
    origin: str
    """What a training depends on besides the cell's identity: the code and the content of the data."""
    cell: str = ""
    """The cell's hash."""
    beside: str = ""
    """The digest of the final record that is there while the cell is trained again; empty if there is none."""

    def save(self, state: dict[str, Any]) -> None:
        """Writes a state of tensors, numbers, text, and lists and dicts of these."""
        buffer = io.BytesIO()
        for part in (self.cell, self.beside, self.origin):
            buffer.write(_hash(part))
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_atomically(self.path, hashlib.sha256(content).digest() + content)

    def load(self) -> dict[str, Any] | None:
        """The state with its tensors on the CPU, or None if the training has to start from step 0.

        Prints why if there is anything: what is damaged or of another cell is set aside, a checkpoint of another origin
        will be overwritten.
        """
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except InTheWay as error:
            self.set_aside(str(error))
            return None

    def _read(self) -> dict[str, Any] | None:
        content = read_file(self.path)
        digest, content = content[:_BYTES], content[_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise InTheWay("damaged")
        cell, _, origin = (content[place : place + _BYTES] for place in range(0, 3 * _BYTES, _BYTES))
        if cell != _hash(self.cell):
            raise InTheWay("of another cell")
        if origin != _hash(self.origin):
            print("the code or the data changed since this training was interrupted: it starts from step 0")
            return None
        try:
            state = torch.load(io.BytesIO(content[3 * _BYTES :]), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever pickle, zip or torch makes of it
            raise InTheWay("no state of a training") from error
        if not isinstance(state, dict):
            raise InTheWay("no state of a training")
        return state

    def set_aside(self, what: str) -> None:
        set_aside(self.path, what, ANEW)

    def is_left_over(self) -> bool:
        """Whether it was begun beside another record than the one that is there, which ended the cell since."""
        if not self.beside or in_the_way(self.path, "file"):
            return False
        try:
            with self.path.open("rb") as file:
                return file.read(3 * _BYTES)[2 * _BYTES :] != _hash(self.beside)
        except OSError:
            return False


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


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
