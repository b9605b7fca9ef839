"""Examples of what a model predicted: `python -m cab.show results/runs/quality/HASH/result.json FOLDER`.

From the tables of a record alone, so exactly what was scored: pictures of completed clouds and of images, speech as wav
files with its spectrograms, texts in the terminal. Before them, where the record is from: command, commit, own code.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cab.command import command_line
from cab.errors import UserError
from cab.store.record import DamagedRecord, Record, read_record


def show(record: Record, folder: Path) -> list[str]:
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
    parser = argparse.ArgumentParser(
        prog="python -m cab.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="result.json of a quality cell; cab.run prints its path")
    parser.add_argument("folder", type=Path, help="for the files")
    options = parser.parse_args(arguments)

    def work() -> int:
        from cab.report.origin import of_records

        try:
            record = read_record(options.record)
            known = {name: text for name, text in of_records([record]).items() if text not in ("", "unknown")}
            print("\n".join(f"{name + ':':<11}{text}" for name, text in known.items()))
            print("\n".join(show(record, options.folder)))
        except (DamagedRecord, UserError) as error:
            raise UserError(f"{options.record}: {error}") from error
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
