"""Colour images in three splits, each image in one split only, kept as pixels in the cache.

embedded   photographs that come with scikit-image, eight of them, split by image as listed below
local      a folder of *.jpg, *.jpeg and *.png files at any depth: either below train/ and test/, perhaps validation/,
           or all together, of which a tenth by the hash of its name is test. Where there is no validation/, a tenth of
           train is, chosen in the same way.
hub        a `datasets` id with one column of images and a split train; splits validation and test where it has them,
           else cut from train as above. Default FFHQ (Karras et al., CVPR 2019, arXiv 1812.04948) at 256 x 256 as
           `merkol/ffhq-256`.

What is kept: `whole`, the middle square of each image, resized to the size asked for (bicubic, antialiased, as SR3's
data are made); `tiles`, the image as it is, to be cut later. Pixels are RGB with 8 bits. Greyscale and palettes are
converted and the orientation that a camera noted is applied; transparency, CMYK and 16 bits are refused, because there
a conversion would guess.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from tasks.base import Data, Split
from tasks.data.hub import snapshot
from tasks.data.store import stored
from tasks.data.text import SPLITS

Crop = Literal["whole", "tiles"]
HUB_DEFAULT = "merkol/ffhq-256"
ENDINGS = (".jpg", ".jpeg", ".png")
HELD_OUT = 0.1
"""Share of the images for test and of the rest for validation, where the source does not say."""
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": ("astronaut.png", "camera.png", "ihc.png", "motorcycle_left.png", "retina.jpg"),
    "validation": ("rocket.jpg",),
    "test": ("chelsea.png", "coffee.png"),
}
CONVERTED = ("RGB", "L", "1", "P", "RGBA", "LA", "PA")
"""Modes of which RGB can be made without a guess; those with transparency only where nothing is transparent."""
VERSION = 1
"""Raised when the same images would be kept otherwise."""

Open = Callable[[], Image.Image]


@dataclass(frozen=True)
class Collection:
    """Images by their names, each with what opens it, before anything is decoded."""

    description: str
    content: str
    """SHA-256 of all files, or of the commit that fixes them."""
    images: Mapping[Split, Mapping[str, Open]]
    facts: dict[str, int | float | str] = field(default_factory=dict)


class Squares:
    """The images of a split, as kept in the cache, in squares of `size` that fit side by side into each image."""

    def __init__(self, folder: Path, split: Split, size: int) -> None:
        self.size = size
        self.places = np.load(folder / f"{split}.npy")  # (images, 3): offset, height, width
        self.flat = np.memmap(folder / f"{split}.bin", np.uint8, "r")
        self.ends = (self.places[:, 1:] // size).prod(1).cumsum()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def square(self, index: int) -> np.ndarray:
        """(size, size, 3) uint8. Those of an image follow each other, row by row."""
        image = int(np.searchsorted(self.ends, index, "right"))
        pixels = self._pixels(image)
        number = index - (int(self.ends[image - 1]) if image else 0)
        down, across = np.array(divmod(number, pixels.shape[1] // self.size)) * self.size
        return pixels[down : down + self.size, across : across + self.size]

    def anywhere(self, index: int, generator: np.random.Generator) -> np.ndarray:
        """As `square`, at another place of the same image, half of them mirrored."""
        pixels = self._pixels(int(np.searchsorted(self.ends, index, "right")))
        down, across = generator.integers(np.array(pixels.shape[:2]) - self.size + 1)
        found = pixels[down : down + self.size, across : across + self.size]
        return found[:, ::-1] if generator.random() < 0.5 else found

    def _pixels(self, image: int) -> np.ndarray:
        offset, height, width = self.places[image]
        return self.flat[offset : offset + height * width * 3].reshape(height, width, 3)


def collection(data: Data, column: str) -> Collection:
    """What `data` names; `column` holds the images of a hub data set."""
    if data.source == "embedded":
        return _embedded()
    if data.source == "local":
        return _local(data.path)
    if data.source == "hub":
        return _hub(data.id or HUB_DEFAULT, data.revision, column)
    raise ValueError(f"data.source={data.source!r}: use embedded, local or hub")


def squares(found: Collection, size: int, crop: Crop, cache: Path) -> dict[Split, Squares]:
    """The images of each split, decoded once."""
    check_crop(crop)
    name = f"{VERSION}:{found.content}:{crop}:{size}"

    def build(folder: Path) -> None:
        for split in SPLITS:
            places, offset = [], 0
            with (folder / f"{split}.bin").open("wb") as file:
                for name, open_image in found.images[split].items():
                    image = _decoded(name, open_image, size, crop)
                    places.append((offset, *image.shape[:2]))
                    offset += file.write(image.tobytes())
            np.save(folder / f"{split}.npy", np.array(places, np.int64).reshape(-1, 3))

    folder = stored(cache / "images" / hashlib.sha256(name.encode()).hexdigest()[:16], build)
    return {split: Squares(folder, split, size) for split in SPLITS}


def check_crop(crop: str) -> None:
    """Raises ValueError where `crop` is neither."""
    if crop not in get_args(Crop):
        raise ValueError(f"crop={crop!r}: use whole or tiles")


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) to (size, size, 3), bicubic; antialiased where it gets smaller."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def _decoded(name: str, open_image: Open, size: int, crop: Crop) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with open_image() as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damage
        reason = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(f" '{name}'")
        raise ValueError(f"{name}: not readable as an image ({reason}): mend it, or take it away") from None
    if image.mode not in CONVERTED:
        raise ValueError(f"{name}: its colours are {image.mode}: save it as RGB with 8 bits, or take it away")
    if image.has_transparency_data:
        least = image.convert("RGBA").getchannel("A").getextrema()[0]
        if not isinstance(least, int | float) or least < 255:
            raise ValueError(f"{name}: parts of it are transparent: save it as RGB with 8 bits, or take it away")
    side = min(image.size)
    if side < size:
        width, height = image.size
        raise ValueError(
            f"{name}: {width} x {height} pixels, {size} x {size} are needed: take it away, or use a smaller length"
        )
    image = image.convert("RGB")
    if crop == "tiles":
        return np.asarray(image)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resized(np.asarray(image.crop((left, top, left + side, top + side))), size)


def _embedded() -> Collection:
    package = find_spec("skimage")
    root = Path(package.origin).parent / "data" if package and package.origin else Path()
    found: dict[Split, dict[str, Path]] = {}
    for split, names in PHOTOGRAPHS.items():
        found[split] = {name: root / name for name in names}
        for name, path in found[split].items():
            if not path.is_file():
                raise ValueError(f"data.source=embedded: scikit-image has no {name} here: install it as in pyproject")
    return _files("photographs in scikit-image", found)


def _local(path: str | None) -> Collection:
    what = "a folder of jpg or png images, with train/ and test/ in it or without"
    if not path:
        raise ValueError(f"data.source=local needs data.path: {what}")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.path={path}: no such folder: give {what}")
    present = [split for split in SPLITS if (root / split).is_dir()]
    if present and not {"train", "test"} <= set(present):
        missing = "test" if "train" in present else "train"
        raise ValueError(f"data.path={path}: no folder {missing}/ beside {present[0]}/: give {what}")
    found: dict[Split, dict[str, Path]] = {split: _images(root / split, f"data.path={path}") for split in present}
    if not present:
        found = held_out(_images(root, f"data.path={path}"), "test", f"data.path={path}")
    if "validation" not in found:
        found |= held_out(found["train"], "validation", f"data.path={path}")
    return _files("local images", found, f"data.path={path}: ")


def _images(folder: Path, where: str) -> dict[str, Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    if not files:
        raise ValueError(f"{where}: no jpg or png image in {folder}: put some there")
    return {file.relative_to(folder).as_posix(): file for file in files}


def held_out(images: Mapping[str, Any], split: Split, where: str) -> dict[Split, dict[str, Any]]:
    """A tenth of the images, at least one, chosen by the hash of their names, and the rest as train."""
    if len(images) < 2:
        raise ValueError(f"{where}: {len(images)} image to train on: none can be spared for {split}: give more images")
    ordered = sorted(images, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = set(ordered[: max(1, round(HELD_OUT * len(images)))])
    kept = {name: image for name, image in images.items() if name not in chosen}
    return {split: {name: image for name, image in images.items() if name in chosen}, "train": kept}


def _files(description: str, found: Mapping[Split, Mapping[str, Path]], where: str = "") -> Collection:
    """Files of any size: they are read one by one. The same image must not be in two splits."""
    digest, seen = hashlib.sha256(), dict[bytes, tuple[Split, str]]()
    for split in SPLITS:
        for name, path in found[split].items():
            own = hashlib.sha256(path.read_bytes()).digest()
            other, twin = seen.setdefault(own, (split, name))
            if other != split:
                raise ValueError(f"{where}{name} in {split} is the same as {twin} in {other}: keep it in one only")
            digest.update(f"{split}/{name}\0".encode() + own)
    opened = {split: {str(path): _opener(path) for path in found[split].values()} for split in SPLITS}
    return Collection(description, digest.hexdigest(), opened, _counts(opened))


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
    for split in SPLITS[:0:-1]:
        if split not in rows:
            rows |= held_out(rows["train"], split, f"data.id={id}")

    def opener(place: tuple[str, int]) -> Open:
        def open_row() -> Image.Image:
            value = tables[place[0]][place[1]][column]
            return Image.open(io.BytesIO(value["bytes"]) if value["bytes"] else value["path"])

        return open_row

    images: dict[Split, dict[str, Open]] = {
        split: {f"{id} {name} of {place[0]}": opener(place) for name, place in rows[split].items()} for split in SPLITS
    }
    content = hashlib.sha256(f"{id}@{commit}:{column}".encode()).hexdigest()
    return Collection(f"hub {id} at {commit}", content, images, {**_counts(images), "commit": commit})
