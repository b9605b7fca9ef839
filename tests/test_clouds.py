"""Clouds: farthest point order, the camera, solids, files and what is wrong with them, splits that do not mix."""

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.base import SPLITS, Data
from tasks.data import camera, synthetic_solids
from tasks.data.cloud_views import Sizes
from tasks.data.clouds import Clouds, clouds
from tasks.data.farthest_point_order import farthest_order
from tasks.data.packed_samples import pack_cloud, unpack_cloud
from tasks.data.pcd import read_pcd

SIZES = Sizes(points=32, truth=48, views=2, solids=7, held_out_solids=4)
NAMES = [f"shape{i}" for i in range(9)]
GIVEN = ["train"] * 5 + ["validation"] * 2 + ["test"] * 2


def ball(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True) / 2


def shapes(seed: int = 0) -> np.ndarray:
    return np.stack([ball(150, seed + i) * np.random.default_rng(seed + i).uniform(0.3, 1, 3) for i in range(9)])


def npz(folder: Path, **arrays: object) -> Path:
    given = {"points": shapes(), "name": np.array(NAMES), "split": np.array(GIVEN)} | arrays
    np.savez(folder / "shapes.npz", **{name: array for name, array in given.items() if array is not None})
    return folder / "shapes.npz"


def loaded(path: Path, cache: Path, sizes: Sizes = SIZES) -> Clouds:
    return clouds(Data("local", str(path)), sizes, cache)


@pytest.mark.parametrize("copies", [0, 10])
def test_farthest_order_by_brute_force(copies: int) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 40, 3))
    points[:, 40 - copies :] = points[:, :copies]
    orders = farthest_order(points)
    for cloud, order in zip(points, orders, strict=True):
        assert sorted(order) == list(range(40))
        for place in range(1, 40):
            distance = np.linalg.norm(cloud[:, None] - cloud[order[:place]], axis=2).min(1)
            assert distance[order[place]] == pytest.approx(distance.max())
        again = farthest_order(cloud[order[:15]][None])
        assert (again == np.arange(15)).all()  # a sample of a sample is its beginning


@pytest.mark.parametrize("seed", range(5))
def test_camera_sees_the_front_of_a_ball(seed: int) -> None:
    points, toward = ball(4000), camera.direction(np.random.default_rng(seed))
    assert np.linalg.norm(toward) == pytest.approx(1)
    visible, height = camera.visible(points, toward), points @ toward
    assert visible[height > 0.3].all()
    assert 0.1 < visible[np.abs(height) < 0.2].mean() < 0.6
    assert visible[height < -0.2].mean() < 0.01
    assert (visible | camera.visible(points, -toward))[np.abs(height) > 0.3].all()


def test_camera_does_not_see_through_a_wall() -> None:
    rng = np.random.default_rng(0)
    front, back = (np.column_stack([np.full(2000, x), rng.uniform(-0.25, 0.25, (2000, 2))]) for x in (0.25, -0.25))
    visible = camera.visible(np.concatenate([front, back]), np.array([1.0, 0.0, 0.0]))
    assert visible[:2000].all()
    assert visible[2000:].mean() < 0.01


def test_few_visible_points_come_again() -> None:
    rng, visible = np.random.default_rng(0), ball(10)
    assert len(np.unique(camera.sampled(visible, 10, rng), axis=0)) == 10
    more = camera.sampled(visible, 25, rng)
    assert len(more) == 25
    assert len(np.unique(more, axis=0)) == 10


def part(seed: int) -> synthetic_solids.Part:
    (one,) = synthetic_solids.solid(np.random.default_rng(seed), 1)
    return one


def grown(one: synthetic_solids.Part, by: float) -> synthetic_solids.Part:
    """About a point inside."""
    middle = (one.bottom.mean(0) + one.top.mean(0)) / 2
    return synthetic_solids.Part(*(middle + by * (ring - middle) for ring in (one.bottom, one.top)))


