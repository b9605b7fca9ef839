"""Examples of what a model predicted: `python -m cab.show results/runs/quality/HASH/result.json FOLDER`.

From the tables of a record alone, so exactly what was scored: pictures of completed clouds and of images, speech as wav
files with its spectrograms, texts in the terminal.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from cab.command import command_line
from cab.errors import UserError
from cab.store.record import DamagedRecord, Record, read_record

Rows = list[dict[str, Any]]
"""A table of a record."""


def show(record: Record, folder: Path) -> list[str]:
    """Writes the examples below a folder; returns lines with their paths, or the examples themselves.

    Raises UserError if the record has none.
    """
    tables = record.result.get("tables") or {}
    found = {name: tables[name] for name in VIEWS if tables.get(name)}
    if not found:
        raise UserError(
            f"no examples in the tables of this {record.kind} record ({record.status}): give that of a finished cell "
            "of summarization, super_resolution, point_cloud, tts or tts_fastspeech2"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return [line for name, rows in found.items() for line in VIEWS[name](record, rows, folder)]


def texts(_: Record, rows: Rows, folder: Path) -> Iterable[str]:
    for row in rows:
        for name, value in row.items():
            yield f"{name}:\n{indent(str(value), '    ')}"
        yield ""


def images(_: Record, rows: Rows, folder: Path) -> Iterable[str]:
    from cab.report.figures import imageview

    yield str(imageview.write_picture(rows, folder / "images.png"))


def clouds(record: Record, rows: Rows, folder: Path) -> Iterable[str]:
    from cab.report.figures import cloudview

    yield str(cloudview.write_picture(record.cell, rows, folder / "clouds.png"))


def speech(_: Record, rows: Rows, folder: Path) -> Iterable[str]:
    from cab.report.figures import speechview

    for row in rows:
        yield from speechview.write_sound(row, folder)
        yield str(speechview.write_picture(row, folder))


VIEWS: dict[str, Callable[[Record, Rows, Path], Iterable[str]]] = {
    "texts": texts,
    "images": images,
    "clouds": clouds,
    "spectrograms": speech,
}
"""By the name of the table in a record."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="result.json of a quality cell; cab.run prints its path")
    parser.add_argument("folder", type=Path, help="for the files")
    options = parser.parse_args(arguments)

    def work() -> int:
        try:
            print("\n".join(show(read_record(options.record), options.folder)))
        except (DamagedRecord, UserError) as error:
            raise UserError(f"{options.record}: {error}") from error
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
