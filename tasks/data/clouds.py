"""Pairs of a partial cloud, seen from one side, and the whole cloud, in three splits, from one of two sources.

embedded   synthetic solids (`tasks.data.synthetic_solids`)
local      an .npz file with `points` (S, P, 3), integers or floats in any unit, `name` (S,) and optionally `split` (S,)
           of train, validation and test; without it shapes are split by a hash of their name, about 15% for each of
           validation and test, so that copies of a name or of a shape stay together. Or a folder in PCN's layout
           (`tasks.data.pcn`)

Solids and the shapes of an .npz file are scaled to a bounding box around the origin with a diagonal of 1 and seen from
random directions (`tasks.data.camera`), which depend on the split and the index of the shape only. Their partial clouds
have no point in common with the whole cloud. Points are drawn once, those of a partial cloud with copies where the
camera sees fewer, and not every time as published: every epoch, family and seed sees the same points.

Partial clouds are stored in farthest point order (`tasks.data.farthest_point_order`), in a cache
folder that is memory-mapped.
"""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.format import write_array_header_1_0

from tasks.base import SPLITS, Data, Split
from tasks.data import synthetic_solids
from tasks.data.cache_folder import stored
from tasks.data.cloud_views import Pair, Shapes, Sizes, check_apart, check_points, seen_from_outside
from tasks.data.farthest_point_order import farthest_order
from tasks.data.files import given_path
from tasks.data.pcn import pcn
from tasks.data.progress import bar

VERSION = 1
"""Raised when the same source would give other clouds."""
FORMAT = "give an .npz file with `points` (S, P, 3) and `name` (S,), or a folder in PCN's layout"
DENSITY = 16
"""Points of a solid that the camera looks at, for each point of a partial cloud."""
HELD_OUT = 0.15
ORDERED_AT_ONCE = 64


@dataclass(frozen=True)
class Views:
    """A split in the cache."""

    partial: np.ndarray
    """(V, N, 3) float32, each in farthest point order."""
    complete: np.ndarray
    """(S, T, 3) float32."""
    owner: np.ndarray
    """(V,): the shape of each partial cloud."""
    groups: list[str]


@dataclass(frozen=True)
class Clouds:
    description: str
    real: bool
    content: str
    """SHA-256 of the points; of the generator's version and sizes, or of PCN's list and its files."""
    splits: dict[Split, Views]


def clouds(data: Data, sizes: Sizes, cache: Path) -> Clouds:
    """The clouds of the data source."""
    if data.source == "embedded":
        content = hashlib.sha256(f"solids {synthetic_solids.VERSION} {VERSION} {sizes}".encode()).hexdigest()
        description, real, shapes = "synthetic solids", False, _synthetic(sizes)
    elif data.source == "local":
        path = given_path(data.path)
        if not data.path or not path.exists():
            raise ValueError(f"data.path={data.path}: no such file or folder: {FORMAT}")
        description, real = ("PCN folder" if path.is_dir() else "clouds of an .npz file"), True
        content, shapes = pcn(path, sizes, cache) if path.is_dir() else _npz(path, sizes)
    else:
        raise ValueError(f"data.source={data.source}: point_cloud has none: use data=local data.path=..., or embedded")
    kept = (sizes.points, sizes.truth, *(shapes[split].views for split in SPLITS))
    key = hashlib.sha256(f"{VERSION} {content} {kept}".encode()).hexdigest()[:24]
    folder = stored(cache / f"clouds-{key}", lambda folder: _write(folder, shapes, sizes), description)
    return Clouds(description, real, content, {split: _views(folder, split, shapes[split]) for split in SPLITS})


def _synthetic(sizes: Sizes) -> dict[Split, Shapes]:
    def shapes(number: int, count: int, views: int) -> Shapes:
        parts = [synthetic_solids.PARTS[index % len(synthetic_solids.PARTS)] for index in range(count)]

        def load(index: int) -> Pair:
            rng = np.random.default_rng((synthetic_solids.VERSION, number, index))
            solid = synthetic_solids.solid(rng, parts[index])
            points = synthetic_solids.surface_points(solid, sizes.truth + DENSITY * sizes.points, rng)
            return seen_from_outside(points, sizes, views, rng)

        return Shapes([f"{part} parts" for part in parts], views, load)

    held_out = {split: shapes(number, sizes.held_out_solids, 1) for number, split in enumerate(SPLITS) if number}
    return {"train": shapes(0, sizes.solids, sizes.views), **held_out}


