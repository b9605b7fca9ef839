"""Families with one fault each, for tests of what happens then."""

import torch

from attentions.base import Pattern
from attentions.vanilla import Vanilla


class OnlyCross(Vanilla):
    support = {Pattern.NONCAUSAL_CROSS: "paper"}


class Breaks(Vanilla):
    def forward(self, x, memory=None, valid=None, memory_valid=None):
        raise RuntimeError("broken on purpose")


class TakesAllMemory(Vanilla):
    def forward(self, x, memory=None, valid=None, memory_valid=None):
        torch.empty(2**62, dtype=torch.uint8)
        raise AssertionError("that was possible")


class Diverges(Vanilla):
    def forward(self, x, memory=None, valid=None, memory_valid=None):
        y, auxiliary = super().forward(x, memory, valid, memory_valid)
        return y * float("nan"), auxiliary
