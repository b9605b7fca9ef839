"""The CSV files, and the rows of leaderboard.csv, composite.csv, composite_scale.csv and the analyses.

The columns of a dataclass are its fields:
    mean: Estimate | None     mean, mean_low, mean_high
    from: EfficiencyLength    from, from_length, from_bound
    group: Group              task, pattern, size, ...: the columns that name it
    anything else             itself
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cab.efficiency.efficiency_length import EfficiencyLength
from cab.report.composite import Composite
from cab.report.controls import is_control
from cab.report.groups import Group
from cab.report.load import data_kind, origin
from cab.report.settings import options_text
from cab.report.stats import Estimate
from cab.report.text import is_logarithmic
from cab.store.record import write_atomically
from cab.tuning import rates_text


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(list(rows), dtype=object)  # whole numbers stay whole
    write_atomically(path, table.to_csv(index=False).encode())


def columns(row: Any) -> dict[str, Any]:
    """Of a dataclass."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(type(row)).items():
        value, kinds = getattr(row, name), (hint, *get_args(hint))
        if Estimate in kinds:
            found |= estimate_columns(name, value)
        elif EfficiencyLength in kinds:
            found[name] = value.text if value else None
            found[f"{name}_length"] = value.value if value else None
            found[f"{name}_bound"] = value.censored if value else None
        elif isinstance(value, Group):
            found |= value.columns
        else:
            found[name] = value
    return found


def estimate_columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    low, high = estimate.interval if estimate and estimate.interval else (None, None)
    return {name: estimate.value if estimate else None, f"{name}_low": low, f"{name}_high": high}


def leaderboard_rows(group: Group) -> list[dict[str, Any]]:
    """One per variant: its scores, how they compare, and its efficiency."""
    rows = []
    strongest, verdict = group.strongest_predictor, group.verdict
    for variant in group.variants:
        record = variant.first
        data = record.result.get("data") or group.first.result.get("data") or {}
        row = group.columns | {
            "data": data_kind(data),
            "data_source": data.get("source"),
            "attention": variant.attention,
            "label": variant.label,
            "options": variant.options,
            "control": is_control(variant),
            "positions": variant.positions,
            "rank": variant.rank,
            "tie": variant.tie,
            "n": len(variant.scores),
        }
        row |= estimate_columns("mean", variant.mean)
        row["std"] = variant.std
        row |= estimate_columns("gain", variant.gain)
        row |= {
            "predictor": strongest.name if strongest else None,
            "predictor_score": strongest.score if strongest else None,
            "tells_apart": verdict.tells_apart,
            "strongest_control": verdict.strongest_control,
            **estimate_columns("gain_over_control", verdict.gain_over_control),
            "verdict": verdict.sentence,
            "status": variant.status,
            "reason": variant.reason,
            "core_parameters": variant.core_parameters,
            "learning_rate": variant.learning_rate,
            "rate_at_edge": variant.tuning.at_edge if variant.tuning else None,
            "rates_tried": rates_text(sorted(variant.tuning.validations)) if variant.tuning else None,
        }
        row |= columns(variant.efficiency)
        row |= {
            "seeds": " ".join(map(str, variant.seeds)),
            "missing_seeds": " ".join(map(str, group.missing_seeds(variant))),
            "science_version": record.science_version,
        }
        row |= origin(record)
        row["records"] = " ".join(each.hash for each in variant.records)
        row["task_score"] = variant.task_score
        rows.append(row)
    return rows


def composite_rows(made: Composite) -> list[dict[str, Any]]:
    """One per family and options."""
    rows = []
    for entry in made.entries:
        low, high = entry.interval or (None, None)
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
            "science_version": next(iter(entry.variants.values())).first.science_version,
        }
        rows.append(row | {f"task.{task}": score for task, score in entry.tasks.items()})
    return rows


def scale_rows(made: Composite) -> list[dict[str, Any]]:
    """One per metric: its mean and deviation, and the families that set them."""
    return [
        {
            "pattern": made.pattern,
            "size": made.size,
            "task": task,
            "metric": metric,
            "scale": "log" if is_logarithmic(metric) else "linear",
            "better": standard.better,
            "mean": standard.mean,
            "deviation": standard.deviation,
            "n": len(made.references[task]),
            "families": made.families(task),
            "data_hash": made.groups[task].data_hash,
            "settings": made.groups[task].settings_name,
        }
        for task, metrics in made.standards.items()
        for metric, standard in metrics.items()
    ]