def plane(one: synthetic_solids.Part) -> tuple[np.ndarray, np.ndarray]:
    """A basis of the plane of the polygons, and the unit vector across."""
    right = one.bottom[0] - one.bottom.mean(0)
    right /= np.linalg.norm(right)
    across = np.cross(right, one.bottom[6] - one.bottom.mean(0))
    across /= np.linalg.norm(across)
    return np.stack([right, np.cross(across, right)], 1), across


def polygon_area(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


@pytest.mark.parametrize("seed", range(4))
def test_a_part_is_what_it_is_said_to_be(seed: int) -> None:
    """Two parallel superellipses, the second smaller; the volume between them is that of a frustum."""
    one = part(seed)
    flat, across = plane(one)
    heights = [ring @ across for ring in (one.bottom, one.top)]
    assert all(np.ptp(height) < 1e-12 for height in heights)
    rings = [(ring - ring.mean(0)) @ flat for ring in (one.bottom, one.top)]
    taper = np.linalg.norm(rings[1]) / np.linalg.norm(rings[0])
    assert 0 < taper < 1
    np.testing.assert_allclose(rings[1], taper * rings[0], atol=1e-12)
    shares = np.abs(rings[0]) / np.abs(rings[0]).max(0)  # |x/a|, |y/b|: the sum of their powers is 1
    power = np.log(0.5) / np.log(shares[3].mean())  # at 45 degrees both are 2^(-1/p)
    np.testing.assert_allclose((shares**power).sum(1), 1, atol=1e-6)
    assert 2 <= power <= 12
    areas = [polygon_area(ring) for ring in rings]
    volume = abs(heights[1][0] - heights[0][0]) / 3 * (sum(areas) + np.sqrt(areas[0] * areas[1]))
    corners = np.concatenate([one.bottom, one.top])
    low, size = corners.min(0), np.ptp(corners, axis=0)
    thrown = low + size * np.random.default_rng(0).uniform(size=(200_000, 3))
    assert np.prod(size) * one.contains(thrown).mean() == pytest.approx(volume, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_surface_of_a_part(seed: int) -> None:
    """Points lie on the border of what `contains` says, and everywhere as many as their share of the area."""
    one, rng = part(seed), np.random.default_rng(0)
    points = one.surface(20_000, rng)
    assert points.shape == (20_000, 3)
    assert grown(one, 1.01).contains(points).all()
    assert not grown(one, 0.99).contains(points).any()
    flat, across = plane(one)
    height = points @ across
    for ring in (one.bottom, one.top):
        share = polygon_area((ring - ring.mean(0)) @ flat) / one.areas.sum()
        assert (np.abs(height - ring[0] @ across) < 1e-9).mean() == pytest.approx(share, abs=0.015)
    probes = one.surface(300, rng)
    counts = np.array([(np.linalg.norm(points - probe, axis=1) < 0.03).sum() for probe in probes])
    assert np.median(counts) == pytest.approx(20_000 * np.pi * 0.03**2 / one.areas.sum(), rel=0.1)


def test_parts_are_turned_in_every_way() -> None:
    turned = np.array([synthetic_solids.rotation(np.random.default_rng(seed)) for seed in range(2000)])
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (2000, 3, 3)), atol=1e-12)
    assert np.linalg.det(turned).min() > 0.99
    assert np.abs(turned.mean(0)).max() < 0.05
    np.testing.assert_allclose((turned**2).mean(0), 1 / 3, atol=0.03)
    pairs = [synthetic_solids.solid(np.random.default_rng(seed), 2) for seed in range(300)]
    assert np.mean([abs(plane(one)[1] @ plane(other)[1]) for one, other in pairs]) == pytest.approx(0.5, abs=0.05)
    areas = np.array([[one.areas.sum() for one in pair] for pair in pairs]).mean(0)
    assert areas[1] / areas[0] == pytest.approx(0.8**2, abs=0.06)


def test_a_union_has_no_points_inside() -> None:
    for index in range(12):
        rng = np.random.default_rng(index)
        parts = synthetic_solids.solid(rng, 1 + index % 4)
        assert len(parts) == 1 + index % 4
        points = synthetic_solids.surface_points(parts, 300, rng)
        assert points.shape == (300, 3)
        for one in parts:
            assert not grown(one, 0.97).contains(points).any()
            assert grown(one, 1.01).contains(points).any()  # none is lost


