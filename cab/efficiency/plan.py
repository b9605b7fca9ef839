"""What a sweep measures, and one row of its result."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from attentions.base import Pattern, Shape
from cab.efficiency.subjects import LEVELS, PHASES, PRECISIONS, Decoding
from cab.errors import UserError


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
            raise UserError(f"efficiency.level={self.level}: use one of {', '.join(LEVELS)}")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision}: use one of {', '.join(PRECISIONS)}")
        unknown = [phase for phase in self.phases if phase not in PHASES]
        if unknown or not self.phases or len(set(self.phases)) < len(self.phases):
            raise UserError(f"efficiency.phases={','.join(self.phases)}: use some of {', '.join(PHASES)}, each once")
        for name, values in (("lengths", self.lengths), ("decode_batches", self.decode_batches)):
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise UserError(
                    f"efficiency.{name}={','.join(map(str, values))}: use whole numbers from 1 up, ascending"
                )
        if not 1 <= self.min_rounds <= self.rounds:
            raise UserError(
                f"efficiency.rounds={self.rounds}: use at least min_rounds={self.min_rounds}, itself at least 1"
            )
        if self.batch < 1:
            raise UserError(f"efficiency.batch={self.batch}: use a whole number from 1 up")

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
    decoding: Decoding | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
