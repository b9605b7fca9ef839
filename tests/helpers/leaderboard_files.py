"""The leaderboard of a test's records, read back from its files."""

import csv
from pathlib import Path

from helpers import synthetic

from cab.leaderboard import main
from cab.store.record import Record


def build(results: Path, *records: Record) -> dict[str, list[dict[str, str]]]:
    """Writes the records, runs the command, reads the tables back."""
    synthetic.write(results, *records)
    assert main(["--results", str(results), "--no-plots"]) == 0
    return tables(results)


def tables(results: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for name in ("leaderboard", "quality", "efficiency", "composite", "composite_scale"):
        text = (results / "leaderboard" / f"{name}.csv").read_text()
        found[name] = list(csv.DictReader(text.splitlines())) if text.strip() else []
    return found


def page(results: Path) -> str:
    return (results / "leaderboard" / "leaderboard.md").read_text()


def one(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row
