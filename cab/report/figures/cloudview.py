"""A picture of completed clouds: what is given, what the model made of it, and the truth, a row for each shape.

Points that are given are grey; those that the model added have colours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab.report.figures.style import new_figure
from tasks.data.packed_samples import unpack_cloud

COLUMNS = {"partial": "given", "completed": "completed", "complete": "truth"}
ELEVATION, AZIMUTH = 20, 35
"""Of the camera, in degrees."""
WIDTH = 2.6
"""Of a cloud, in inches."""
GIVEN = "#b8b8b8"


def write_picture(cell: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    figure = new_figure(WIDTH * len(COLUMNS), WIDTH * len(rows))
    panels = figure.subplots(len(rows), len(COLUMNS), squeeze=False, subplot_kw={"projection": "3d"})
    for line, row in zip(panels, rows, strict=True):
        given, truth = unpack_cloud(row["partial"]), unpack_cloud(row["complete"])
        center, half = (truth.max(0) + truth.min(0)) / 2, (truth.max(0) - truth.min(0)).max() / 2
        for axes, (name, title) in zip(line, COLUMNS.items(), strict=True):
            points = unpack_cloud(row[name])
            known = (points[:, None] == given).all(2).any(1)
            added = points[~known]
            axes.scatter(*points[known].T, s=5, c=GIVEN, depthshade=False)
            axes.scatter(*added.T, s=5, c=added @ np.array([1.0, 1.0, 0.5]), cmap="viridis", depthshade=False)
            axes.set(**{f"{axis}lim": (at - half, at + half) for axis, at in zip("xyz", center, strict=True)})
            axes.set_box_aspect((1, 1, 1), zoom=1.5)
            axes.view_init(ELEVATION, AZIMUTH)
            axes.set_axis_off()
            score = f", CD-L1 {row['cd_l1']:.1f}" if name == "completed" else ""
            axes.set_title(f"{row['shape']}: {title}" if name == "partial" else title + score, fontsize=12)
    figure.suptitle(f"{cell['attention']}, {cell['pattern']}, {cell['size']}", fontsize=14)
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})
    return path
