"""cab.show: pictures, sound and texts from the tables of a record, and one line where there are none."""

import wave
from pathlib import Path

import numpy as np
import pytest
from helpers import synthetic
from PIL import Image

from cab import show
from cab.store.record import Record
from tasks.data.mel import BANDS, HOP, RATE
from tasks.data.packed_samples import (
    LOWEST,
    STEP,
    pack_cloud,
    pack_image,
    pack_mel,
    unpack_cloud,
    unpack_image,
    unpack_mel,
)

CELL = {"attention": "vanilla", "pattern": "noncausal_self", "task": "any", "size": "smoke", "seed": 0}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def record(folder: Path, tables: dict) -> Path:
    result = synthetic.quality().result | {"tables": tables}
    return Record("quality", "ok", CELL, {"tables": sorted(tables)}, result=result).write(folder)


def test_clouds(tmp_path, rng):
    rows = [
        {"shape": f"solid {n}", "cd_l1": n, **{name: pack_cloud(rng.random((50, 3))) for name in COLUMNS}}
        for n in range(2)
    ]
    assert show.main([str(record(tmp_path, {"clouds": rows})), str(tmp_path / "new" / "folder")]) == 0
    with Image.open(tmp_path / "new" / "folder" / "clouds.png") as picture:
        assert picture.width > picture.height > 400
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_what_a_model_added_has_colour(tmp_path, rng):
    """What is given is grey, also where the completed cloud repeats it."""
    given, added = rng.random((50, 3)), rng.random((50, 3))
    row = {"shape": "solid", "cd_l1": 1.0, "partial": pack_cloud(given), "complete": pack_cloud(added)}
    coloured = []
    for completed in (given, np.concatenate([added, given])):
        path = record(tmp_path, {"clouds": [row | {"completed": pack_cloud(completed)}]})
        assert show.main([str(path), str(tmp_path)]) == 0
        with Image.open(tmp_path / "clouds.png") as image:
            parts = np.array_split(np.asarray(image.convert("RGB"), int), 3, axis=1)
        coloured.append([int((np.ptp(part, axis=2) > 40).sum() > 100) for part in parts])
    assert coloured == [[0, 0, 1], [0, 1, 1]]


COLUMNS = ("partial", "completed", "complete")


def test_images(tmp_path, rng):
    strips = rng.integers(0, 256, (3, 16, 64, 3), np.uint8)
    rows = [{"example": n, "small_bicubic_generated_true": pack_image(strip)} for n, strip in enumerate(strips)]
    assert show.main([str(record(tmp_path, {"images": rows, "other": [{"a": 1}]})), str(tmp_path)]) == 0
    with Image.open(tmp_path / "images.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (3 * (3 * 16 + 2 * 4), 3 * 64, 3)
    assert (pixels[::3, ::3][:16] == strips[0]).all()
    assert (pixels[::3, ::3][16:20] == 255).all()
    assert (pixels[::3, ::3][40:] == strips[2]).all()


def test_speech(tmp_path, rng, capsys):
    mels = {kind: rng.uniform(-8, 0, (frames, BANDS)) for kind, frames in (("generated", 30), ("real", 20))}
    row = {"split": "test", "clip": "A-1", "text": "words " * 40, "mcd": 1.5, "msd": 2.5}
    row |= {kind: pack_mel(mel) for kind, mel in mels.items()}
    assert show.main([str(record(tmp_path, {"spectrograms": [row]})), str(tmp_path / "sound")]) == 0
    names = sorted(path.name for path in (tmp_path / "sound").iterdir())
    assert names == ["test-A-1-generated.wav", "test-A-1-real.wav", "test-A-1.png"]
    with wave.open(str(tmp_path / "sound" / "test-A-1-real.wav")) as file:
        assert (file.getnframes(), file.getframerate()) == (19 * HOP, RATE)
    with Image.open(tmp_path / "sound" / "test-A-1.png") as picture:
        assert picture.mode == "P"  # small, for all its noise
        assert picture.width > picture.height > 200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert "MCD 1.50 dB, MSD 2.50 dB" in capsys.readouterr().out


def test_texts(tmp_path, capsys):
    rows = [{"document": "a\nb", "reference": "c", "generated": "d"}]
    assert show.main([str(record(tmp_path, {"texts": rows})), str(tmp_path)]) == 0
    origin, _, shown = capsys.readouterr().out.partition("document:\n")
    assert shown == "    a\n    b\nreference:\n    c\ngenerated:\n    d\n\n"
    assert origin.startswith("record:    `")


def test_what_cannot_be_shown_is_one_line(tmp_path, capsys):
    path = record(tmp_path, {"loss_by_context": [{"context": 1}]})
    assert show.main([str(path), str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert "no examples in the tables of this quality record (ok): give that of a finished cell of" in (
        error := capsys.readouterr().err
    )
    assert error.count("\n") == 1
    path.write_text("{}")
    assert show.main([str(path), str(tmp_path)]) == 2
    assert "not a record" in capsys.readouterr().err
    assert show.main([str(tmp_path / "missing.json"), str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'missing.json'}: no such file\n"


def test_what_is_packed_comes_back(rng):
    points = rng.uniform(-0.6, 0.6, (5000, 3))
    back = unpack_cloud(pack_cloud(points))
    assert len(back) == 1024
    assert np.abs(back - points[np.linspace(0, 4999, 1024).round().astype(int)]).max() <= 0.5 / 200 + 1e-9
    mel = rng.uniform(LOWEST, 3, (37, BANDS))
    assert np.abs(unpack_mel(pack_mel(mel)) - mel).max() <= 0.5 * STEP + 1e-6
    image = rng.integers(0, 256, (7, 9, 3), np.uint8)
    assert (unpack_image(pack_image(image)) == image).all()
