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
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pytest
from helpers import store_jobs

from tasks.base import Data
from tasks.data import cache_folder
from tasks.data.cache_folder import stored
from tasks.data.cloud_views import Sizes
from tasks.data.clouds import clouds

SPAWN = multiprocessing.get_context("spawn")
SIZES = Sizes(points=64, truth=96, views=1, solids=40, held_out_solids=4)
"""51 KB of whole clouds to train on."""
REASONS = r"(No space left on device|File too large|\d+ requested and \d+ written)"
UNWRITTEN = rf".*: could not be written \({REASONS}\): free some space, or choose another cache folder"


def build(folder: Path) -> None:
    (folder / "a").write_text("whole")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def prepare_clouds(cache: Path, messages: Queue) -> None:
    try:
        clouds(Data(), SIZES, cache)
    except ValueError as error:
        messages.put(str(error))


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
    """In a process of its own, which a write to a mapped file without space would end."""
    messages = SPAWN.Queue()
    job = SPAWN.Process(target=prepare_clouds, args=(small_disk, messages), daemon=True)
    job.start()
    message = messages.get(timeout=120)
    job.join()
    assert re.fullmatch(UNWRITTEN, message), message
    assert [path.suffix for path in small_disk.iterdir()] == [".lock"]


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_clouds_without_space(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"^{UNWRITTEN}$"), largest_file(size):
        clouds(Data(), SIZES, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    clouds(Data(), SIZES, tmp_path)


@pytest.mark.parametrize(
    ("size", "make"),
    [(1000, lambda folder: np.save(folder / "a.npy", np.zeros(9999))), (8, build)],
    ids=["numpy, whose error has no number", "checksums"],
)
def test_other_writes_without_space(tmp_path: Path, size: int, make: Callable[[Path], None]) -> None:
    with pytest.raises(ValueError, match=f"^{UNWRITTEN}$"), largest_file(size):
        stored(tmp_path / "it", make)


def test_other_errors_of_a_build_stay_what_they_are(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        stored(tmp_path / "it", fails)


def refused(path: Path, *_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("place", ["file/below/it", "folder/it"])
def test_no_place_for_a_cache(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder above the cache should be; a folder that may not be written to."""
    (tmp_path / "file").write_text("no folder")
    if place == "folder/it":
        (tmp_path / "folder").mkdir()
        monkeypatch.setattr(Path, "mkdir", lambda path, **_: path.is_dir() or refused(path))
    with pytest.raises(
        ValueError, match=r"it: could not be written \((Not a dir|Permission den).*\): free some"
    ) as error:
        stored(tmp_path / place, build)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["read_bytes", "open", "iterdir"])
def test_what_may_not_be_read_is_one_line(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user made it: it is there, and to make it again would help nobody."""
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
    machine, day = cache_folder.machine_id(), 24 * 3600
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
    job = SPAWN.Process(target=store_jobs.die_while_storing, args=(tmp_path / "it",), daemon=True)
    job.start()
    job.join()
    assert job.exitcode == 9
    assert len(list(tmp_path.glob("it.making-*"))) == 1
    stored(tmp_path / "it", build)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "it.lock"]


def test_two_jobs_make_it_once(tmp_path: Path) -> None:
    barrier, results = SPAWN.Barrier(2), SPAWN.Queue()
    arguments = (tmp_path / "cache" / "it", barrier, results)
    jobs = [SPAWN.Process(target=store_jobs.store_together, args=arguments, daemon=True) for _ in range(2)]
    for job in jobs:
        job.start()
    assert [results.get(timeout=60) for _ in jobs] == [True, True]
    for job in jobs:
        job.join()
    assert (tmp_path / "builds").read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["it", "it.lock"]


def test_a_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", refused)
    assert cache_folder.machine_id() == socket.gethostname()


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
