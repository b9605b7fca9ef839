"""The predictors without attention or a network in a record, and which of them a result is held against."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Scored(NamedTuple):
    name: str
    score: float
    """By the headline."""


def predictors(result: Mapping[str, Any]) -> list[Scored]:
    """Those of a record's result with a score, the strongest first."""
    headline = result.get("headline")
    pairs = [(each["name"], each["metrics"].get(headline)) for each in result.get("predictors") or []]
    sign = 1 if (result.get("better") or {}).get(headline, "lower") == "lower" else -1
    return sorted((Scored(*pair) for pair in pairs if pair[1] is not None), key=lambda each: sign * each.score)


def strongest_predictor(result: Mapping[str, Any]) -> Scored | None:
    """None where no predictor has a score."""
    return next(iter(predictors(result)), None)
