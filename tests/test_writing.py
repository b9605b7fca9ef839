"""A full disk or a read-only folder: one clear line, nothing is damaged, and the same command resumes."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_run import cab, records  # noqa: F401

from cab.store import lock

CELL = "attention=none", "measure=false", "task.contexts=[1]", "train.checkpoint_seconds=0"
ADVICE = "free some space, or choose another folder with results=; the same command resumes where this one ended\n"


def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    folder.mkdir()
    try:
        subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MB."""
    yield from mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs")


@pytest.fixture
def readonly(tmp_path):
    """Shows `cab.results`, and lets nobody write there."""
    for folder in mounted(tmp_path / "readonly", "--bind", str(tmp_path)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder


def left_over(results: Path) -> list[str]:
    return sorted(path.name for path in results.glob("runs/quality/*/*"))


@pytest.mark.parametrize("room", [4, 40])  # kB: nothing fits, or less than a checkpoint
def test_a_full_disk(cab, disk, room):  # noqa: F811
    cab(*CELL)
    shutil.copytree(cab.results / "cache", disk / "cache")  # which is written first (see test_cache_folder)
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - (room << 10)))
    for flags in ((), ("-m",)):
        code, _, err = cab(*flags, *CELL, f"results={disk}")
        assert code == 2
        assert err.startswith(f"error: {disk}/runs/")
        assert err.endswith(f": No space left on device: {ADVICE}")
        assert err.count("\n") == 1
    assert left_over(disk) == ["lock"]
    (disk / "filler").unlink()
    code, _, err = cab(*CELL, f"results={disk}")
    assert (code, err) == (0, "")
    assert left_over(disk) == ["lock", "result.json"]
    [there], [here] = records(disk, "quality"), records(cab.results, "quality")
    assert there.result["metrics"] == here.result["metrics"]


@pytest.mark.parametrize("name", ["checkpoint.pt", "result.json"])
def test_a_disk_that_is_full_at_some_moment(cab, monkeypatch, name):  # noqa: F811
    replace = os.replace

    def full(source, target):
        if name in str(target) and "quality" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, _, err = cab(*CELL)
    assert code == 2
    [folder] = cab.results.glob("runs/quality/*")
    assert err == f"error: {folder / name}: No space left on device: {ADVICE}"
    assert not records(cab.results, "quality")
    assert left_over(cab.results) == (["lock"] if name == "checkpoint.pt" else ["checkpoint.pt", "lock"])
    monkeypatch.setattr(os, "replace", replace)
    code, out, _ = cab(*CELL)
    assert code == 0
    assert ("continues at step" in out) == (name == "result.json")
    assert left_over(cab.results) == ["lock", "result.json"]


def test_a_folder_that_may_not_be_written(cab, readonly):  # noqa: F811
    cab(*CELL)
    before = sorted(cab.results.rglob("*"))
    for flags in ((), ("-m",)):
        code, out, err = cab(*flags, *CELL, f"results={readonly}")  # nothing to write
        assert (code, err) == (0, "")
        assert "already done" in out
        code, _, err = cab(*flags, *CELL, f"results={readonly}", "seed=1")
        assert code == 2
        assert err.startswith(f"error: {readonly}/")
        assert err.endswith(f": Read-only file system: {ADVICE}")
        assert err.count("\n") == 1
    assert sorted(cab.results.rglob("*")) == before


def test_the_same_without_a_mount(cab, monkeypatch):  # noqa: F811
    def refuse(path, flags, mode=0o777):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(lock.os, "open", refuse)
    code, _, err = cab(*CELL)
    assert code == 2
    assert err.endswith(f": Read-only file system: {ADVICE}")
    assert err.count("\n") == 1
