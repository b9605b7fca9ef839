"""A picture of completed clouds: what is given, what the model made of it, and the truth, a row for each shape.

Points that are given are grey, so that what the model added can be told from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cab.report.figures.style import looks
from tasks.data.packed_samples import unpack_cloud

COLUMNS = {"partial": "given", "completed": "completed", "complete": "truth"}
ELEVATION, AZIMUTH = 20, 35
"""Where the picture is taken from, in degrees."""
WIDTH = 2.6
"""Of a cloud, in inches."""
GIVEN = "#b8b8b8"


def picture(cell: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    with looks() as figure_class:
        figure = figure_class(figsize=(WIDTH * len(COLUMNS), WIDTH * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(COLUMNS), squeeze=False, subplot_kw={"projection": "3d"})
        for line, row in zip(axes, rows, strict=True):
            given, truth = unpack_cloud(row["partial"]), unpack_cloud(row["complete"])
            middle, half = (truth.max(0) + truth.min(0)) / 2, (truth.max(0) - truth.min(0)).max() / 2
            for one, (name, title) in zip(line, COLUMNS.items(), strict=True):
                points = unpack_cloud(row[name])
                known = (points[:, None] == given).all(2).any(1)
                added = points[~known]
                one.scatter(*points[known].T, s=5, c=GIVEN, depthshade=False)
                one.scatter(*added.T, s=5, c=added @ np.array([1.0, 1.0, 0.5]), cmap="viridis", depthshade=False)
                one.set(**{f"{axis}lim": (m - half, m + half) for axis, m in zip("xyz", middle, strict=True)})
                one.set_box_aspect((1, 1, 1), zoom=1.5)
                one.view_init(ELEVATION, AZIMUTH)
                one.set_axis_off()
                score = f", CD-L1 {row['cd_l1']:.1f}" if name == "completed" else ""
                one.set_title(f"{row['shape']}: {title}" if name == "partial" else title + score, fontsize=12)
        figure.suptitle(f"{cell['attention']}, {cell['pattern']}, {cell['size']}", fontsize=14)
        figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})
        return path
