"""Records as the analyses see them."""

from typing import Any

from helpers import synthetic

from cab.report.analyses.base import Line, Material
from cab.report.composite import composites
from cab.report.groups import make_groups
from cab.store.record import Record


def material(*records: Record) -> Material:
    groups = make_groups(records)
    return Material(groups, composites(groups))


def seeds(name: str, *scores: float, **about: Any) -> list[Record]:
    return [synthetic.quality(name, seed, score=score, **about) for seed, score in enumerate(scores)]


def scored(record: Record, metric: str, better: str, score: float, predictor: float) -> Record:
    """The record with another headline."""
    record.result.update(
        metrics={metric: score},
        headline=metric,
        better={metric: better},
        predictors=[{"name": "constant", "metrics": {metric: predictor}}],
    )
    return record


def one(lines: list[Line], **wanted: Any) -> Line:
    (line,) = [line for line in lines if all(getattr(line, key) == value for key, value in wanted.items())]
    return line


def recall(name: str, seed: int, accuracy: float, **about: Any) -> Record:
    """A record of recall with a score between 0 and 1."""
    about = {"task": "recall", "pattern": "causal_self", "real": False, **about}
    return scored(synthetic.quality(name, seed, **about), "accuracy", "higher", accuracy, 0.05)


def with_tables(record: Record) -> Record:
    """With the tables that lm and recall have, near the record's score."""
    score, tables = record.result["metrics"][record.result["headline"]], record.result["tables"]
    if record.cell["task"] == "lm":
        tables["loss_by_context"] = [{"context": n, "bits_per_byte": score + n / 999} for n in (128, 256, 512)]
        for table, ends in (("loss_by_position", (0, 1, 4, 16, 64, 256)), ("loss_by_repetition", (0, 1, 2, 4, 8, 256))):
            attends = 0.0 if record.cell["attention"] == "none" else 1.0
            rows = [(start, end, 1 / 5) for start, end in zip(ends, ends[1:], strict=False)]
            tables[table] = [by_bin(*row, score - attends * at / 9) for at, row in enumerate(rows)]
    else:
        tables["accuracy_by_setting"] = [
            setting(length, pairs, max(0.0, min(1.0, score * 8 / pairs * 128 / length)), length <= 256)
            for length in (64, 128, 256, 512)
            for pairs in (4, 8, 16, 32, 64)
            if pairs <= length // 4
        ]
    return record


def by_bin(start: int, end: int, share: float, bits: float, tokens: int = 100) -> dict[str, Any]:
    return {"from": start, "to": end, "tokens": tokens, "share": share, "bits_per_byte": bits}


def setting(length: int, pairs: int, accuracy: float, trained: bool = True) -> dict[str, Any]:
    row = {"length": length, "pairs": pairs, "memory": 0, "answers": 100, "accuracy": accuracy, "loss": 1 - accuracy}
    return row | {"trained": trained}
