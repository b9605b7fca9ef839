"""The records below a results folder, and quality.csv: one row per quality record.

Nothing is averaged here. Files that cannot be used (damaged, copied, of another science version) are left out and
listed in `Loaded.problems`; a cell that failed is a row with its status and reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cab.report.predictors import predictors
from cab.report.settings import options_text, settings_name
from cab.store.record import SCIENCE_VERSION, DamagedRecord, Record, all_records


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
    """Every record below a results folder that this version can use, and the files that it cannot."""
    loaded = Loaded()
    for path, record in all_records(results):
        reason = str(record) if isinstance(record, DamagedRecord) else _problem(path, record)
        if reason:
            loaded.problems.append(Problem(path, reason))
        elif isinstance(record, Record):
            (loaded.quality if record.kind == "quality" else loaded.efficiency).append(record)
    return loaded


def _problem(path: Path, record: Record) -> str:
    """Why an undamaged record cannot be used; empty if it can."""
    if path.parent.parent.name != record.kind:
        return f"lies in folder {path.parent.parent.name}, its kind is {record.kind}: a copy"
    if record.science_version != SCIENCE_VERSION:
        return f"science version {record.science_version}, this version reads {SCIENCE_VERSION}"
    return ""


def quality_row(record: Record) -> dict[str, Any]:
    """A row of quality.csv; `predictor` is the strongest, `predictor.<name>` the score of each."""
    result, cell = record.result, record.cell
    headline, scored = result.get("headline"), predictors(result)
    data, model, training = (result.get(name) or {} for name in ("data", "model", "training"))
    row = {name: cell.get(name) for name in ("task", "pattern", "size", "attention", "seed")}
    row |= {
        "status": record.status,
        "reason": record.reason,
        "headline": headline,
        "better": (result.get("better") or {}).get(headline),
        "score": (result.get("metrics") or {}).get(headline),
        "predictor": scored[0].name if scored else None,
        "predictor_score": scored[0].score if scored else None,
        "data_source": data.get("source") or (record.config.get("data") or {}).get("source"),
        "data": data_kind(data),
        "data_description": data.get("description"),
        "data_hash": data.get("content"),
        "parameters": model.get("parameters"),
        "core_parameters": model.get("core_parameters"),
        "excess": model.get("excess"),
        "positions": model.get("positions"),
        "state": model.get("state"),
        "learning_rate": (record.identity.get("train") or {}).get("lr"),
        "steps": training.get("steps"),
        "stopped_early": training.get("stopped_early"),
        "selected_step": training.get("selected_step"),
        "validation": training.get("validation"),
        "train_seconds": training.get("seconds"),
        "examples_per_second": training.get("examples_per_second"),
    }
    row |= {f"metric.{name}": value for name, value in (result.get("metrics") or {}).items()}
    row |= {f"predictor.{name}": score for name, score in scored}
    shape = record.config.get("model") or {}
    row |= {name: shape.get(name) for name in ("dim", "heads", "depth", "hidden", "length")}
    row |= {"settings": settings_name(record), "options": options_text(record.identity.get("attention"))}
    row |= {"science_version": record.science_version, **origin(record)}
    return row | {"seconds": record.provenance.get("seconds"), "record": record.hash}


def data_kind(data: Mapping[str, Any]) -> str | None:
    """`real` or `synthetic`; None where it is not recorded."""
    if data.get("real") is None:
        return None
    return "real" if data["real"] else "synthetic"


def origin(record: Record) -> dict[str, Any]:
    """The columns that say where a row comes from."""
    provenance = record.provenance
    return {
        "command": provenance.get("command"),
        "revision": revision(record),
        "device": (provenance.get("device") or {}).get("name"),
        "started": provenance.get("started"),
    }


def started(record: Record) -> str:
    """When the record's run began, as text that sorts by time; empty where it is not recorded."""
    return record.provenance.get("started") or ""


def revision(record: Record) -> str | None:
    """`1ec352d+dirty`: the commit, and whether files differed from it."""
    return revision_of(record.provenance.get("git") or {})


def revision_of(git: Mapping[str, Any]) -> str | None:
    if not git.get("revision"):
        return None
    return f"{git['revision']}+dirty" if git.get("dirty") else git["revision"]
