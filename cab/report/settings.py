"""What decides a record's numbers, as text: options of a family, settings of a table, and how they differ."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cab.store.record import Record
from cab.tuning import rates_text, tuned_over

NOT_SETTINGS = ("seed", "attention")
"""Parts of a quality record's identity in which the rows of a group may differ."""


def canonical(value: Any) -> str:
    """A text that is equal where values are equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def settings(record: Record) -> dict[str, Any]:
    """Everything that decides a quality record's numbers except the family and the seed.

    Where rates are tuned, that is the grid and not the rate, in which the rows of a group differ then.
    """
    found = {key: value for key, value in record.identity.items() if key not in NOT_SETTINGS}
    if isinstance(train := found.get("train"), Mapping):
        found["train"] = {key: value for key, value in train.items() if key != "tuned_over"}
        if grid := tuned_over(record):
            found["train"]["lr"] = f"tuned over {rates_text(grid)}"
    return found


def settings_name(record: Record) -> str:
    """A short name of the settings: rows with equal names are comparable."""
    return hashlib.sha256(canonical(settings(record)).encode()).hexdigest()[:8]


def options(record: Record) -> Mapping[str, Any]:
    """The family's class and options."""
    attention = record.identity.get("attention")
    return attention if isinstance(attention, Mapping) else {}


def options_text(attention: Any) -> str:
    """The options of a family as `block=64 gate=true`."""
    if not isinstance(attention, Mapping):
        return ""
    chosen = {key: value for key, value in flatten(attention).items() if not key.startswith("_") and key != "name"}
    return " ".join(f"{key}={_value_text(value)}" for key, value in sorted(chosen.items()))


def labels(families: Sequence[str], options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The families' names, with the options that differ where a family is there more than once."""
    found = list(families)
    for family in set(families):
        places = [place for place, name in enumerate(families) if name == family]
        if len(places) > 1:
            texts = differences([options[place] for place in places])
            for place, text in zip(places, texts, strict=True):
                found[place] = f"{family} ({text})" if text else family
    return found


def differences(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of some nested mappings, how it differs from the others: `train.steps=200`."""
    flat = [flatten(value) for value in values]
    names = sorted({name for mapping in flat for name in mapping})
    different = [name for name in names if len({canonical(mapping.get(name)) for mapping in flat}) > 1]
    return [
        " ".join(f"{name}={_value_text(mapping[name])}" for name in different if name in mapping) for mapping in flat
    ]


def short_difference(difference: str, settings: str, characters: int) -> str:
    """How a table differs from others with its title, or the name of its settings if that takes more characters."""
    return difference if 0 < len(difference) <= characters else f"settings {settings}"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with the keys joined by dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten(item, f"{prefix}.{key}" if prefix else key)
    return found


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
