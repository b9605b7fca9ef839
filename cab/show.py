"""Examples of what a model predicted.

From the tables of a record alone, so exactly what was scored: pictures of completed clouds and of images, speech as wav
files with its spectrograms, texts in the terminal. Before them, where the record is from: command, commit, own code.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cab.arguments import Parser
from cab.command import command_line
from cab.errors import UserError

if TYPE_CHECKING:
    from cab.store.record import Record

ARGUMENTS = """\
RECORD is the result.json of a quality cell, or its folder; cab.run prints its path
FOLDER is for the files; by default `examples` in the current one"""
EXAMPLES = ("results/runs/quality/HASH/result.json", "results/runs/quality/HASH/result.json /tmp/examples")


def show(record: "Record", folder: Path) -> list[str]:
    """Writes the examples below a folder; returns lines with their paths, or the examples themselves.

    Raises UserError if the record has none.
    """
    from cab.report.figures.examples import VIEWS  # imports torch and matplotlib

    tables = record.result.get("tables") or {}
    found = {name: tables[name] for name in VIEWS if tables.get(name)}
    if not found:
        raise UserError(
            f"no examples in the tables of this {record.kind} record ({record.status}): give that of a finished cell "
            "of summarization, super_resolution, point_cloud, tts or tts_fastspeech2"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return [line for name, rows in found.items() for line in VIEWS[name](record, rows, folder)]


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> int:
        parser = Parser("cab.show", __doc__, "RECORD [FOLDER]", EXAMPLES, ARGUMENTS)
        _, paths = parser.parse(arguments)
        if not 1 <= len(paths) <= 2:
            parser.error(f"{len(paths)} paths: RECORD or RECORD FOLDER is needed")
        path, folder = Path(paths[0]), Path(paths[1] if len(paths) > 1 else "examples")
        from cab.report.origin import of_records
        from cab.store.record import RECORD, DamagedRecord, read_record

        if path.is_dir():
            path /= RECORD
        if not os.path.lexists(path):
            raise UserError(f"{path}: no such file")
        try:
            record = read_record(path)
            known = {name: text for name, text in of_records([record]).items() if text not in ("", "unknown")}
            print("\n".join(f"{name + ':':<11}{text}" for name, text in known.items()))
            print("\n".join(show(record, folder)))
        except (DamagedRecord, UserError) as error:
            raise UserError(f"{path}: {error}") from error
        except FileExistsError as error:
            raise UserError(f"{folder}: no folder: choose another one") from error
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
