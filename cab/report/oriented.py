"""Scores whose differences are gains: more is better, perplexities by their logarithm."""

import math
from typing import TYPE_CHECKING, Any

from cab.report.text import is_logarithmic

if TYPE_CHECKING:
    from cab.report.groups import Group
    from cab.report.variant import Variant


def scaled(metric: str | None, value: Any) -> float | None:
    """A score on the scale on which it counts; None where it is no finite number of that scale."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if not is_logarithmic(metric):
        return float(value)
    return math.log(value) if value > 0 else None


def oriented(group: "Group", variant: "Variant") -> list[float] | None:
    """The scores of all seeds, with their sign changed where lower is better; None if one is missing."""
    values = [scaled(group.headline, value) for value in variant.scores] if variant.complete else []
    known = [group.sign * value for value in values if value is not None]
    return known if known and len(known) == len(values) else None
