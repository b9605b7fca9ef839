"""Nothing that takes long is silent: a line says what is being done, once, and quick work says nothing."""

import time
from pathlib import Path

import numpy as np
import pytest

from tasks.base import Data
from tasks.data import clouds as clouds_module
from tasks.data import progress
from tasks.data.cache_folder import stored
from tasks.data.cloud_views import Sizes
from tasks.data.clouds import clouds
from tasks.data.text import Corpus
from tasks.data.tokens import tokenise


def test_slow_work_says_what_it_is_and_quick_work_nothing(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.1)
    with progress.announced("counting sheep"):
        pass
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    with progress.announced("counting sheep"):
        time.sleep(0.3)
        assert capsys.readouterr().err == "  counting sheep ...\n"
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_each_gives_the_items_and_no_bar_where_there_is_no_terminal(capsys) -> None:
    assert list(progress.each("abc", "letters", "letter", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_caches_that_take_long_say_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.05)
    slow = clouds_module.farthest_order

    def slower(points: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return slow(points)

    monkeypatch.setattr(clouds_module, "farthest_order", slower)
    sizes = Sizes(points=16, truth=24, views=1, solids=2, held_out_solids=1)
    clouds(Data(), sizes, tmp_path)
    assert capsys.readouterr().err == f"  preparing synthetic solids, kept in {tmp_path} ...\n"
    clouds(Data(), sizes, tmp_path)
    assert capsys.readouterr().err == ""

    def read(split: str) -> list[bytes]:
        time.sleep(0.1)
        return [b"some text"]

    tokenise(Corpus("a book", "0" * 64, read), 257, tmp_path)
    assert capsys.readouterr().err == f"  preparing tokens (a book), kept in {tmp_path} ...\n"
    stored(tmp_path / "it", lambda folder: time.sleep(0.1))
    assert "preparing data" in capsys.readouterr().err
