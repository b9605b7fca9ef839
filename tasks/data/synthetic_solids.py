"""Synthetic solids as clouds of points on their surface.

A solid is a union of two or three convex parts, each with a random rotation, each further one around a random point of
the surface so far. A part lies between two parallel superellipses |x/a|^p + |y/b|^p = 1, as polygons, one of them
smaller and shifted: something between a box, a cylinder, a pyramid and a cone. Points are uniform by area over the
outside; points inside another part are left out.

A part has seven numbers and a rotation, so that the nearest train shape is far from any test shape, while the hidden
side of a convex part follows partly from its visible side.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

VERSION = 2
"""Increased when the same call would give other points."""
PARTS = (2, 3)
CORNERS = 24
"""Of a polygon."""
ROUND, SQUARE = 2, 12
"""Least and largest p."""
SIZES = (0.15, 0.5)
"""Half axes and half height."""
LEAST_TAPER, MOST_ASIDE = 0.02, 0.3
LATER = 0.8
"""Size of a further part against the first."""


@dataclass(frozen=True)
class Part:
    """What lies between two parallel, similar, convex polygons, (S, 3) each."""

    bottom: np.ndarray
    top: np.ndarray

    @cached_property
    def triangles(self) -> np.ndarray:
        """(4 S, 3, 3), the surface."""
        low, high = (np.broadcast_to(ring.mean(0), ring.shape) for ring in (self.bottom, self.top))
        bottom, top = (np.roll(ring, -1, 0) for ring in (self.bottom, self.top))
        sides = [(self.bottom, bottom, self.top), (bottom, top, self.top)]
        caps = [(self.bottom, bottom, low), (self.top, top, high)]
        return np.concatenate([np.stack(corners, 1) for corners in sides + caps])

    @cached_property
    def areas(self) -> np.ndarray:
        return np.linalg.norm(_normals(self.triangles), axis=1) / 2

    def surface(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 3), uniform by area."""
        chosen = self.triangles[rng.choice(len(self.areas), count, p=self.areas / self.areas.sum())]
        along, across = np.sqrt(rng.uniform(size=(count, 1))), rng.uniform(size=(count, 1))
        return (1 - along) * chosen[:, 0] + along * ((1 - across) * chosen[:, 1] + across * chosen[:, 2])

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which of the points (P, 3) lie inside: (P,), by a point and the inward normal of each face."""
        faces = self.triangles[[*range(CORNERS), 2 * CORNERS, 3 * CORNERS]]
        inward = _normals(faces)
        middle = (self.bottom.mean(0) + self.top.mean(0)) / 2
        inward *= np.sign(((middle - faces[:, 0]) * inward).sum(1, keepdims=True))
        return (points @ inward.T > (faces[:, 0] * inward).sum(1)).all(1)


def solid(rng: np.random.Generator, count: int) -> list[Part]:
    """A random solid of `count` parts."""
    parts: list[Part] = []
    for number in range(count):
        bottom, top = _rings(rng)
        turned = rotation(rng).T
        if number:
            turned = LATER * turned
        centre = surface_points(parts, 1, rng)[0] if number else np.zeros(3)
        parts.append(Part(bottom @ turned + centre, top @ turned + centre))
    return parts


def surface_points(parts: list[Part], count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3), uniform by area over the outside of the union."""
    areas = np.array([part.areas.sum() for part in parts])
    found: list[np.ndarray] = []
    while sum(map(len, found)) < count:
        shares = rng.multinomial(2 * count, areas / areas.sum())
        for part, share in zip(parts, shares, strict=True):
            points = part.surface(int(share), rng)
            inside = [other.contains(points) for other in parts if other is not part]
            found.append(points[~np.any(inside, 0)] if inside else points)
    return rng.permutation(np.concatenate(found))[:count]


def _rings(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bottom and a top, (S, 3) each, around the origin."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    way = np.stack([np.cos(angles), np.sin(angles)], 1).round(12)  # exact zeros
    power = np.exp(rng.uniform(np.log(ROUND), np.log(SQUARE)))
    *half_axes, half_height = rng.uniform(*SIZES, 3)
    ring = np.array(half_axes) * np.sign(way) * np.abs(way) ** (2 / power)  # (S, 2)
    smaller = rng.uniform(LEAST_TAPER, 1) * ring + rng.uniform(-MOST_ASIDE, MOST_ASIDE, 2)
    bottom, top = (np.pad(flat, ((0, 0), (0, 1)), constant_values=z) for flat, z in ((ring, -1), (smaller, 1)))
    return bottom * [1, 1, half_height], top * [1, 1, half_height]


def rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3), uniform: of a random unit quaternion."""
    drawn = rng.normal(size=4)
    w, x, y, z = drawn / np.linalg.norm(drawn)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _normals(triangles: np.ndarray) -> np.ndarray:
    """(T, 3) of triangles (T, 3, 3), twice as long as their areas."""
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
