"""The few lines that a command prints at its end."""

from typing import Any

from cab.record import Record

WORDS = {"bits_per_byte": "bits per byte"}


def quality_lines(record: Record, before: bool) -> list[str]:
    """What a quality record says, in at most three lines."""
    if record.status != "ok":
        return [f"  quality     {record.status}: {record.reason}"]
    result = record.result
    metrics = ", ".join(f"{words(name)} {number(value)}" for name, value in result["metrics"].items())
    trivial = result["trivial"]
    score = number(trivial["metrics"][result["headline"]])
    training = result["training"]
    real = "real" if result["data"]["real"] else "generated"
    return [
        f"  quality     {metrics} ({trivial['name']}: {score}){' (recorded before)' if before else ''}",
        f"  training    {training['steps']:,} steps in {training['seconds']:.0f} s, "
        f"{result['model']['core_parameters']:,} core parameters, {real} data",
    ]


def words(name: str) -> str:
    return WORDS.get(name, name.replace("_", " "))


def number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
