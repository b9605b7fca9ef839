"""Families that fail in one of several processes, at the fifth training step."""

import os
import signal

from attentions.vanilla import Vanilla
from cab.quality import distributed


class _Fails(Vanilla):
    rank = 1
    steps = 0

    def after_step(self) -> None:
        self.steps += 1

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        if self.steps == 4 and distributed.world_size() > 1 and distributed.rank() == self.rank:
            self.fail()
        return super().forward(x, memory, valid, memory_valid)

    def fail(self) -> None:
        raise RuntimeError("broken on purpose")


class SecondRaises(_Fails):
    pass


class FirstRaises(_Fails):
    rank = 0


class SecondIsKilled(_Fails):
    def fail(self) -> None:
        if "SPARED" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
