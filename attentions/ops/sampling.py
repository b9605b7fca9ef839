"""Random samples that are a function of (seed, layer, optimiser steps), so that a step can be computed twice.

Activation checkpointing, micro-batches and a resumed training get the same sample, and global random streams are not
touched. A family's `after_step` advances the steps, nothing else does; evaluation sees the sample of the last step.
"""

import hashlib

import torch
from torch import Tensor, nn


class SampleKey(nn.Module):
    """Names the samples of a layer. `seed` None: the seed of torch's global generator, which is that of the run."""

    def __init__(self, layer: int, seed: int | None) -> None:
        super().__init__()
        self.layer, self.seed = layer, torch.initial_seed() if seed is None else seed
        self.steps = 0
        """Optimiser steps so far. Not a buffer: samples are drawn on the CPU, without waiting for a device."""

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)

    def generator(self, number: int) -> torch.Generator:
        """A generator of the CPU for sample `number`: usually `steps`, or any other whole number."""
        key = hashlib.sha256(repr((self.seed, self.layer, number)).encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(key[:8], "big"))
