"""Folders that are made once: full disks, missing rights, what killed jobs leave."""

import errno
import multiprocessing
import os
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.base import Data
from tasks.data import store
from tasks.data.clouds import clouds
from tasks.data.store import stored
from tasks.data.views import Sizes

SIZES = Sizes(points=64, truth=96, views=1, solids=40, held_out_solids=4)
"""51 KB of whole clouds to train on."""
REASONS = r"(No space left on device|File too large|\d+ requested and \d+ written)"
UNWRITTEN = rf".*: could not be written \({REASONS}\): free some space, or choose another cache folder"


def build(folder: Path) -> None:
    (folder / "a").write_text("whole")


def in_a_child(make: Callable[[], object]) -> tuple[int | None, str]:
    """Exit code, negative for a signal, and what it was refused with."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def run() -> None:
        try:
            make()
        except ValueError as error:
            results.put(str(error))
        else:
            results.put("made")

    job = context.Process(target=run, daemon=True)
    job.start()
    job.join(30)
    return job.exitcode, results.get(timeout=5) if job.exitcode == 0 else ""


def limited(make: Callable[[], object], size: int) -> tuple[int | None, str]:
    """In a process whose files cannot grow beyond `size`."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        make()

    return in_a_child(run)


def unfinished(parent: Path, owner: str, age: float = 0) -> Path:
    """What a job left that was killed."""
    left = parent / f"it.making-{owner}"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    for path in (left / "half", left):
        os.utime(path, (time.time() - age, time.time() - age))
    return left


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    job = subprocess.Popen(["true"])
    job.wait()
    return job.pid


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One that is full soon; to make it takes the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_line(small_disk: Path) -> None:
    """Not the end of the process, as where a file is mapped and its pages have no place."""
    code, said = in_a_child(lambda: clouds(Data(), SIZES, small_disk))
    assert code == 0
    assert re.fullmatch(UNWRITTEN, said), said
    assert [path.suffix for path in small_disk.iterdir()] == [".lock"]


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_clouds_that_have_no_place(tmp_path: Path, size: int) -> None:
    code, said = limited(lambda: clouds(Data(), SIZES, tmp_path), size)
    assert code == 0
    assert re.fullmatch(UNWRITTEN, said), said
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert in_a_child(lambda: clouds(Data(), SIZES, tmp_path)) == (0, "made")


def test_other_ways_of_writing_that_have_no_place(tmp_path: Path) -> None:
    """numpy's own, whose error has no number, and the checksums."""
    for number, make in enumerate((lambda folder: np.save(folder / "a.npy", np.zeros(9999)), build)):
        code, said = limited(lambda make=make, n=number: stored(tmp_path / f"{n}", make), 1000 if number == 0 else 8)
        assert code == 0
        assert re.fullmatch(UNWRITTEN, said), said


def test_other_errors_of_a_build_stay_what_they_are(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        stored(tmp_path / "it", fails)


def refused(path: Path, *_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("place", ["file/it", "folder/it"])
def test_no_place_for_a_cache(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder should be; a folder that may not be written to."""
    (tmp_path / "file").write_text("no folder")
    if place == "folder/it":
        (tmp_path / "folder").mkdir()
        monkeypatch.setattr(Path, "mkdir", lambda path, **_: path.is_dir() or refused(path))
    with pytest.raises(
        ValueError, match=r"it: could not be written \((File exi|Permission den).*\): free some"
    ) as error:
        stored(tmp_path / place, build)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["read_text", "open", "iterdir"])
def test_what_may_not_be_read_is_one_line(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and to make it again would help nobody."""
    stored(tmp_path / "it", build)
    with monkeypatch.context() as patched:
        patched.setattr(Path, what, refused)
        with pytest.raises(
            ValueError, match=r"it.*: not readable \(Permission denied\): make it readable for"
        ) as error:
            stored(tmp_path / "it", build)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "it.lock"]


def test_colleagues_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = stored(tmp_path / "cache" / "it", build)
        (folder / "a").write_text("damaged")
        stored(tmp_path / "cache" / "it", build)
    finally:
        os.umask(before)
    modes = {path.name[:11]: path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir() if path.is_dir()}
    assert modes == {"it": 0o755, "it.damaged-": 0o755}
    assert (folder / "a").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_job_left_is_deleted(tmp_path: Path, gone: int) -> None:
    """By the next that makes anything there; not what another may be at work on."""
    machine, day = store._machine(), 24 * 3600
    left = unfinished(tmp_path, f"{machine}-{gone}-0a1b2c3d")
    old = unfinished(tmp_path, f"other-host-{os.getpid()}-0a1b2c3d", 3 * day)
    earlier = unfinished(tmp_path, "k_2x9q1z", 3 * day)  # as an earlier version called it
    mine = unfinished(tmp_path, f"{machine}-{os.getpid()}-0a1b2c3d", day)
    init = unfinished(tmp_path, f"{machine}-1-0a1b2c3d", day)  # of another user, as a rule
    elsewhere = unfinished(tmp_path, f"other-host-{gone}-0a1b2c3d", day)
    young = unfinished(tmp_path, "k_2x9q10", day)
    written = unfinished(tmp_path, f"other-host-{gone}-1a1b2c3d", 3 * day)
    (written / "more").write_text("at work")
    os.utime(written, (0, 0))
    stored(tmp_path / "another", build)
    assert [path.exists() for path in (left, old, earlier)] == [False] * 3
    assert [path.exists() for path in (mine, init, elsewhere, young, written)] == [True] * 5


def test_a_job_that_is_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    code, _ = in_a_child(lambda: stored(tmp_path / "it", lambda folder: os._exit(9)))
    assert code == 9
    assert len(list(tmp_path.glob("it.making-*"))) == 1
    stored(tmp_path / "it", build)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "it.lock"]


def test_a_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", refused)
    assert store._machine() == socket.gethostname()


def test_without_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file is somebody else's, and two jobs make the same: the first one wins."""
    write = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: refused(path) if path.suffix == ".lock" else write(path, *a, **k)
    )

    def late(folder: Path) -> None:
        stored(tmp_path / "it", build)
        (folder / "b").touch()

    assert [path.name for path in sorted(stored(tmp_path / "it", late).iterdir())] == ["a", "checksums.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
