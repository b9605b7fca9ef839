"""What a model made, to look at and listen to: `python -m cab.show results/runs/quality/HASH/result.json FOLDER`.

From the tables of a record alone, and so of exactly what was scored: pictures of completed clouds and of images, speech
as wav files with its spectrograms, texts in the terminal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from cab.command import command_line
from cab.errors import UserError
from cab.store.record import DamagedRecord, Record, read_record

Row = dict[str, Any]
View = Callable[[Record, list[Row], Path], Iterable[str]]
"""Writes a table's examples below a folder; says what it wrote."""


def show(record: Record, folder: Path) -> list[str]:
    """What was written or is to be read, a line each. Raises UserError where there is nothing."""
    tables = record.result.get("tables") or {}
    found = {name: tables[name] for name in VIEWS if tables.get(name)}
    if not found:
        raise UserError(
            f"no examples in the tables of this {record.kind} record ({record.status}): give that of a finished cell "
            "of summarization, super_resolution, point_cloud, tts or tts_fastspeech2"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return [line for name, rows in found.items() for line in VIEWS[name](record, rows, folder)]


def texts(_: Record, rows: list[Row], folder: Path) -> Iterable[str]:
    for row in rows:
        yield from (f"{name}:\n{indent(str(value), '    ')}" for name, value in row.items())
        yield ""


def images(_: Record, rows: list[Row], folder: Path) -> Iterable[str]:
    from cab.report.figures import imageview

    yield str(imageview.picture(rows, folder / "images.png"))


def clouds(record: Record, rows: list[Row], folder: Path) -> Iterable[str]:
    from cab.report.figures import cloudview

    yield str(cloudview.picture(record.cell, rows, folder / "clouds.png"))


def speech(_: Record, rows: list[Row], folder: Path) -> Iterable[str]:
    from cab.report.figures import speechview

    for row in rows:
        yield from speechview.sound(row, folder)
        yield str(speechview.picture(row, folder))


VIEWS: dict[str, View] = {"texts": texts, "images": images, "clouds": clouds, "spectrograms": speech}
"""By the names that tasks give to their tables."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="result.json of a quality cell; cab.run names it")
    parser.add_argument("folder", type=Path, help="where files go")
    given = parser.parse_args(arguments)

    def work() -> int:
        try:
            print("\n".join(show(read_record(given.record), given.folder)))
        except (DamagedRecord, UserError) as error:
            raise UserError(f"{given.record}: {error}") from error
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