def _npz(path: Path, sizes: Sizes) -> tuple[str, dict[Split, Shapes]]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"data.path={path}: not an .npz file, or a damaged one: {FORMAT}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        what = "an array is damaged, or holds other things than numbers and text"
        raise ValueError(f"data.path={path}: not readable as .npz ({what}): {FORMAT}") from None
    for key in ("points", "name"):
        if key not in arrays:
            found = ", ".join(arrays) or "none"
            raise ValueError(f"data.path={path}: no array {key!r} in it (it has {found}): {FORMAT}")
    points, names = arrays["points"], [str(name) for name in arrays["name"].ravel()]
    if points.ndim != 3 or points.shape[2] != 3 or not len(points) or points.dtype.kind not in "iuf":
        found = f"{points.dtype} of shape {points.shape}"
        raise ValueError(f"data.path={path}: `points` is {found}: numbers of shape (S, P, 3) are needed")
    digests = [hashlib.sha256(shape.tobytes()).hexdigest() for shape in points]
    splits = [str(split) for split in arrays["split"].ravel()] if "split" in arrays else _splits(names, digests)
    for key, values in (("name", names), ("split", splits)):
        if len(values) != len(points):
            found = f"{len(values)} entries in `{key}` for {len(points)} shapes"
            raise ValueError(f"data.path={path}: {found}: give each shape one")
    least = sizes.truth + 2 * sizes.points
    if points.shape[1] < least:
        needed = f"truth={sizes.truth}, points={sizes.points} need {least:,} (truth + 2 points)"
        raise ValueError(f"data.path={path}: shapes have {points.shape[1]:,} points, {needed}: use smaller ones")
    for name, split, shape in zip(names, splits, points, strict=True):
        if split not in SPLITS:
            raise ValueError(f"data.path={path}: shape {name!r} is in split {split!r}: use {', '.join(SPLITS)}")
        check_points(shape, f"data.path={path}: shape {name!r}")
    named: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for name, split, digest in zip(names, splits, digests, strict=True):
        named[split].append((f"shape {name!r}", digest))
    check_apart(named, f"data.path={path}")
    content = hashlib.sha256(repr((names, splits, points.shape, points.dtype.str, digests)).encode()).hexdigest()

    def shapes(number: int, split: Split) -> Shapes:
        own = [place for place, found in enumerate(splits) if found == split]
        if not own:
            raise ValueError(f"data.path={path}: no shape in split {split}: give more shapes, or an array `split`")

        def load(index: int) -> Pair:
            rng = np.random.default_rng((VERSION, number, index))
            return seen_from_outside(rng.permutation(points[own[index]]), sizes, sizes.views, rng)

        return Shapes([names[place] for place in own], sizes.views, load)

    return content, {split: shapes(number, split) for number, split in enumerate(SPLITS)}


def _splits(names: list[str], digests: list[str]) -> list[str]:
    """By name; a copy of an earlier shape goes to the split of that shape."""
    first: dict[str, str] = {}
    return [first.setdefault(digest, _split(name)) for name, digest in zip(names, digests, strict=False)]


def _split(name: str) -> Split:
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "validation" if share < HELD_OUT else "test" if share < 2 * HELD_OUT else "train"


def _write(folder: Path, splits: dict[Split, Shapes], sizes: Sizes) -> None:
    for split, shapes in splits.items():
        count, views = len(shapes.groups), shapes.views
        at_once = max(1, ORDERED_AT_ONCE // views)
        with (
            _array(folder / f"{split}_complete.npy", (count, sizes.truth, 3)) as whole,
            _array(folder / f"{split}_partial.npy", (count * views, sizes.points, 3)) as partial,
            bar(f"clouds, {split}", "shape", count) as shown,
        ):
            for start in range(0, count, at_once):
                pairs = [shapes.load(index) for index in range(start, min(start + at_once, count))]
                whole.write(np.array([own for own, _ in pairs], np.float32).tobytes())
                seen = np.array([view for _, own in pairs for view in own], np.float32)
                partial.write(np.take_along_axis(seen, farthest_order(seen)[:, :, None], 1).tobytes())
                shown.update(len(pairs))


def _array(path: Path, shape: tuple[int, ...]) -> BinaryIO:
    """A .npy file of float32 that is written in order: a full disk would end a process that writes to a mapped file."""
    file = path.open("wb")
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file


def _views(folder: Path, split: Split, shapes: Shapes) -> Views:
    partial, whole = (np.load(folder / f"{split}_{name}.npy", mmap_mode="r") for name in ("partial", "complete"))
    return Views(partial, whole, np.arange(len(partial)) // shapes.views, shapes.groups)