def test_generated_clouds(tmp_path: Path) -> None:
    found = clouds(Data(), SIZES, tmp_path)
    assert not found.real
    assert [len(found.splits[split].groups) for split in SPLITS] == [7, 4, 4]
    train = found.splits["train"]
    assert train.partial.shape == (14, 32, 3)
    assert train.complete.shape == (7, 48, 3)
    assert train.owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert train.groups[:4] == ["2 parts", "3 parts", "2 parts", "3 parts"]
    assert found.splits["test"].owner.tolist() == [0, 1, 2, 3]  # one view: no test cloud is worth less than another
    assert not (train.partial[0] == train.partial[1]).all()
    assert (farthest_order(train.partial) == np.arange(32)).all()
    again = clouds(Data(), SIZES, tmp_path / "other")
    assert again.content == found.content
    for split in SPLITS:
        np.testing.assert_array_equal(again.splits[split].partial, found.splits[split].partial)
    whole = [cloud.tobytes() for split in SPLITS for cloud in found.splits[split].complete]
    assert len(set(whole)) == 15


def test_clouds_of_a_file(tmp_path: Path) -> None:
    """Scaled to a diagonal of 1 about the origin; a view is a part of its own shape, and not of the whole cloud."""
    found = loaded(npz(tmp_path), tmp_path)
    assert found.real
    given = shapes()
    for split, names in zip(SPLITS, (NAMES[:5], NAMES[5:7], NAMES[7:]), strict=True):
        views = found.splits[split]
        assert views.groups == names
        for partial, owner in zip(views.partial, views.owner, strict=True):
            points = given[NAMES.index(names[owner])]
            low, high = points.min(0), points.max(0)
            scaled = (points - (low + high) / 2) / np.linalg.norm(high - low)
            for cloud in (partial, views.complete[owner]):
                distance = np.linalg.norm(cloud[:, None] - scaled, axis=2)
                assert distance.min(1).max() < 1e-6
            both = np.linalg.norm(partial[:, None] - views.complete[owner], axis=2)
            assert both.min() > 1e-6


def test_integers_are_the_same_shapes(tmp_path: Path) -> None:
    exact = loaded(npz(tmp_path), tmp_path)
    rounded = loaded(npz(tmp_path, points=np.rint(shapes() * 60_000).astype(np.int16)), tmp_path)
    assert rounded.content != exact.content
    for split in SPLITS:
        np.testing.assert_allclose(rounded.splits[split].complete, exact.splits[split].complete, atol=1e-4)


def test_nothing_of_test_reaches_train(tmp_path: Path) -> None:
    before = loaded(npz(tmp_path), tmp_path)
    other = shapes()
    other[5:] = shapes(seed=100)[5:]
    after = loaded(npz(tmp_path, points=other), tmp_path)
    np.testing.assert_array_equal(after.splits["train"].partial, before.splits["train"].partial)
    np.testing.assert_array_equal(after.splits["train"].complete, before.splits["train"].complete)
    assert not np.array_equal(after.splits["test"].partial, before.splits["test"].partial)


