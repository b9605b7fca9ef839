"""The folder layout of PCN (Yuan et al. 2018, arXiv 1808.00671), as PoinTr (arXiv 2108.08839) reads it.

    PCN.json                                     [{taxonomy_id, taxonomy_name, train: [NAME], val: [...], test: [...]}]
    SPLIT/complete/TAXONOMY/NAME.pcd             the whole cloud
    SPLIT/partial/TAXONOMY/NAME/00.pcd           what is seen of it: to 07.pcd in train, 00.pcd in val and test

Clouds are taken as they are: PCN's have a bounding box with a diagonal of about 1. The content hash is of the list and
of the bytes of all files that are used. The same whole cloud in two splits is refused.

In PoinTr's code, 2,048 points of a partial cloud are drawn every time, also in evaluation; if there are fewer, zeros
are appended, which are points at the origin. Train always uses the last view, 07, and both clouds are mirrored at
random; val and test use 00. All 1,200 test shapes are scored against all of their 16,384 points. Here points are drawn
once, so that every family and seed sees the same; missing ones are copies, as in PCN's own code, because zeros would
stay in the completed cloud; train has the first `views` views, one of them 00, without mirrors; val and test are as
published except for the drawing. Up to these draws, scores are comparable with published ones.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np

from tasks.base import SPLITS, Split
from tasks.data import camera
from tasks.data.cloud_views import Pair, Shapes, Sizes, check_apart, check_points
from tasks.data.file_digests import file_digests
from tasks.data.pcd import read_pcd

NEEDED = "a folder in PCN's layout has one: give such a folder, or an .npz file"
FOLDERS = ("train", "val", "test")
VIEWS = 8
LEAST_SEEN = 16
"""Points of a partial cloud."""


def pcn(root: Path, sizes: Sizes, cache: Path) -> tuple[str, dict[Split, Shapes]]:
    """SHA-256 of the list and of its files, and the splits."""
    if sizes.views > VIEWS:
        raise ValueError(f"task.views={sizes.views}: PCN has {VIEWS} views of a train shape: use at most {VIEWS}")
    try:
        raw = (root / "PCN.json").read_bytes()
        listed = [(entry["taxonomy_id"], entry["taxonomy_name"], entry) for entry in json.loads(raw)]
        found = {
            split: [(folder, str(id), str(group), str(name)) for id, group, entry in listed for name in entry[folder]]
            for split, folder in zip(SPLITS, FOLDERS, strict=True)
        }
    except OSError:
        raise ValueError(f"data.path={root}: no PCN.json in it: {NEEDED}") from None
    except (ValueError, KeyError, TypeError):
        needed = "a list of {taxonomy_id, taxonomy_name, train, val, test}"
        raise ValueError(f"data.path={root}: PCN.json is damaged: {needed} is needed") from None
    files: dict[Split, list[list[Path]]] = {}
    for split in SPLITS:
        if not found[split]:
            raise ValueError(f"data.path={root}: PCN.json names no shape for {split}: all three splits need some")
        views = range(sizes.views if split == "train" else 1)
        for (id, name), count in Counter((id, name) for _, id, _, name in found[split]).items():
            if count > 1:
                raise ValueError(f"data.path={root}: PCN.json names {id}/{name} twice for {split}: keep one of them")
        files[split] = []
        for folder, id, _, name in found[split]:
            seen = [root / folder / "partial" / id / name / f"{view:02}.pcd" for view in views]
            files[split].append([root / folder / "complete" / id / f"{name}.pcd", *seen])
    paths = [path for split in SPLITS for own in files[split] for path in own]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: in PCN.json, but not there: get it, or remove it from the list")
    digests = dict(zip(paths, file_digests(paths, cache), strict=True))
    whole: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        own = [(paths[0].parent.name, paths[0].stem, digests[paths[0]]) for paths in files[split]]
        whole[split] = [(f"{id}/{name}", digest) for id, name, digest in own]
    check_apart(whole, f"data.path={root}")
    content = hashlib.sha256(raw)
    for path, digest in digests.items():
        content.update(f"{path.relative_to(root).as_posix()}\0{digest}\0".encode())

    def shapes(split: Split) -> Shapes:
        def load(index: int) -> Pair:
            path = files[split][index][0]
            whole, *seen = [_checked_pcd(path) for path in files[split][index]]
            if len(whole) < sizes.truth:
                needed = f"truth={sizes.truth} are needed: use a smaller task.truth"
                raise ValueError(f"{path}: has {len(whole):,} points, {needed}")
            rng = np.random.default_rng((SPLITS.index(split), index))
            return rng.permutation(whole)[: sizes.truth], [camera.sampled(one, sizes.points, rng) for one in seen]

        return Shapes([group for _, _, group, _ in found[split]], len(files[split][0]) - 1, load)

    return content.hexdigest(), {split: shapes(split) for split in SPLITS}


def _checked_pcd(path: Path) -> np.ndarray:
    points = read_pcd(path)
    if len(points) < LEAST_SEEN:
        raise ValueError(f"{path}: has {len(points)} points, at least {LEAST_SEEN} are needed: remove it")
    check_points(points, str(path))
    return points
