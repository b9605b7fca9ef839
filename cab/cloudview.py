"""A picture of completed clouds: `python -m cab.cloudview RESULT.json PICTURE.png`.

RESULT.json is the record of a cell of task point_cloud. Each row is a test shape: what is given, what the model made of
it, and the truth, seen from the same side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cab.command import command_line
from cab.errors import UserError
from cab.record import DamagedRecord, Record, read_record
from cab.style import looks
from tasks.data.packed import unpacked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {"partial": "given", "completed": "completed", "complete": "truth"}
ELEVATION, AZIMUTH = 20, 35
"""Where the picture is taken from, in degrees."""


def picture(record: Record) -> Figure:
    """The clouds in the table `completed` of the record."""
    rows = record.result["tables"]["completed"]
    with looks() as figure_class:
        figure = figure_class(figsize=(3.4 * len(COLUMNS), 3.4 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(COLUMNS), squeeze=False, subplot_kw={"projection": "3d"})
        for line, row in zip(axes, rows, strict=True):
            truth = unpacked(row["complete"])
            middle, half = (truth.max(0) + truth.min(0)) / 2, (truth.max(0) - truth.min(0)).max() / 2
            for one, (name, title) in zip(line, COLUMNS.items(), strict=True):
                points = unpacked(row[name])
                one.scatter(*points.T, s=6, c=points @ (1.0, 1.0, 0.5), cmap="viridis", depthshade=False)
                one.set(**{f"{axis}lim": (m - half, m + half) for axis, m in zip("xyz", middle, strict=True)})
                one.set_box_aspect((1, 1, 1), zoom=1.3)
                one.view_init(ELEVATION, AZIMUTH)
                one.set_axis_off()
                score = f", CD-L1 {row['cd_l1']:.1f}" if name == "completed" else ""
                one.set_title(f"{row['shape']}: {title}" if name == "partial" else title + score, fontsize=14)
        cell = record.cell
        figure.suptitle(f"{cell['attention']}, {cell['pattern']}, {cell['size']}", fontsize=16)
        return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.cloudview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args(arguments)

    def work() -> int:
        try:
            record = read_record(given.record)
        except DamagedRecord as error:
            raise UserError(f"{given.record}: {error}") from error
        if not record.result.get("tables", {}).get("completed"):
            raise UserError(f"{given.record}: no completed clouds: give the record of a finished cell of point_cloud")
        given.picture.parent.mkdir(parents=True, exist_ok=True)
        picture(record).savefig(given.picture, dpi=80)
        print(given.picture)
        return 0

    return command_line(work)


if __name__ == "__main__":
    sys.exit(main())
