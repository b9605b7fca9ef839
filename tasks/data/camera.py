"""The points of a dense cloud that a camera sees: those that no other point hides.

The camera is far away and looks along a line. Points are projected onto a plane in front of it, cut into square cells
(a depth buffer), and a point is seen where it lies no deeper than the nearest point of its cell and a tolerance. Cells
shrink with the number of points, so that a cell of a surface that faces the camera holds some of them.
"""

import numpy as np

POINTS_PER_CELL = 16
"""Of a cloud of area 1 that faces the camera: fewer would let the back show through the front."""
TOLERANCE = 1.5
"""In cells: a surface that is almost parallel to the view is deep within one cell."""


def direction(rng: np.random.Generator) -> np.ndarray:
    """(3,), of length 1, from the cloud to the camera, uniform over the sphere."""
    drawn = rng.normal(size=3)
    return drawn / np.linalg.norm(drawn)


def visible(points: np.ndarray, toward: np.ndarray) -> np.ndarray:
    """Which of the points (P, 3), inside a ball of diameter 1 around the origin, a camera at `toward` sees: (P,)."""
    cells = max(1, int(np.sqrt(len(points) / POINTS_PER_CELL)))
    least = np.eye(3)[np.abs(toward).argmin()]
    right = np.cross(toward, least)
    right /= np.linalg.norm(right)
    plane = points @ np.stack([right, np.cross(toward, right)], 1)  # (P, 2)
    places = np.clip(np.floor((plane + 0.5) * cells), 0, cells - 1).astype(np.int64)
    cell = places[:, 0] * cells + places[:, 1]
    height = points @ toward
    highest = np.full(cells * cells, -np.inf)
    np.maximum.at(highest, cell, height)
    return height >= highest[cell] - TOLERANCE / cells


def sampled(visible: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random points of the visible (V, 3); if there are fewer, all of them and random copies."""
    places = rng.permutation(len(visible))
    if len(places) < count:
        places = np.concatenate([places, rng.integers(len(visible), size=count - len(places))])
    return visible[places[:count]]
