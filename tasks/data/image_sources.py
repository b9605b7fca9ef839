"""Sources of colour images and their splits; each image is in one split only.

embedded   photographs that come with scikit-image, eight of them, split by image as listed below
local      a folder of *.jpg, *.jpeg and *.png files at any depth, each once whatever links lead to it: either below
           train/ and test/, perhaps val/ or validation/, and nowhere else, or without such folders; then a tenth is
           test. Without a validation folder, a tenth of train is validation. A tenth is chosen by the hash of the
           files' content.
hub        a `datasets` id with one column of images and a split train; splits validation and test where it has them,
           else a tenth each as above, by the hash of the rows' numbers. Default FFHQ (Karras et al., CVPR 2019, arXiv
           1812.04948) at 256 x 256 as `merkol/ffhq-256`: of its 70,000 faces 7,000 are test and 6,300 validation.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageFile

from tasks.base import SPLITS, Data, Split
from tasks.data.file_digests import file_digests
from tasks.data.files import files_below, given_path, name_left_out
from tasks.data.hub import snapshot

HUB_DEFAULT = "merkol/ffhq-256"
ENDINGS = (".jpg", ".jpeg", ".png")
FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
HELD_OUT = 0.1
"""Share of the images for test and of the rest for validation, if the source does not define them."""
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": ("astronaut.png", "camera.png", "ihc.png", "motorcycle_left.png", "retina.jpg"),
    "validation": ("rocket.jpg",),
    "test": ("chelsea.png", "coffee.png"),
}
WANTED = "a folder of jpg or png images, with train/ and test/ in it or without"

Open = Callable[[], ImageFile.ImageFile]
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Collection:
    """Images by name, each with a function that opens it; nothing is decoded yet."""

    description: str
    content: str
    """SHA-256 of all files, or of the hub commit."""
    images: Mapping[Split, Mapping[str, Open]]
    facts: dict[str, int | float | str] = field(default_factory=dict)


def collection(data: Data, column: str, cache: Path) -> Collection:
    """The images of the data source; `column` is the image column of a hub data set."""
    if data.source == "embedded":
        return _embedded(cache)
    if data.source == "local":
        return _local(data.path, cache)
    return _hub(data.id or HUB_DEFAULT, data.revision, column)


def held_out(images: Mapping[str, Kept], hashes: Mapping[str, str], split: Split) -> dict[Split, dict[str, Kept]]:
    """A tenth of the images, at least one, chosen by `hashes`, and the rest as train. Equal ones stay together."""
    ordered = sorted({hashes[name] for name in images})
    if len(ordered) < 2:
        raise ValueError(f"{len(ordered)} image to train on: none can be spared for {split}: give more images")
    chosen = set(ordered[: max(1, round(HELD_OUT * len(ordered)))])
    parts: dict[Split, dict[str, Kept]] = {split: {}, "train": {}}
    for name, image in images.items():
        parts[split if hashes[name] in chosen else "train"][name] = image
    return parts


def _embedded(cache: Path) -> Collection:
    package = find_spec("skimage")
    root = Path(package.origin).parent / "data" if package and package.origin else Path()
    found: dict[Split, dict[str, Path]] = {}
    for split, names in PHOTOGRAPHS.items():
        found[split] = {name: root / name for name in names}
        for name, path in found[split].items():
            if not path.is_file():
                raise ValueError(f"data.source=embedded: scikit-image has no {name} here: install it as in pyproject")
    return _files("photographs in scikit-image", found, _digests(found, cache))


def _local(path: str | None, cache: Path) -> Collection:
    if not path:
        raise ValueError(f"data.source=local needs data.path: {WANTED}")
    root = given_path(path)
    if not root.is_dir():
        raise ValueError(f"data.path={path}: no such folder: give {WANTED}")
    try:
        found = _folders(root) or {"train": _images(root)}
        digests = _digests(found, cache)
        for split in SPLITS[:0:-1]:
            if split not in found:
                hashes = {name: digests[file] for name, file in found["train"].items()}
                found |= held_out(found["train"], hashes, split)
        return _files("local images", found, digests)
    except ValueError as error:
        raise ValueError(f"data.path={path}: {error}") from None


def _folders(root: Path) -> dict[Split, dict[str, Path]]:
    """The images by name of each split that has a folder; nothing where none has."""
    present = {name: split for split in SPLITS for name in FOLDERS[split] if (root / name).is_dir()}
    if not present:
        return {}
    if missing := {"train", "test"} - present.keys():
        raise ValueError(f"no folder {min(missing)}/ beside {min(present)}/: give {WANTED}")
    if len(present) > len(set(present.values())):
        raise ValueError("both val/ and validation/: keep one of them")
    for entry in sorted(root.iterdir()):
        is_image = entry.name.lower().endswith(ENDINGS)
        if entry.name not in present and (is_image or (entry.is_dir() and files_below(entry, ENDINGS).files)):
            folders = ", ".join(f"{name}/" for name in present)
            raise ValueError(f"{entry.name} is in none of {folders}: move it, or remove it")
    return {split: _images(root / name) for name, split in present.items()}


def _images(folder: Path) -> dict[str, Path]:
    """Images by path below the folder, in order."""
    found = files_below(folder, ENDINGS)
    if not found.files:
        raise ValueError(f"no jpg or png image in {folder}: put some there")
    name_left_out(str(folder), found.others, "jpg and png are read")
    return found.files


def _digests(found: Mapping[Split, Mapping[str, Path]], cache: Path) -> dict[Path, str]:
    paths = [path for images in found.values() for path in images.values()]
    return dict(zip(paths, file_digests(paths, cache), strict=True))


def _files(description: str, found: Mapping[Split, Mapping[str, Path]], digests: Mapping[Path, str]) -> Collection:
    """Raises ValueError if the same image is in two splits."""
    content, seen = hashlib.sha256(), dict[str, tuple[Split, str]]()
    for split in SPLITS:
        for name, path in found[split].items():
            other, twin = seen.setdefault(digests[path], (split, name))
            if other != split:
                raise ValueError(f"{name} in {split} is the same as {twin} in {other}: keep it in one only")
            content.update(f"{split}/{name}\0{digests[path]}\0".encode())
    opened = {split: {str(path): _opener(path) for path in found[split].values()} for split in SPLITS}
    return Collection(description, content.hexdigest(), opened, _counts(opened))


def _opener(path: Path) -> Open:
    return lambda: Image.open(path)


def _counts(images: Mapping[Split, Mapping[str, Any]]) -> dict[str, int | float | str]:
    return {f"{split}_images": len(images[split]) for split in SPLITS}


def _hub(id: str, revision: str | None, column: str) -> Collection:
    folder, commit = snapshot(id, revision)
    from datasets import Image as ImageColumn
    from datasets import load_dataset

    try:
        tables = load_dataset(str(folder))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"data.id={id}: not readable by `datasets`: {reason}: choose another data.id") from error
    if "train" not in tables:
        raise ValueError(f"data.id={id}: no split train (it has {', '.join(tables)}): choose another data.id")
    rows: dict[Split, dict[str, tuple[str, int]]] = {}
    for split in (split for split in SPLITS if split in tables):
        names = tables[split].column_names
        if column not in names:
            raise ValueError(
                f"data.id={id}: no column {column!r} (it has {', '.join(names)}): set task.image_column to one of these"
            )
        tables[split] = tables[split].cast_column(column, ImageColumn(decode=False))
        rows[split] = {f"row {row}": (split, row) for row in range(len(tables[split]))}
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in rows["train"]}
    for split in SPLITS[:0:-1]:
        if split not in rows:
            rows |= held_out(rows["train"], hashes, split)

    def opener(place: tuple[str, int]) -> Open:
        def open_row() -> ImageFile.ImageFile:
            value = tables[place[0]][place[1]][column]
            return Image.open(io.BytesIO(value["bytes"]) if value["bytes"] else value["path"])

        return open_row

    images: dict[Split, dict[str, Open]] = {
        split: {f"{id} {name} of {place[0]}": opener(place) for name, place in rows[split].items()} for split in SPLITS
    }
    content = hashlib.sha256(f"{id}@{commit}:{column}".encode()).hexdigest()
    return Collection(f"hub {id} at {commit}", content, images, {**_counts(images), "commit": commit})
