"""Colour images (`tasks.data.image_sources`) as pixels in the cache, and squares of them.

The cache holds, with `whole`, the middle square of each image, resized (bicubic, antialiased, as in SR3's data); with
`tiles` the complete image, which is cut later. Pixels are RGB with 8 bits. Greyscale and palettes are converted and the
EXIF orientation is applied; transparency, CMYK and 16 bits are errors, because their conversion is ambiguous.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from tasks.base import SPLITS, Split
from tasks.data.cache_folder import stored
from tasks.data.image_sources import Collection, Open
from tasks.data.progress import bar

Crop = Literal["whole", "tiles"]
CONVERTED = ("RGB", "L", "1", "P", "RGBA", "LA", "PA")
"""Modes that can be converted to RGB; those with transparency only if no pixel is transparent."""
VERSION = 1
"""Increased when the same images would give other pixels."""
AT_ONCE = 64
"""Images that are decoded together, to bound the memory."""

Named = tuple[str, Open]
Made = TypeVar("Made")


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
        """(size, size, 3) uint8. The squares of an image are consecutive, row by row."""
        image = int(np.searchsorted(self.ends, index, "right"))
        pixels = self.pixels(image)
        number = index - (int(self.ends[image - 1]) if image else 0)
        down, across = np.array(divmod(number, pixels.shape[1] // self.size)) * self.size
        return pixels[down : down + self.size, across : across + self.size]

    def anywhere(self, index: int, generator: np.random.Generator) -> np.ndarray:
        """A square at a random position of the same image, mirrored with probability 1/2."""
        pixels = self.pixels(int(np.searchsorted(self.ends, index, "right")))
        down, across = generator.integers(np.array(pixels.shape[:2]) - self.size + 1)
        found = pixels[down : down + self.size, across : across + self.size]
        return found[:, ::-1] if generator.random() < 0.5 else found

    def pixels(self, image: int) -> np.ndarray:
        """(H, W, 3) uint8 of a whole image."""
        offset, height, width = self.places[image]
        return self.flat[offset : offset + height * width * 3].reshape(height, width, 3)


def squares(found: Collection, size: int, crop: Crop, cache: Path) -> dict[Split, Squares]:
    """The images of each split, decoded once; sizes and colours of all are checked before."""
    name = f"{VERSION}:{found.content}:{crop}:{size}"

    def build(folder: Path) -> None:
        named = [item for split in SPLITS for item in found.images[split].items()]
        for _ in _each("checking images", partial(_check_header, size), named):
            pass
        decoded = _each("decoding images", partial(_decoded, size, crop), named)
        for split in SPLITS:
            places, offset = [], 0
            with (folder / f"{split}.bin").open("wb") as file:
                for _ in found.images[split]:
                    image = next(decoded)
                    places.append((offset, *image.shape[:2]))
                    offset += file.write(image.tobytes())
            np.save(folder / f"{split}.npy", np.array(places, np.int64).reshape(-1, 3))

    folder = stored(cache / "images" / hashlib.sha256(name.encode()).hexdigest()[:16], build, "images")
    return {split: Squares(folder, split, size) for split in SPLITS}


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) to (size, size, 3), bicubic; antialiased where it gets smaller."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def _each(what: str, make: Callable[[Named], Made], named: Sequence[Named]) -> Iterator[Made]:
    """`make` of each image, in order, by as many threads as torch has, with a progress bar."""
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        bar(what, "image", len(named)) as shown,
    ):
        for start in range(0, len(named), AT_ONCE):
            for made in pool.map(make, named[start : start + AT_ONCE]):
                yield made
                shown.update()


def _check_header(size: int, named: Named) -> None:
    """Raises ValueError if the size or the colours of an image do not fit."""
    name, open_image = named
    with _opened(name, open_image) as image:
        width, height = image.size
        colours = image.mode
        if any(";16" in str(tile.args) for tile in image.tile):  # Pillow would drop half of the bits and report RGB
            colours += " with 16 bits"
    if colours not in CONVERTED:
        raise ValueError(f"{name}: its colours are {colours}: save it as RGB with 8 bits, or remove it")
    if min(width, height) < size:
        raise ValueError(
            f"{name}: {width} x {height} pixels, {size} x {size} are needed: remove it, or use a smaller length"
        )


def _decoded(size: int, crop: Crop, named: Named) -> np.ndarray:
    """(H, W, 3) uint8."""
    name, open_image = named
    with _opened(name, open_image) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
    if image.has_transparency_data:
        least = image.convert("RGBA").getchannel("A").getextrema()[0]
        if not isinstance(least, int | float) or least < 255:
            raise ValueError(f"{name}: parts of it are transparent: save it as RGB with 8 bits, or remove it")
    image = image.convert("RGB")
    if crop == "tiles":
        return np.asarray(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resized(np.asarray(image.crop((left, top, left + side, top + side))), size)


@contextmanager
def _opened(name: str, open_image: Open) -> Iterator[ImageFile.ImageFile]:
    """Turns errors of Pillow into ValueError."""
    try:
        with open_image() as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(f" '{name}'")
        raise ValueError(f"{name}: not readable as an image ({reason}): repair it, or remove it") from None
