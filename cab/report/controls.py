"""The controls of a table: what a task gives without attention to anything far away.

none                   the table's own row of the same network without token mixing
none + convolution 4   that of the table whose settings differ in `model.conv` only; where that is 0, none without
                       convolution. Its row stands in this table without rank and counts in nothing else
local                  softmax attention within a window of at most WINDOW tokens, if the sequence is longer than that
a predictor            the best one without attention or a network
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cab.report.efficiency import Efficiency
from cab.report.oriented import oriented, scaled
from cab.report.settings import canonical
from cab.report.stats import Estimate, Interval, difference, mean
from cab.report.variant import Variant

if TYPE_CHECKING:
    from cab.report.groups import Group

CONTROLS = ("none", "local")
"""Families."""
WINDOW = 64
"""Tokens; `local` with a greater window is a family like others."""


def is_control(variant: Variant) -> bool:
    if variant.attention != "local":
        return variant.attention in CONTROLS
    window = (variant.first.identity.get("attention") or {}).get("window") or WINDOW
    length = (variant.first.identity.get("model") or {}).get("length") or 0
    return window <= WINDOW and window < length


@dataclass(frozen=True)
class Control:
    """A control with a score."""

    name: str
    scores: Sequence[float]
    """Of its seeds; one number of a predictor, which has no seeds."""
    exact: bool = False
    """Without noise over seeds: a predictor."""

    @property
    def mean(self) -> float:
        return mean(self.scores).value

    def beaten_by(self, other: Sequence[float]) -> Estimate:
        """The gain of other scores over its own; over seeds of both, of a predictor over those of the other."""
        if not self.exact:
            return difference(other, self.scores)
        own = mean(other)
        interval = Interval(*(end - self.mean for end in own.interval)) if own.interval else None
        return Estimate(own.value - self.mean, interval)


def controls(group: "Group") -> list[Control]:
    """All that have a score, strongest first."""
    rows = [*filter(is_control, group.variants), *group.other_controls]
    found = [Control(variant.label, own) for variant in rows if (own := oriented(group, variant))]
    predictor = group.strongest_predictor
    score = scaled(group.headline, predictor.score) if predictor else None
    if predictor and score is not None:
        found.append(Control(predictor.name, [group.sign * score], exact=True))
    return sorted(found, key=lambda control: -control.mean)


def share_controls(groups: Sequence["Group"]) -> None:
    """Gives every group the rows of `none` of the groups that differ from it in the short convolution only."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        alike.setdefault(canonical(_without_convolution(group)), []).append(group)
    for same in alike.values():
        for group in same:
            group.other_controls = [
                replace(other.control, label=_label(other), rank=None, tie=False, gain=None, efficiency=Efficiency())
                for other in same
                if other is not group and other.control
            ]


def _without_convolution(group: "Group") -> list[Any]:
    model = group.settings.get("model")
    kept = {key: value for key, value in model.items() if key != "conv"} if isinstance(model, Mapping) else model
    return [group.data_hash, group.settings | {"model": kept}]  # the settings have the task, pattern and size


def _label(group: "Group") -> str:
    width = (group.settings.get("model") or {}).get("conv")
    return f"none + convolution {width}" if width else "none without convolution"
