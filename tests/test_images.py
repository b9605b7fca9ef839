"""Images: splits by image, what is converted and what refused, squares of them, the cache."""

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.base import SPLITS, Data
from tasks.data import image_sources, images
from tasks.data.image_sources import PHOTOGRAPHS, Collection, collection, held_out
from tasks.data.images import Squares, resized, squares

SIZE = 16


def picture(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def folder(root: Path, train: int = 6, test: int = 2) -> Path:
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            save(root / split / f"{i}.png", picture(1000 * (split == "test") + i))
    return root


def local(root: Path, cache: str = "cache") -> Collection:
    return collection(Data("local", str(root)), "image", root / cache)


def kept(root: Path, crop: images.Crop = "tiles", size: int = SIZE) -> dict[str, Squares]:
    return squares(local(root), size, crop, root / "cache")  # type: ignore[return-value]


def one(tmp_path: Path, path: Path, crop: images.Crop = "tiles") -> np.ndarray:
    """The pixels that are kept of a file, which stands alone in test."""
    for i in range(3):
        save(tmp_path / "train" / f"{i}.png", picture(i))
    found = kept(tmp_path, crop)["test"]
    assert path.parent.name == "test"
    assert len(found.places) == 1
    return np.array(found.pixels(0))


# Where images come from, and who is in which split


def test_embedded_photographs_are_there_and_split_by_image(tmp_path: Path) -> None:
    found = collection(Data(), "image", tmp_path)
    names = [name for split in SPLITS for name in PHOTOGRAPHS[split]]
    assert len(set(names)) == len(names) == 8
    assert {split: len(found.images[split]) for split in SPLITS} == {"train": 5, "validation": 1, "test": 2}
    own = squares(found, 32, "tiles", tmp_path)
    assert len(own["test"]) == (300 // 32) * (451 // 32) + (400 // 32) * (600 // 32)
    assert all(own[split].square(0).std() > 0 for split in SPLITS)


def test_folders_train_and_test_leave_a_tenth_for_validation(tmp_path: Path) -> None:
    found = local(folder(tmp_path, train=20, test=2))
    assert found.facts == {"train_images": 18, "validation_images": 2, "test_images": 2}
    assert not set(found.images["train"]) & set(found.images["validation"])
    for split in SPLITS:
        assert {Path(name).parent.name for name in found.images[split]} == {"test" if split == "test" else "train"}


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_folder_of_validation_is_used_by_either_name(tmp_path: Path, name: str) -> None:
    folder(tmp_path, train=20)
    save(tmp_path / name / "deep" / "x.JPG", picture(5000), quality=95)
    found = local(tmp_path)
    assert found.facts == {"train_images": 20, "validation_images": 1, "test_images": 2}
    assert [Path(name).name for name in found.images["validation"]] == ["x.JPG"]


def test_one_folder_is_split_by_the_hash_of_files(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"sub{i % 3}" / f"{i}.png", picture(i)) for i in range(29)]
    paths.append(save(tmp_path / "twin.png", picture(min(range(29), key=lambda i: digest(paths[i])))))
    found = local(tmp_path)
    assert found.facts == {"train_images": 23, "validation_images": 3, "test_images": 4}
    ordered = sorted(paths, key=digest)  # twins come first
    assert set(found.images["test"]) == set(map(str, ordered[:4]))
    assert set(found.images["validation"]) == set(map(str, ordered[4:7]))
    paths[-1].rename(tmp_path / "renamed.png")
    assert {split: len(own) for split, own in local(tmp_path).images.items()} == {
        split: len(own) for split, own in found.images.items()
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_images_behind_links_are_found(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", train=8)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "faces").symlink_to(tmp_path / "elsewhere" / "train")
    (tmp_path / "data" / "test").symlink_to(tmp_path / "elsewhere" / "test")
    assert local(tmp_path / "data").facts == {"train_images": 7, "validation_images": 1, "test_images": 2}


def test_a_folder_that_is_linked_to_itself_counts_once(tmp_path: Path, capsys) -> None:
    before = local(folder(tmp_path, train=12))
    (tmp_path / "train" / "loop").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "copy.png").symlink_to(tmp_path / "train" / "0.png")
    (tmp_path / "train" / "picture.webp").touch()
    found = local(tmp_path)
    assert (found.facts, found.content) == (before.facts, before.content)
    assert "only jpg and png are read; 1 left out: picture.webp" in capsys.readouterr().err


def test_held_out_takes_at_least_one() -> None:
    hashes = {"a": "1", "b": "0", "c": "1"}
    assert held_out({"a": 1, "b": 2, "c": 3}, hashes, "test") == {"test": {"b": 2}, "train": {"a": 1, "c": 3}}
    with pytest.raises(ValueError, match="1 image to train on: none can be spared for test: give more images"):
        held_out({"a": 1, "c": 3}, hashes, "test")


def test_the_content_hash_follows_pixels_names_and_splits(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    before = local(root).content
    assert local(folder(tmp_path / "b")).content == before
    save(root / "test" / "0.png", picture(77))
    changed = local(root, "other").content
    assert changed != before
    (root / "train" / "0.png").rename(root / "train" / "00.png")
    assert local(root).content not in (before, changed)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a hub data set with so many rows in each split."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def make(**rows: int) -> None:
        data = tmp_path / "c0ffee" / "data"
        data.mkdir(parents=True)
        for number, (split, count) in enumerate(rows.items()):
            own = [save(tmp_path / "files" / f"{split}{i}.png", picture(100 * number + i)) for i in range(count)]
            column = [{"bytes": path.read_bytes(), "path": None} for path in own]
            table = datasets.Dataset.from_dict({"image": column, "label": list(range(count))})
            table.cast_column("image", datasets.Image()).to_parquet(data / f"{split}-00000-of-00001.parquet")
        monkeypatch.setattr(image_sources, "snapshot", lambda id, revision: (tmp_path / "c0ffee", "c0ffee"))

    return make


def test_hub_images_are_cut_into_splits(tmp_path: Path, hub) -> None:
    hub(train=20)
    found = collection(Data("hub"), "image", tmp_path)
    assert found.facts == {"train_images": 16, "validation_images": 2, "test_images": 2, "commit": "c0ffee"}
    assert "merkol/ffhq-256 at c0ffee" in found.description
    own = squares(found, SIZE, "tiles", tmp_path)
    seen = [own[split].pixels(i).tobytes() for split in SPLITS for i in range(len(own[split].places))]
    assert sorted(seen) == sorted(picture(i).tobytes() for i in range(20))


def test_hub_splits_stay_what_they_are(tmp_path: Path, hub) -> None:
    hub(train=20, test=3)
    facts = collection(Data("hub", id="some/faces"), "image", tmp_path).facts
    assert (facts["train_images"], facts["validation_images"], facts["test_images"]) == (18, 2, 3)


def test_hub_without_train(tmp_path: Path, hub) -> None:
    hub(test=2)
    with pytest.raises(ValueError, match=r"data.id=a/b: no split train \(it has test\)"):
        collection(Data("hub", id="a/b"), "image", tmp_path)


def test_hub_without_the_column(tmp_path: Path, hub) -> None:
    hub(train=2)
    with pytest.raises(ValueError, match=r"no column 'photo' \(it has image, label\): set task.image_column to one of"):
        collection(Data("hub"), "photo", tmp_path)


# What is converted, and what is refused


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_what_has_one_reading_is_converted(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "test" / "x.png", picture(9), mode)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(one(tmp_path, path), expected)


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    path = save(tmp_path / "test" / "x.png", picture(9), exif=exif)
    np.testing.assert_array_equal(one(tmp_path, path), np.rot90(picture(9), -1))


def transparent(path: Path) -> None:
    save(path, np.dstack([picture(9), np.r_[[0], np.full(479, 255)].reshape(20, 24).astype(np.uint8)]))


def sixteen_bits(path: Path, colour: int = 2) -> None:
    """A PNG as its standard has it; Pillow reads such files, but does not write them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    values = np.random.default_rng(0).integers(0, 2**16, (20, 24 * (3 if colour == 2 else 4))).astype(">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    head = struct.pack(">IIBBBBB", 24, 20, 16, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def truncated(path: Path) -> None:
    save(path, picture(9))
    path.write_bytes(path.read_bytes()[:-400])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.png", lambda path: save(path, picture(9, 15, 40)), "40 x 15 pixels, 16 x 16 are needed: remove it, or"),
        ("x.png", transparent, "parts of it are transparent: save it as RGB"),
        ("x.jpg", lambda path: save(path, picture(9), "CMYK"), "its colours are CMYK: save it as RGB with 8 bits, or"),
        (
            "x.png",
            lambda path: save(path, np.ones((20, 24), np.uint16)),
            "its colours are I;16 with 16 bits: save it as",
        ),
        ("x.png", sixteen_bits, "its colours are RGB with 16 bits: save it as RGB with 8 bits, or remove it"),
        ("x.png", lambda path: sixteen_bits(path, 6), "its colours are RGBA with 16 bits: save it as RGB with 8 bits"),
        ("x.png", lambda path: path.write_text("no image"), r"not readable as an image \(cannot identify image file\)"),
        ("x.png", truncated, r"not readable as an image \(.*\): repair it, or remove it"),
        ("x.jpg", truncated, r"not readable as an image \((?i:.*truncated.*)\): repair it, or remove it"),
        ("x.jpg", lambda path: path.write_bytes(b""), "not readable as an image"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, write, message: str) -> None:
    path = tmp_path / "test" / name
    path.parent.mkdir()
    write(path)
    with pytest.raises(ValueError, match=message) as error:
        one(tmp_path, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache" / "images").glob("*.making-*"))


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    for data, message in (
        (Data("local"), "data.source=local needs data.path: a folder of jpg or png images"),
        (Data("local", str(tmp_path / "no")), "no: no such folder: give a folder of jpg or png"),
        (Data("local", str(tmp_path)), "no jpg or png image in"),
    ):
        with pytest.raises(ValueError, match=message):
            collection(data, "image", tmp_path / "cache")
    save(tmp_path / "train" / "0.png", picture(0))
    with pytest.raises(ValueError, match="no folder test/ beside train/"):
        local(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"no jpg or png image in .*test: put some there"):
        local(tmp_path)
    save(tmp_path / "test" / "0.png", picture(1))
    with pytest.raises(ValueError, match="1 image to train on: none can be spared for validation: give more images"):
        local(tmp_path)
    for i in range(1, 4):
        save(tmp_path / "train" / f"{i}.png", picture(1 + i))
    for name in ("valid/a.png", "a.png"):
        stray = save(tmp_path / name, picture(8))
        with pytest.raises(ValueError, match=rf"{name.split('/')[0]} is in none of train/, test/: move it, or"):
            local(tmp_path)
        stray.unlink()
    save(tmp_path / "val" / "0.png", picture(9))
    (tmp_path / "validation").mkdir()
    with pytest.raises(ValueError, match="both val/ and validation/: keep one of them"):
        local(tmp_path)
    (tmp_path / "file.png").touch()
    with pytest.raises(ValueError, match=r"file.png: no such folder"):
        local(tmp_path / "file.png")


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "test" / "again.png", picture(3))
    with pytest.raises(ValueError, match=r"again.png in test is the same as 3.png in (train|validation): keep it in"):
        local(tmp_path)


# Squares


def places(height: int, width: int) -> np.ndarray:
    """An image whose pixels say where they are."""
    down, across = np.indices((height, width))
    return np.stack([down, across, 0 * down], 2).astype(np.uint8)


def test_squares_lie_side_by_side(tmp_path: Path) -> None:
    folder(tmp_path, test=0)
    for name, (height, width) in {"a": (16, 16), "b": (37, 50), "c": (48, 20)}.items():
        save(tmp_path / "test" / f"{name}.png", places(height, width) + np.array([0, 0, ord(name) - 97], np.uint8))
    found = kept(tmp_path)["test"]
    corners = [(int(s[0, 0, 2]), int(s[0, 0, 0]), int(s[0, 0, 1])) for s in map(found.square, range(len(found)))]
    b = [(1, down, across) for down in (0, 16) for across in (0, 16, 32)]
    assert corners == [(0, 0, 0), *b, (2, 0, 0), (2, 16, 0), (2, 32, 0)]
    for i in range(len(found)):
        square = found.square(i).astype(int)
        assert square.shape == (16, 16, 3)
        assert (square - square[0, 0] == places(16, 16)).all()


def test_training_squares_are_anywhere_in_the_same_image(tmp_path: Path) -> None:
    folder(tmp_path, test=0)
    save(tmp_path / "test" / "a.png", places(16, 16) + np.uint8([0, 0, 1]))
    save(tmp_path / "test" / "b.png", places(19, 18))
    found = kept(tmp_path)["test"]
    drawn = [found.anywhere(1, np.random.default_rng(i)).astype(int) for i in range(300)]
    assert {int(d[0, 0, 2]) for d in drawn} == {0}
    assert {(int(d[:, :, 0].min()), int(d[:, :, 1].min())) for d in drawn} == {
        (i, j) for i in range(4) for j in range(3)
    }
    mirrored = sum(d[0, 0, 1] > d[0, 1, 1] for d in drawn)
    assert 100 < mirrored < 200
    np.testing.assert_array_equal(found.anywhere(1, np.random.default_rng(5)), drawn[5])


def test_whole_images_are_their_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "test" / "x.png", picture(9, 64, 40))
    expected = Image.fromarray(picture(9, 64, 40)[12:52]).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(one(tmp_path, path, "whole"), np.asarray(expected))


def test_making_smaller_is_antialiased() -> None:
    """A fine chessboard becomes grey; without a filter it would stay black and white."""
    board = np.repeat((np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None], 3, 2)
    assert np.abs(resized(board, 8).astype(int) - 127).max() < 12


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "data")
    first = kept(root)

    def fail(*_):
        pytest.fail("read again")

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", fail)
        patch.setattr(Image, "open", fail)
        again = kept(root)
        for split in SPLITS:
            np.testing.assert_array_equal(again[split].flat, first[split].flat)
        for other in ({"size": 18}, {"crop": "whole"}):
            with pytest.raises(pytest.fail.Exception):
                kept(root, **other)
    save(root / "test" / "0.png", picture(99))
    assert not np.array_equal(kept(root)["test"].flat, first["test"].flat)


def test_all_headers_are_read_before_any_image_is_decoded(tmp_path: Path) -> None:
    """An image that cannot be decoded comes first; the message is about the size of a later one."""
    root = folder(tmp_path / "data")
    first = min((root / "train").iterdir())
    first.write_bytes(first.read_bytes()[:-60])
    with pytest.raises(ValueError, match=first.name):
        kept(root)
    save(root / "test" / "z.png", picture(9, 15, 40))
    with pytest.raises(ValueError, match="40 x 15 pixels, 16 x 16 are needed"):
        kept(root)


def test_threads_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more images than are decoded ahead; the first ones take longest."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    save(tmp_path / "train" / "0.png", picture(0))
    for i in range(images.AT_ONCE + 6):
        save(tmp_path / "test" / f"{i:02}.png", picture(1000 + i, *((600, 600) if i in (0, 64) else (20, 24))))
    save(tmp_path / "train" / "1.png", picture(1))
    found = kept(tmp_path)["test"]
    for i, path in enumerate(sorted((tmp_path / "test").iterdir())):
        with Image.open(path) as image:
            np.testing.assert_array_equal(found.pixels(i), np.asarray(image))


def test_nothing_of_test_reaches_train(tmp_path: Path) -> None:
    """All of test may change, and what is kept of the others stays."""
    before = kept(folder(tmp_path / "a"))
    changed = folder(tmp_path / "b")
    for path in (changed / "test").iterdir():
        save(path, picture(5000 + int(path.stem)))
    after = kept(changed)
    for split in SPLITS:
        same = before[split].flat.tobytes() == after[split].flat.tobytes()
        assert same == (split != "test")