def test_splits_by_name_keep_copies_together(tmp_path: Path) -> None:
    names = np.array([f"n{i // 2}" for i in range(80)])
    points = np.random.default_rng(0).normal(size=(80, 120, 3))
    found = loaded(npz(tmp_path, points=points, name=names, split=None), tmp_path)
    groups = [set(found.splits[split].groups) for split in SPLITS]
    assert sum(len(found.splits[split].groups) for split in SPLITS) == 80
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40
    assert len(groups[0]) > 20
    points[1::2] = points[::2]  # each shape under two names
    names[1::2] = [f"m{i}" for i in range(40)]
    twins = loaded(npz(tmp_path, points=points, name=names, split=None), tmp_path)
    parts = [{cloud.tobytes() for cloud in points[np.isin(names, twins.splits[split].groups)]} for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_made_once(tmp_path: Path) -> None:
    path = npz(tmp_path)
    loaded(path, tmp_path / "cache")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}
    assert len(files) == 6
    loaded(path, tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")} == files


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"points": None}, r"no array 'points' in it \(it has name, split\): give an .npz file with"),
        ({"name": None}, "no array 'name' in it"),
        ({"points": np.zeros((9, 150, 2))}, r"`points` is float64 of shape \(9, 150, 2\): numbers of shape"),
        ({"points": np.zeros((9, 150, 3)).astype(str)}, "numbers of shape"),
        ({"points": shapes()[:, :100]}, r"shapes have 100 points, truth=48, points=32 need 112 \(truth"),
        ({"points": np.where(np.arange(3) == 1, np.nan, shapes())}, r"shape 'shape0': point 0 is \[.*nan.*: numbers"),
        ({"points": np.ones((9, 150, 3))}, "shape 'shape0': all points are the same"),
        ({"name": np.array(NAMES[1:])}, "8 entries in `name` for 9 shapes: give each shape one"),
        ({"split": np.array(["train"] * 8)}, "8 entries in `split` for 9 shapes"),
        ({"split": np.array(["train"] * 8 + ["val"])}, "shape 'shape8' is in split 'val': use train, validation, test"),
        ({"split": np.array(["train"] * 8 + ["test"])}, "no shape in split validation: give more shapes"),
    ],
)
def test_impossible_files(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        loaded(npz(tmp_path, **arrays), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_damaged_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "shapes.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"not an .npz file, or a damaged one: give an .npz file with") as error:
        loaded(tmp_path / "shapes.npz", tmp_path)
    assert "\n" not in str(error.value)


def test_other_files_of_arrays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.npz")
    np.save(tmp_path / "x.npy", shapes())
    for name in ("x.npy", "fifo.npz"):
        with pytest.raises(ValueError, match=rf"{name}: not an .npz file, or a damaged one: give an .npz file with"):
            loaded(tmp_path / name, tmp_path)
    np.savez(tmp_path / "objects.npz", points=shapes(), name=np.array([{}, None], object))
    whole = bytearray((tmp_path / "objects.npz").read_bytes())
    whole[300:3000] = bytes(2700)
    (tmp_path / "torn.npz").write_bytes(whole)
    for name in ("objects.npz", "torn.npz"):
        with pytest.raises(
            ValueError, match=rf"{name}: not readable as .npz \(an array is damaged, or holds other"
        ) as error:
            loaded(tmp_path / name, tmp_path)
        assert "allow_pickle" not in str(error.value)


@pytest.mark.parametrize("place", [0.0, 0.1, 1e8])
def test_points_that_differ_by_rounding_only_are_the_same(tmp_path: Path, place: float) -> None:
    points = shapes()
    points[3] = place * (1 + 1e-15 * points[3])
    with pytest.raises(ValueError, match="shape 'shape3': all points are the same: remove the shape"):
        loaded(npz(tmp_path, points=points), tmp_path)
    points[3] = place * (1 + 0.01 * points[4]) if place else 1e-30 * points[4]
    points = points.astype(np.float64)
    found = loaded(npz(tmp_path, points=points), tmp_path)
    for views in found.splits.values():
        assert np.isfinite(views.complete).all()
        assert 0.2 < np.linalg.norm(np.ptp(views.complete, 1), axis=-1).min() < 1.01


def test_no_such_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder: give an \.npz"):
        loaded(tmp_path / "missing.npz", tmp_path)
    with pytest.raises(ValueError, match=r"no PCN\.json in it: a folder in PCN's layout has one"):
        loaded(tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"data\.source=hub: point_cloud has none: use data=local"):
        clouds(Data("hub"), SIZES, tmp_path)


def pcd(path: Path, points: np.ndarray, kind: str = "binary", colour: bool = False) -> None:
    fields = "rgb x y z" if colour else "x y z"
    n, count = len(points), len(fields.split())
    lines = ["# .PCD v0.7", "VERSION 0.7", f"FIELDS {fields}", f"SIZE {'4 ' * count}", f"TYPE {'F ' * count}"]
    lines += [f"COUNT {'1 ' * count}", f"WIDTH {n}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {n}"]
    table = np.column_stack([np.full(n, 7.0), points]) if colour else points
    body = table.astype("<f4").tobytes()
    if kind == "ascii":
        body = "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in table).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*lines, f"DATA {kind}\n"]).encode() + body)


@pytest.mark.parametrize("kind", ["ascii", "binary"])
@pytest.mark.parametrize("colour", [False, True])
def test_pcd(tmp_path: Path, kind: str, colour: bool) -> None:
    pcd(tmp_path / "a.pcd", ball(20), kind, colour)
    np.testing.assert_allclose(read_pcd(tmp_path / "a.pcd"), ball(20), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"", "its header is not that of a pcd file"),
        (lambda raw: b"\0" * 5000, "its header is not that of a pcd file"),
        (lambda raw: raw.replace(b"POINTS 20", b"POINTS x"), "its header is not that of a pcd file"),
        (lambda raw: raw.replace(b"SIZE 4 4 4", b"SIZE 4 4"), "its header is not that of a pcd file"),
        (lambda raw: raw.replace(b"FIELDS x y z", b"FIELDS x y q"), "there is no field x, y, z in it"),
        (lambda raw: raw[:-10], "it ends before its 20 points do"),
        (lambda raw: raw.replace(b"DATA binary", b"DATA binary_compressed"), "DATA binary_compressed is not read"),
        (lambda raw: raw.replace(b"DATA binary", b"DATA ascii"), "it does not hold 20 points of 3 numbers"),
    ],
)
def test_damaged_pcd(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.pcd"
    pcd(path, ball(20))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        read_pcd(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def pcn(root: Path) -> Path:
    """Two groups of shapes; a point of view 3 of a shape has 3 as its first coordinate."""
    listed, seeds = [], itertools.count()
    for id, group in (("02691156", "airplane"), ("02958343", "car")):
        entry: dict = {"taxonomy_id": id, "taxonomy_name": group}
        for folder, count, views in (("train", 2, 8), ("val", 1, 1), ("test", 1, 1)):
            entry[folder] = [f"{group}{folder}{i}" for i in range(count)]
            for name in entry[folder]:
                pcd(root / folder / "complete" / id / f"{name}.pcd", ball(60, next(seeds)))
                for view in range(views):
                    seen = np.where(np.arange(3) == 0, view, ball(20))
                    pcd(root / folder / "partial" / id / name / f"{view:02}.pcd", seen)
        listed.append(entry)
    (root / "PCN.json").write_text(json.dumps(listed))
    return root


def twice(root: Path) -> None:
    listed = json.loads((root / "PCN.json").read_text())
    listed[0]["train"] *= 2
    (root / "PCN.json").write_text(json.dumps(listed))


def test_pcn_folder(tmp_path: Path) -> None:
    found = loaded(pcn(tmp_path / "PCN"), tmp_path, Sizes(32, 48, 3, 1, 1))
    assert found.real
    train, test = found.splits["train"], found.splits["test"]
    assert train.groups == ["airplane", "airplane", "car", "car"]
    assert test.groups == ["airplane", "car"]
    assert train.partial.shape == (12, 32, 3)
    assert test.partial.shape == (2, 32, 3)
    assert train.partial[:, 0, 0].tolist() == [0, 1, 2] * 4
    assert len(np.unique(train.partial[0], axis=0)) == 20  # filled up with copies
    distance = np.linalg.norm(train.complete[0][:, None] - ball(60), axis=2).min(1)
    assert distance.max() < 1e-6
    assert len(loaded(tmp_path / "PCN", tmp_path, Sizes(32, 48, 8, 1, 1)).splits["train"].partial) == 32
    with pytest.raises(ValueError, match=r"task.views=9: PCN has 8 views of a train shape: use at most 8"):
        loaded(tmp_path / "PCN", tmp_path, Sizes(32, 48, 9, 1, 1))


def test_content_of_a_pcn_folder_is_that_of_its_files(tmp_path: Path) -> None:
    """Of those that are used: points of a file of the same size, not the place or what else lies there."""
    root = pcn(tmp_path / "PCN")
    before = loaded(root, tmp_path / "cache").content
    moved = shutil.copytree(root, tmp_path / "moved")
    (moved / "train" / "complete" / "notes.txt").write_text("more")
    assert loaded(moved, tmp_path / "cache").content == before
    for place in ("test/complete/02958343/cartest0.pcd", "train/partial/02958343/cartrain1/01.pcd"):
        changed = shutil.copytree(root, tmp_path / place.replace("/", "-"))
        pcd(changed / place, ball(60 if "complete" in place else 20, seed=99))
        assert (changed / place).stat().st_size == (root / place).stat().st_size
        assert loaded(changed, tmp_path / "cache").content != before
    renamed = json.loads((root / "PCN.json").read_text())
    renamed[0]["taxonomy_name"] = "aeroplane"
    (root / "PCN.json").write_text(json.dumps(renamed))
    assert loaded(root, tmp_path / "cache").content != before


@pytest.mark.parametrize("make", [npz, pcn])
def test_options_that_change_nothing_make_nothing(tmp_path: Path, make) -> None:
    """How many solids would be generated."""
    (tmp_path / "given").mkdir()
    path, cache = make(tmp_path / "given"), tmp_path / "cache"

    def folders(sizes: Sizes) -> int:
        loaded(path, cache, sizes)
        return len([folder for folder in cache.glob("clouds-*") if folder.is_dir()])

    assert folders(SIZES) == 1
    assert folders(replace(SIZES, solids=99, held_out_solids=99)) == 1
    assert [folders(replace(SIZES, **{name: 30})) for name in ("points", "truth")] == [2, 3]
    assert folders(replace(SIZES, views=8)) == 4


def test_a_shape_in_two_splits_is_refused(tmp_path: Path) -> None:
    """Under any name; twice in one split it may be."""
    points = shapes()
    points[1] = points[0]
    points[6] = points[5]
    loaded(npz(tmp_path, points=points), tmp_path / "cache")
    points[8] = points[2]
    message = r"data\.path=.*shapes\.npz: shape 'shape8' in test is the same as shape 'shape2' in train: keep it in one"
    with pytest.raises(ValueError, match=message):
        loaded(npz(tmp_path, points=points), tmp_path / "cache")
    root = pcn(tmp_path / "PCN")
    folder = root / "train" / "complete" / "02691156"
    shutil.copy(folder / "airplanetrain0.pcd", folder / "airplanetrain1.pcd")
    loaded(root, tmp_path / "cache")
    shutil.copy(folder / "airplanetrain1.pcd", root / "val" / "complete" / "02958343" / "carval0.pcd")
    message = (
        r"PCN: 02958343/carval0 in validation is the same as 02691156/airplanetrain0 in train: keep it in one only$"
    )
    with pytest.raises(ValueError, match=message):
        loaded(root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "PCN.json").write_text("{"), r"PCN.json is damaged: a list of \{taxonomy_id"),
        (lambda root: (root / "PCN.json").write_text("[]"), "PCN.json names no shape for train"),
        (twice, "PCN.json names 02691156/airplanetrain0 twice for train: keep one of them"),
        (lambda root: (root / "test/complete/02958343/cartest0.pcd").unlink(), "cartest0.pcd: in PCN.json, but not th"),
        (lambda root: pcd(root / "val/partial/02958343/carval0/00.pcd", ball(9)), "has 9 points, at least 16 are need"),
        (lambda root: pcd(root / "val/complete/02958343/carval0.pcd", ball(40)), "has 40 points, truth=48 are needed"),
        (lambda root: pcd(root / "val/complete/02958343/carval0.pcd", ball(60) * np.nan), r"point 0 is \[nan, nan"),
    ],
)
def test_damaged_pcn_folder(tmp_path: Path, break_it, message: str) -> None:
    root = pcn(tmp_path / "PCN")
    break_it(root)
    with pytest.raises(ValueError, match=message) as error:
        loaded(root, tmp_path)
    assert "\n" not in str(error.value)


def test_packed_clouds() -> None:
    points = ball(3000)
    assert unpack_cloud(pack_cloud(points)).shape == (1024, 3)
    np.testing.assert_allclose(unpack_cloud(pack_cloud(points[:50])), points[:50], atol=0.0026)
