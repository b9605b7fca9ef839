"""Generated solids as clouds of points on their surface. Not real data, and said to be none.

A solid is a union of one to three parts: boxes, cylinders, cones, balls and tori of random proportions. The first part
stands upright, each further one is turned in some way and placed at a random point of the surface so far, and the whole
is turned about the upright axis. Points are uniform by area over the outside: what lies inside another part is left
out. So the hidden side of a part follows from what is seen of it, and a hidden part has to be guessed.
"""

from dataclasses import dataclass

import numpy as np

VERSION = 1
"""Raised when the same call would give other points."""
KINDS = ("box", "cylinder", "cone", "ball", "torus")
MOST_PARTS = 3


@dataclass(frozen=True)
class Part:
    """`size`: half edges of a box; radius and half height of a cylinder or cone; radius of a ball; both radii of a
    torus, the larger one first."""

    kind: str
    size: np.ndarray
    rotation: np.ndarray
    """(3, 3), from the part's axes to those of the solid."""
    centre: np.ndarray

    @property
    def area(self) -> float:
        a, b, c = self.size
        return {
            "box": 8 * (a * b + b * c + a * c),
            "cylinder": 2 * np.pi * a * (a + 2 * b),
            "cone": np.pi * a * (a + np.hypot(a, 2 * b)),
            "ball": 4 * np.pi * a**2,
            "torus": 4 * np.pi**2 * a * b,
        }[self.kind]

    def surface(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 3), uniform by area."""
        own = {"box": _box, "cylinder": _cylinder, "cone": _cone, "ball": _ball, "torus": _torus}[self.kind]
        return own(self.size, count, rng) @ self.rotation.T + self.centre

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which of the points (P, 3) lie inside: (P,)."""
        x, y, z = ((points - self.centre) @ self.rotation).T
        a, b, c = self.size
        flat = np.hypot(x, y)
        if self.kind == "box":
            return (np.abs(x) < a) & (np.abs(y) < b) & (np.abs(z) < c)
        if self.kind == "cylinder":
            return (flat < a) & (np.abs(z) < b)
        if self.kind == "cone":
            return (np.abs(z) < b) & (flat < a * (b - z) / (2 * b))
        if self.kind == "ball":
            return flat**2 + z**2 < a**2
        return (flat - a) ** 2 + z**2 < b**2


def solid(rng: np.random.Generator, count: int) -> list[Part]:
    """A random solid of so many parts."""
    parts: list[Part] = []
    for number in range(count):
        kind = KINDS[rng.integers(len(KINDS))]
        size = rng.uniform(0.15, 0.5, 3)
        if kind == "torus":
            size[1] = size[0] * rng.uniform(0.2, 0.5)
        rotation, centre = np.eye(3), np.zeros(3)
        if number:
            rotation, centre = _rotation(rng), surface_points(parts, 1, rng)[0]
            size *= 0.8
        parts.append(Part(kind, size, rotation, centre))
    turn = rng.uniform(0, 2 * np.pi)
    about = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return [Part(part.kind, part.size, about @ part.rotation, about @ part.centre) for part in parts]


def surface_points(parts: list[Part], count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3), uniform by area over the outside of the union."""
    areas = np.array([part.area for part in parts])
    found: list[np.ndarray] = []
    while sum(map(len, found)) < count:
        shares = rng.multinomial(2 * count, areas / areas.sum())
        for part, share in zip(parts, shares, strict=True):
            points = part.surface(int(share), rng)
            inside = [other.contains(points) for other in parts if other is not part]
            found.append(points[~np.any(inside, 0)] if inside else points)
    return rng.permutation(np.concatenate(found))[:count]


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3), uniform: of a random unit quaternion."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _box(size: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    faces = np.prod(size) / size  # areas of the faces across x, y, z
    across = rng.choice(3, count, p=faces / faces.sum())
    points = rng.uniform(-1, 1, (count, 3))
    points[np.arange(count), across] = rng.choice([-1, 1], count)
    return points * size


def _disc(radius: float, height: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _around(radius * np.sqrt(rng.uniform(size=len(height))), height, rng)


def _around(radius: np.ndarray, height: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points at these distances from the upright axis, at random angles."""
    angle = rng.uniform(0, 2 * np.pi, len(height))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


def _cylinder(size: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    radius, half = size[:2]
    side = rng.binomial(count, 2 * half / (2 * half + radius))
    wall = _around(np.full(side, radius), rng.uniform(-half, half, side), rng)
    return np.concatenate([wall, _disc(radius, half * rng.choice([-1, 1], count - side), rng)])


def _cone(size: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The base at -half, the tip at +half."""
    radius, half = size[:2]
    slant = np.hypot(radius, 2 * half)
    side = rng.binomial(count, slant / (slant + radius))
    share = np.sqrt(rng.uniform(size=side))  # of the way from the tip to the base
    return np.concatenate(
        [_around(radius * share, half - 2 * half * share, rng), _disc(radius, np.full(count - side, -half), rng)]
    )


def _ball(size: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    points = rng.normal(size=(count, 3))
    return size[0] * points / np.linalg.norm(points, axis=1, keepdims=True)


def _torus(size: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    ring, tube = size[:2]
    angle = rng.uniform(0, 2 * np.pi, count)
    # The outer side of the tube has more area: mirrored with the right probability, angles have density 1 + cos t/R.
    inward = rng.uniform(size=count) > (1 + tube / ring * np.cos(angle)) / 2
    angle = np.where(inward, np.pi - angle, angle)
    return _around(ring + tube * np.cos(angle), tube * np.sin(angle), rng)
