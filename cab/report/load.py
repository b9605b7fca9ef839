"""From the record files to data frames: one row per quality record, one per measurement of an efficiency record.

Nothing is averaged here and nothing is dropped in silence. What cannot be believed (damaged, copied, of another science
version) is left out and named in `Loaded.problems`; a cell that failed is a row with its status and reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.store.record import SCIENCE_VERSION, DamagedRecord, Record, all_records

if TYPE_CHECKING:
    import pandas as pd

BASELINES = ("vanilla", "eager")
"""Measured in every efficiency record, round by round beside the family."""
CELL = {
    "quality": ("attention", "pattern", "task", "size", "seed"),
    "efficiency": ("attention", "pattern", "level", "dim", "heads", "depth", "hidden", "device", "precision"),
}
"""The fields of a record's cell without which it has no place in a table."""
NOT_SETTINGS = ("seed", "attention")
"""Parts of a quality record's identity in which rows of a group may differ: the rest makes them comparable."""


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Loaded:
    quality: list[Record] = field(default_factory=list)
    efficiency: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def load(results: Path) -> Loaded:
    """Every record below a results folder that this version may use, and the files that it may not."""
    loaded = Loaded()
    for path, record in all_records(results):
        if isinstance(record, DamagedRecord):
            loaded.problems.append(Problem(path, str(record)))
        elif path.parent.parent.name != record.kind:
            reason = f"lies in folder {path.parent.parent.name}, its kind is {record.kind}: a copy"
            loaded.problems.append(Problem(path, reason))
        elif record.science_version != SCIENCE_VERSION:
            reason = f"science version {record.science_version}, this version reads {SCIENCE_VERSION}"
            loaded.problems.append(Problem(path, reason))
        elif reason := _unfit(record):
            loaded.problems.append(Problem(path, reason))
        else:
            (loaded.quality if record.kind == "quality" else loaded.efficiency).append(record)
    return loaded


def _unfit(record: Record) -> str:
    """Why a whole record has no place in a table; empty where it has."""
    for name in ("cell", "identity", "result", "config", "provenance"):
        if not isinstance(getattr(record, name), Mapping):
            return f"its {name} is no mapping"
    missing = [name for name in CELL[record.kind] if record.cell.get(name) is None]
    if missing:
        return f"its cell has no {', '.join(missing)}"
    for name in ("metrics", "better", "trivial", "data", "model", "training"):
        if not isinstance(record.result.get(name) or {}, Mapping):
            return f"its {name} is no mapping"
    return ""


def quality_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per quality record, whatever its status; `trivial.<name>` is the trivial predictor's metric."""
    import pandas as pd

    return pd.DataFrame([_quality_row(record) for record in records], dtype=object)  # whole numbers stay whole


def _quality_row(record: Record) -> dict[str, Any]:
    result, cell = record.result, record.cell
    trivial, headline = result.get("trivial") or {}, result.get("headline")
    data, model, training = (result.get(name) or {} for name in ("data", "model", "training"))
    row = {name: cell.get(name) for name in ("task", "pattern", "size", "attention", "seed")}
    row |= {
        "status": record.status,
        "reason": record.reason,
        "headline": headline,
        "better": (result.get("better") or {}).get(headline),
        "score": (result.get("metrics") or {}).get(headline),
        "trivial": trivial.get("name"),
        "trivial_score": (trivial.get("metrics") or {}).get(headline),
        "data_source": data.get("source") or (record.config.get("data") or {}).get("source"),
        "data": None if data.get("real") is None else "real" if data["real"] else "generated",
        "data_description": data.get("description"),
        "data_hash": data.get("content"),
        "parameters": model.get("parameters"),
        "core_parameters": model.get("core_parameters"),
        "excess": model.get("excess"),
        "steps": training.get("steps"),
        "train_seconds": training.get("seconds"),
        "examples_per_second": training.get("examples_per_second"),
    }
    row |= {f"metric.{name}": value for name, value in (result.get("metrics") or {}).items()}
    row |= {f"trivial.{name}": value for name, value in (trivial.get("metrics") or {}).items()}
    row |= {
        name: (record.config.get("model") or {}).get(name) for name in ("dim", "heads", "depth", "hidden", "length")
    }
    return row | {"settings": settings_name(record), "options": options_text(record.identity)} | origin(record)


def origin(record: Record) -> dict[str, Any]:
    """The columns that say where a row comes from."""
    git, device = (record.provenance.get(name) or {} for name in ("git", "device"))
    return {
        "science_version": record.science_version,
        "command": record.provenance.get("command"),
        "revision": revision(git),
        "device": device.get("name"),
        "started": record.provenance.get("started"),
        "seconds": record.provenance.get("seconds"),
        "record": record.hash,
    }


def revision(git: Mapping[str, Any]) -> str | None:
    """`1ec352d+dirty`: the commit, and whether files differed from it."""
    return f"{git['revision']}{'+dirty' if git.get('dirty') else ''}" if git.get("revision") else None


def canonical(value: Any) -> str:
    """A text that is equal where values are equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What rows of one group must have in common: everything that decides the numbers but the family and the seed."""
    return {key: value for key, value in identity.items() if key not in NOT_SETTINGS}


def settings_name(record: Record) -> str:
    """A short name of the settings: equal names, comparable rows."""
    import hashlib

    return hashlib.sha256(canonical(settings(record.identity)).encode()).hexdigest()[:8]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}" if prefix else key).items()}


def options_text(identity: Mapping[str, Any]) -> str:
    """The options of the family as `block=64 gate=true`."""
    attention = identity.get("attention")
    if not isinstance(attention, Mapping):
        return ""
    chosen = {k: v for k, v in flatten(attention).items() if not k.startswith("_") and k != "name"}
    return " ".join(f"{key}={_option(value)}" for key, value in sorted(chosen.items()))


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def differences(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """For each of some nested mappings, in their order, what tells it from the others: `train.steps=200`."""
    flat = [flatten(value) for value in values]
    names = sorted({name for mapping in flat for name in mapping})
    different = [name for name in names if len({canonical(mapping.get(name)) for mapping in flat}) > 1]
    return [" ".join(f"{key}={_option(mapping[key])}" for key in different if key in mapping) for mapping in flat]
