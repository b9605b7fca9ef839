"""Shapes of a source of clouds: each a whole cloud and partial clouds, which are views of it from one side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.data import camera

ROUNDING = 1e-6
"""A shape that is smaller, relative to its distance from the origin, is one of rounding: 32 bits hold 7 digits."""

Pair = tuple[np.ndarray, list[np.ndarray]]
"""A whole cloud and its partial clouds."""


@dataclass(frozen=True)
class Sizes:
    points: int
    """Of a partial cloud."""
    truth: int
    """Of a whole cloud."""
    views: int
    """Partial clouds of each whole cloud; of synthetic data and PCN only in train."""
    solids: int
    """Synthetic shapes in train."""
    held_out_solids: int
    """Synthetic shapes in each of validation and test."""


@dataclass(frozen=True)
class Shapes:
    """A split of a source."""

    groups: list[str]
    """The name of each shape in tables of results."""
    views: int
    load: Callable[[int], Pair]


def seen_from_outside(points: np.ndarray, sizes: Sizes, views: int, rng: np.random.Generator) -> Pair:
    """The first of the points (P, 3), which are in random order, are the whole cloud; the camera sees the others."""
    points = points.astype(np.float64)
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) / np.linalg.norm(high - low)
    whole, others = points[: sizes.truth], points[sizes.truth :]
    visible = [others[camera.visible(others, camera.direction(rng))] for _ in range(views)]
    return whole, [camera.sampled(view, sizes.points, rng) for view in visible]


def check_points(points: np.ndarray, where: str) -> None:
    """Raises ValueError if the points (P, 3) are not finite, or as good as all the same."""
    finite = np.isfinite(points).all(1)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(f"{where}: point {row} is {points[row].tolist()}: numbers are needed: remove the shape")
    points = points.astype(np.float64)
    if np.ptp(points, 0).max() <= ROUNDING * np.abs(points).max():
        raise ValueError(f"{where}: all points are the same: remove the shape")


def check_apart(splits: Mapping[str, Sequence[tuple[str, str]]], where: str) -> None:
    """Raises ValueError if a shape, given by its name and the digest of its points, is in two splits."""
    seen: dict[str, tuple[str, str]] = {}
    for split, shapes in splits.items():
        for name, digest in shapes:
            other, twin = seen.setdefault(digest, (split, name))
            if other != split:
                raise ValueError(f"{where}: {name} in {split} is the same as {twin} in {other}: keep it in one only")
