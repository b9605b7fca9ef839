"""What a sweep is asked for, what it gives back, and what it expects a length to cost before it is tried."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import log
from typing import Any, Literal

import torch

from attentions.base import Pattern, Shape
from cab.efficiency.subjects import LEVELS, PHASES, PRECISIONS
from cab.errors import UserError

Point = tuple[int, float]
"""A length and what was measured there."""


@dataclass(frozen=True)
class Plan:
    """One sweep: every family at every phase, length and batch size."""

    pattern: Pattern
    level: str
    phases: tuple[str, ...]
    lengths: tuple[int, ...]
    shape: Shape
    """Sizes; the design lengths in it are replaced by each length of the sweep."""
    device: torch.device
    budget_seconds: float
    batch: int = 1
    decode_batches: tuple[int, ...] = (1,)
    precision: str = "float32"
    rounds: int = 20
    min_rounds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UserError(f"level={self.level}: use one of {', '.join(LEVELS)}")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision}: use one of {', '.join(PRECISIONS)}")
        unknown = [phase for phase in self.phases if phase not in PHASES]
        if unknown or not self.phases or len(set(self.phases)) < len(self.phases):
            raise UserError(f"phases={','.join(self.phases)}: use some of {', '.join(PHASES)}, each once")
        for name, values in (("lengths", self.lengths), ("decode_batches", self.decode_batches)):
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise UserError(f"{name}={','.join(map(str, values))}: use whole numbers from 1 up, ascending")
        if not 1 <= self.min_rounds <= self.rounds:
            raise UserError(f"rounds={self.rounds}: use at least min_rounds={self.min_rounds}, itself at least 1")
        if self.batch < 1:
            raise UserError(f"batch={self.batch}: use a whole number from 1 up")

    @property
    def series(self) -> list[tuple[str, int]]:
        """(phase, batch size), in the order in which they are measured."""
        return [
            (phase, batch)
            for phase in self.phases
            for batch in (self.decode_batches if phase == "decode" else (self.batch,))
        ]


@dataclass(frozen=True)
class Measurement:
    """One row: a subject at one phase, length and batch size.

    status         ok | not_measured | unsupported | out_of_memory | error; all but the first have a reason
    seconds        one per round, of one call (decode: of one step); entry i of every subject with the same phase,
                   length and batch is from the same round, so that ratios pair. Tokens per second = batch / seconds
                   in decode
    peak_bytes     above what was allocated before the call: without parameters and inputs, in decode without the state
    flops          matmul FLOPs of one call (decode: of one step); None if it cannot run on meta tensors
    parameters     core parameters of what is timed
    state_numbers  prefill and decode: numbers kept per sequence after the prompt, by the family's own account
    state_bytes    prefill and decode: bytes that the state after the prompt holds on to, for the whole batch
    decoding       prefill and decode: "state", or "recomputation" where every step computes all outputs so far again
    """

    subject: str
    phase: str
    length: int
    batch: int
    status: str = "ok"
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    flops: int | None = None
    parameters: int | None = None
    state_numbers: int | None = None
    state_bytes: int | None = None
    decoding: Literal["state", "recomputation"] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def extrapolate(points: Sequence[Point], length: int, unknown: float = 1.0) -> float:
    """Cost at a longer length from the last two known ones: a power law, at least linear, at most cubic.

    From one point: of the power `unknown`. Without any: 0, so that the first length is always tried.
    """
    if not points:
        return 0.0
    last, cost = points[-1]
    power = unknown
    if len(points) > 1 and cost > 0:
        previous, before = points[-2]
        power = min(3.0, max(1.0, log(cost / before) / log(last / previous))) if before > 0 else power
    return cost * (length / last) ** power


def eager_bytes(plan: Plan, phase: str, length: int, batch: int) -> int:
    """Peak memory of softmax attention written out: the scores, B x H x N x N in float32.

    Three copies are alive at once (scores, scaled or masked scores, softmax), and in training one more per layer waits
    for the backward pass. Decoding starts from a prompt that is computed in the same way.
    """
    scores = 4 * batch * plan.shape.heads * length**2
    waiting = plan.shape.depth if phase == "train" and plan.level == "stack" else 0
    return scores * (3 + waiting)
