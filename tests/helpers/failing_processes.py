"""Families that fail in one of two processes, after FAIL_AFTER training steps."""

import os
import signal

from attentions.vanilla import Vanilla
from cab.quality import distributed

FAIL_AFTER = 4


class FailsOnRank(Vanilla):
    rank: int
    steps = 0

    def after_step(self) -> None:
        self.steps += 1

    def forward(self, x, memory=None, valid=None, memory_valid=None):
        if self.steps == FAIL_AFTER and distributed.world_size() > 1 and distributed.rank() == self.rank:
            self.fail()
        return super().forward(x, memory, valid, memory_valid)

    def fail(self) -> None:
        raise RuntimeError("broken on purpose")


class RaisesOnRank0(FailsOnRank):
    rank = 0


class RaisesOnRank1(FailsOnRank):
    rank = 1


class KilledOnRank1(FailsOnRank):
    """Not where the environment has NO_KILL."""

    rank = 1

    def fail(self) -> None:
        if "NO_KILL" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
