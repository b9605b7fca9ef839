"""The rows of composite.csv and composite_scale.csv."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cab.report.composite import Composite
from cab.report.groups import is_logarithmic
from cab.report.settings import options_text


def entry_rows(made: Composite) -> list[dict[str, Any]]:
    """The rows of composite.csv."""
    rows = []
    for entry in made.entries:
        low, high = entry.interval or (None, None)
        record = next(iter(entry.variants.values())).first
        row = {
            "pattern": made.pattern,
            "size": made.size,
            "attention": entry.attention,
            "label": entry.label,
            "options": options_text(entry.options),
            "rank": entry.rank,
            "tie": entry.tie,
            "n": entry.n,
            "index": entry.index,
            "index_low": low,
            "index_high": high,
            "delta": entry.delta,
            "tasks": len(entry.tasks) - len(entry.missing),
            "of": len(entry.tasks),
            "missing": ", ".join(entry.missing),
            "science_version": record.science_version,
        }
        rows.append(row | {f"task.{task}": score for task, score in entry.tasks.items()})
    return rows


@dataclass(frozen=True)
class ScaleRow:
    """A row of composite_scale.csv: the standard of a metric, and the families that set it."""

    pattern: str
    size: str
    task: str
    metric: str
    scale: str
    better: str
    mean: float
    deviation: float
    n: int
    families: str
    data_hash: str | None
    settings: str


def scale_rows(made: Composite) -> list[ScaleRow]:
    return [
        ScaleRow(
            pattern=made.pattern,
            size=made.size,
            task=task,
            metric=metric,
            scale="log" if is_logarithmic(metric) else "linear",
            better=standard.better,
            mean=standard.mean,
            deviation=standard.deviation,
            n=len(made.references[task]),
            families=", ".join(sorted(variant.label for variant in made.references[task])),
            data_hash=made.groups[task].data_hash,
            settings=made.groups[task].settings_name,
        )
        for task, metrics in made.standards.items()
        for metric, standard in metrics.items()
    ]
