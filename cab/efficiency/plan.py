"""The plan of a sweep, its measurements, and predictions of time and memory at longer lengths."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import log
from typing import Any

import torch

from attentions.base import Pattern, Shape
from cab.efficiency.subjects import LEVELS, PHASES, PRECISIONS
from cab.errors import UserError

Point = tuple[int, float]
"""A length and the cost measured there."""


@dataclass(frozen=True)
class Plan:
    """One sweep: every family at every phase, length and batch size. Raises UserError for values out of range."""

    pattern: Pattern
    level: str
    phases: tuple[str, ...]
    lengths: tuple[int, ...]
    shape: Shape
    """Its design lengths are replaced by each length of the sweep."""
    device: torch.device
    budget_seconds: float
    batch: int = 1
    decode_batches: tuple[int, ...] = (1,)
    precision: str = "float32"
    rounds: int = 20
    min_rounds: int = 3

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
        """(phase, batch size) in the order of measurement."""
        series = []
        for phase in self.phases:
            batches = self.decode_batches if phase == "decode" else (self.batch,)
            series += [(phase, batch) for batch in batches]
        return series


@dataclass(frozen=True)
class Measurement:
    """One subject at one phase, length and batch size.

    status         ok | not_measured | unsupported | out_of_memory | error; all but ok have a reason
    seconds        one per round, of one call, in decode of one step. Entry i of all subjects at the same phase, length
                   and batch is from the same round, so that ratios pair. Tokens per second in decode: batch / seconds
    peak_bytes     above what was allocated before the call: without parameters and inputs, in decode without the state
    flops          matmul FLOPs of one call, in decode of one step; None if the family does not run on meta tensors
    parameters     core parameters of the timed module
    state_numbers  prefill and decode: numbers kept per sequence after the prompt, as the family reports them
    state_bytes    prefill and decode: bytes of the state after the prompt, for the whole batch
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def extrapolate(points: Sequence[Point], length: int, default_power: float = 1.0) -> float:
    """Predicts the cost at a longer length by the power law through the last two points, of power 1 to 3.

    With one point the power is `default_power`. Without points the prediction is 0, so that a first length is tried.
    """
    if not points:
        return 0.0
    last_length, last_cost = points[-1]
    power = default_power
    if len(points) > 1:
        length_before, cost_before = points[-2]
        if last_cost > 0 and cost_before > 0:
            power = min(3.0, max(1.0, log(last_cost / cost_before) / log(last_length / length_before)))
    return last_cost * (length / last_length) ** power


def eager_bytes(plan: Plan, phase: str, length: int, batch: int) -> int:
    """Predicts the peak memory of softmax attention written out, whose scores are B x H x N x N in float32.

    Three copies are alive at once: scores, scaled or masked scores, softmax. In training each layer keeps one more for
    the backward pass. Decoding starts with a prompt that is computed in the same way.
    """
    scores = 4 * batch * plan.shape.heads * length**2
    saved_for_backward = plan.shape.depth if phase == "train" and plan.level == "stack" else 0
    return scores * (3 + saved_for_backward)
