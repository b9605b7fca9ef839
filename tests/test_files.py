"""Folders of files: every real file once, whatever links there are, and what is not read is named."""

import codecs
import os
from pathlib import Path

import pytest

from tasks.base import Data
from tasks.data.cloud_views import Sizes
from tasks.data.clouds import clouds
from tasks.data.files import files_below, given_path, name_left_out, read_text
from tasks.data.image_sources import collection
from tasks.data.series import series
from tasks.data.speech import speech
from tasks.data.summaries import Columns, summaries
from tasks.data.text import corpus

ENDINGS = (".txt", ".md")


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(root: Path) -> list[str]:
    return list(files_below(root, ENDINGS).files)


def test_all_depths_and_cases_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "A.TXT", "more/x.Md", "more/deep/y.txt", "z.pdf", "more/q.rst", ".hidden", "more/.txt")
    found = files_below(tmp_path, ENDINGS)
    assert list(found.files) == sorted(["b.txt", "A.TXT", "more/x.Md", "more/deep/y.txt", "more/.txt"])
    assert {name: path.read_text() for name, path in found.files.items()} == {name: name for name in found.files}
    assert found.others == ["more/q.rst", "z.pdf"]


def test_links_into_the_folder_itself_add_nothing(tmp_path: Path) -> None:
    root = make(tmp_path / "root", *(f"{i}.txt" for i in range(12)), "z/12.txt")
    plain = names(root)
    (root / "loop").symlink_to(root)
    (root / "a").symlink_to(root / "z")
    (root / "z" / "up").symlink_to("..")
    (root / "z" / "same").symlink_to("../z")
    (root / "0again.txt").symlink_to(root / "z" / "12.txt")
    assert names(root) == plain
    (tmp_path / "elsewhere").symlink_to(root)
    assert names(tmp_path / "elsewhere") == plain


def test_links_to_other_places_are_followed_once(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", "o.txt", "deep/p.txt")
    root = make(tmp_path / "root", "own.txt")
    (root / "one").symlink_to(outside)
    (root / "two").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "alone.txt").symlink_to(outside / "o.txt")
    assert names(root) == ["one/deep/p.txt", "one/o.txt", "own.txt"]


def test_folders_that_are_links_to_each_other_end(tmp_path: Path) -> None:
    """A walk that follows every link would visit 3^40 paths."""
    root = make(tmp_path / "root", "a/a.txt", "b/b.txt", "c/c.txt")
    for one in "abc":
        for other in "abc":
            (root / one / f"to_{other}").symlink_to(root / other)
    assert names(root) == ["a/a.txt", "b/b.txt", "c/c.txt"]


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda path: path.symlink_to(path), r"s.txt: not readable \(Too many levels of symbolic links\): repair it"),
        (lambda path: path.symlink_to("nowhere"), r"s.txt: not readable \(No such file or directory\): repair it"),
        (os.mkfifo, "s.txt: is no regular file: remove it"),
    ],
)
def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path, make_it, message: str) -> None:
    make_it(make(tmp_path, "a.txt") / "s.txt")
    with pytest.raises(ValueError, match=message):
        files_below(tmp_path, ENDINGS)


def test_a_broken_link_of_another_ending_harms_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (tmp_path / "latest").symlink_to("latest")
    (tmp_path / "gone.pdf").symlink_to("nowhere")
    assert names(tmp_path) == ["a.txt"]


SOURCES = {
    "text": lambda data, cache: corpus(data, "text"),
    "summaries": lambda data, cache: summaries(data, Columns()),
    "series": lambda data, cache: series(data),
    "images": lambda data, cache: collection(data, "image", cache),
    "clouds": lambda data, cache: clouds(data, Sizes(16, 24, 1, 1, 1), cache),
    "speech": speech,
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_path_that_is_none_is_one_line(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("~no_such_user/x", *(str(tmp_path / name) for name in ("missing", "empty", "file", "fifo", "loop"))):
        with pytest.raises(ValueError, match=r"data\.path=") as error:
            SOURCES[source](Data("local", path), tmp_path / "cache")
        assert "\n" not in str(error.value)
        assert path in str(error.value)


def test_home_and_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/x") == tmp_path / "x"
    (tmp_path / "x").write_bytes(codecs.BOM_UTF8 + "é".encode())
    assert read_text(tmp_path / "x") == "é"
    (tmp_path / "x").write_bytes(b"ab\xe9")
    with pytest.raises(ValueError, match=r"x: not UTF-8 \(byte 2\): convert it"):
        read_text(tmp_path / "x")
    with pytest.raises(ValueError, match="is no regular file: remove it"):
        read_text(tmp_path)


def test_what_is_left_out_is_said_in_one_line(capsys) -> None:
    name_left_out("data.path=x", [], "*.txt is read")
    assert capsys.readouterr().err == ""
    name_left_out("data.path=x", ["a", "b", "c", "d"], "*.txt is read")
    assert capsys.readouterr().err == "  data.path=x: only *.txt is read; 4 left out: a, b, c, ...\n"
