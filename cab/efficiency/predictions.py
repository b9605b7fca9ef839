"""Predictions of time and memory at longer lengths from those of shorter ones, and what fits a time budget."""

from collections.abc import Iterable, Sequence
from math import log

from cab.efficiency.plan import Plan

Point = tuple[int, float]
"""A length and the cost measured there."""


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


class Predictions:
    """Predictions for the subjects of one series: a phase at a batch size."""

    def __init__(self, plan: Plan, phase: str, batch: int, names: Iterable[str]) -> None:
        self.plan, self.phase, self.batch = plan, phase, batch
        self.setup = dict.fromkeys(names, 0.0)
        """Seconds to build a subject and count its FLOPs, which hardly depend on the length."""
        self.calls: dict[str, list[Point]] = {name: [] for name in self.setup}
        """Seconds of all calls: warm-up, profile and `min_rounds` rounds."""
        self.peaks: dict[str, list[Point]] = {name: [] for name in self.setup}
        """Peak bytes."""

    def seconds(self, name: str, length: int) -> float:
        """Time that a subject takes with `min_rounds` rounds."""
        return self.setup[name] + extrapolate(self.calls[name], length)

    def peak_bytes(self, name: str, length: int) -> float:
        """Peak memory of a subject; 0 where a failure to allocate would do no harm."""
        measured = 0.0
        if self.plan.device.type == "cpu":
            measured = extrapolate(self.peaks[name], length, default_power=2.0)
        if name == "eager":
            return max(measured, eager_bytes(self.plan, self.phase, length, self.batch))
        return measured

    def over_budget(self, names: Sequence[str], length: int, seconds: float) -> list[str]:
        """The subjects to leave out so that the rest takes at most so many seconds: none, eager, or all."""
        needed = sum(self.seconds(name, length) for name in names)
        if needed <= seconds:
            return []
        if "eager" in names and needed - self.seconds("eager", length) <= seconds:
            return ["eager"]
        return list(names)

    def seconds_for_more_rounds(self, names: Sequence[str], longer: Sequence[int], seconds: float) -> float:
        """Time for more rounds at a length, of the seconds that are left for it and the longer ones.

        What the longer lengths do not need is shared equally between this length and those of them that fit.
        """
        shares = 1
        for length in longer:
            left_out = self.over_budget(names, length, seconds)
            if len(left_out) == len(names):
                break
            seconds -= sum(self.seconds(name, length) for name in names if name not in left_out)
            shares += 1
        return seconds / shares
