"""Digests of files: right, remembered until a file changes, and never in the way."""

import hashlib
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from tasks.data import file_digests as digest
from tasks.data.file_digests import file_digests


def file_digest(path: Path, cache: Path) -> str:
    return file_digests([path], cache)[0]


def made(root: Path, count: int = 6) -> list[Path]:
    paths = [root / f"folder{i % 2}" / f"{i}.bin" for i in range(count)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % i * 1000)
    return paths


def expected(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were really read."""
    names, before = list[str](), hashlib.file_digest

    def noted(file, algorithm):
        names.append(os.path.basename(file.name))
        return before(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return names


def test_each_file_is_read_once(tmp_path: Path, read: list[str]) -> None:
    paths = made(tmp_path / "data")
    assert file_digests(paths, tmp_path / "cache") == expected(paths)
    assert len(read) == 6
    assert file_digests(paths[::-1], tmp_path / "cache") == expected(paths)[::-1]
    assert len(read) == 6
    assert file_digest(paths[0], tmp_path / "cache") == file_digest(paths[0], tmp_path / "cache") == expected(paths)[0]
    assert len(read) == 7
    assert file_digests([], tmp_path / "cache") == []


def test_a_changed_file_is_read_again(tmp_path: Path, read: list[str]) -> None:
    paths = made(tmp_path / "data")
    file_digests(paths, tmp_path / "cache")
    read.clear()
    before = paths[1].stat()
    paths[1].write_bytes(b"longer" * 1000)
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(paths[2], ns=(0, 123_456_789))
    before = paths[3].stat()
    paths[3].write_bytes(b"x" * 1000)
    os.utime(paths[3], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file_digests(paths, tmp_path / "cache") == expected(paths)
    assert read == ["1.bin", "2.bin", "3.bin"]


def test_the_same_size_and_time_is_not_seen(tmp_path: Path) -> None:
    """As the module says: if this fails, it says too little."""
    (path,) = made(tmp_path, 1)
    before, first = path.stat(), file_digest(path, tmp_path / "cache")
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(path, tmp_path / "cache") == first


def test_links_are_followed(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A link of a file or of a folder above it that leads elsewhere is another file, whatever its size and time."""
    old, new = made(tmp_path / "old"), made(tmp_path / "new")
    new[0].write_bytes(b"7" * 1000)
    for path in old + new:
        os.utime(path, ns=(0, 0))
    for link, to in (("folder", "{}"), ("file.bin", "{}/folder0/0.bin")):
        found = []
        for target in ("old", "new"):
            (tmp_path / link).unlink(missing_ok=True)
            (tmp_path / link).symlink_to(tmp_path / to.format(target))
            path = tmp_path / link / "folder0" / "0.bin" if link == "folder" else tmp_path / link
            found.append(file_digest(path, tmp_path / "cache"))
        assert found == expected([old[0], new[0]])
    assert len(read) == 2
    monkeypatch.chdir(tmp_path / "old" / "folder1")
    assert file_digest(Path("../folder0/0.bin"), tmp_path / "cache") == found[0]
    assert file_digest(Path("1.bin"), tmp_path / "cache") == expected([old[1]])[0]
    assert len(read) == 3


@pytest.mark.parametrize("damage", ["", "{}", "cut", "flipped", "\ud800"])
def test_a_damaged_index_is_not_used_and_named(tmp_path: Path, damage: str, capsys) -> None:
    paths = made(tmp_path / "data")
    file_digests(paths, tmp_path / "cache")
    (index,) = (tmp_path / "cache" / digest.FOLDER).iterdir()
    text = index.read_text()
    own = expected(paths)[0]
    damaged = {"cut": text[:-20], "flipped": text.replace(own, own[::-1])}.get(damage, damage)
    index.write_bytes(damaged.encode(errors="surrogatepass"))
    assert file_digests(paths, tmp_path / "cache") == expected(paths)
    assert index.read_text() == text
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {index}: ")
    assert said.endswith("files are read again\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("stage", ["mkdir", "write_bytes", "replace"])
def test_without_the_right_to_write(tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = made(tmp_path / "data")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os if stage == "replace" else Path, stage, refused)
    assert file_digests(paths, tmp_path / "cache") == [hashlib.sha256(b"%d" % i * 1000).hexdigest() for i in range(6)]
    assert not list((tmp_path / "cache").rglob("*.json*"))


def test_a_file_where_the_cache_should_be(tmp_path: Path) -> None:
    paths = made(tmp_path / "data")
    (tmp_path / "cache").write_text("no folder")
    assert file_digests(paths, tmp_path / "cache") == expected(paths)


def _job(paths: list[Path], cache: Path, barrier, results) -> None:
    barrier.wait()
    results.put([file_digests(paths, cache) == expected(paths) for _ in range(10)])


def test_several_jobs_at_once(tmp_path: Path) -> None:
    """All of them start without anything, and write to the same file."""
    paths, context = made(tmp_path / "data", 60), multiprocessing.get_context("spawn")  # a fork of threads may hang
    barrier, results = context.Barrier(4), context.Queue()
    parts = [[paths[0], *paths[i::4], paths[-1]] for i in range(4)]
    jobs = [
        context.Process(target=_job, args=(part, tmp_path / "cache", barrier, results), daemon=True) for part in parts
    ]
    for job in jobs:
        job.start()
    assert [results.get(timeout=120) for _ in jobs] == [[True] * 10] * 4
    for job in jobs:
        job.join()
    assert file_digests(paths, tmp_path / "cache") == expected(paths)
    assert len(list((tmp_path / "cache" / digest.FOLDER).iterdir())) == 1


def test_what_was_read_before_a_failure_is_kept(tmp_path: Path, read: list[str]) -> None:
    paths = made(tmp_path / "data")
    paths[5].unlink()
    with pytest.raises(
        ValueError, match=r"5\.bin: not readable \(No such file or directory\): make it readable, or"
    ) as error:
        file_digests(paths, tmp_path / "cache")
    assert "\n" not in str(error.value)
    read.clear()
    file_digests(paths[:5], tmp_path / "cache")
    assert read == []


def test_digests_are_saved_while_files_are_read(tmp_path: Path) -> None:
    """So that a job that is killed loses little."""
    paths, pipe = made(tmp_path / "data"), tmp_path / "data" / "pipe"
    os.mkfifo(pipe)
    arguments = ([*paths, pipe], tmp_path / "cache", 0.0)
    reader = threading.Thread(target=file_digests, args=arguments, daemon=True)
    reader.start()
    with pipe.open("wb"):  # opens when the reader has come to the pipe, and ends it
        (index,) = (tmp_path / "cache" / digest.FOLDER).iterdir()
        saved = index.read_text()
    reader.join()
    assert all(own in saved for own in expected(paths))


def test_colleagues_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        file_digests(made(tmp_path / "data"), tmp_path / "cache")
    finally:
        os.umask(before)
    (index,) = (tmp_path / "cache" / digest.FOLDER).iterdir()
    assert index.stat().st_mode & 0o777 == 0o644


def test_folders_are_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each file, of which there may be many: seconds of every start."""
    paths, calls, lstat = made(tmp_path / "data", 60), list[str](), os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: calls.append(str(path)) or lstat(path))
    file_digests(paths, tmp_path / "cache")
    assert len(calls) < 60 + 2 * len(tmp_path.parts) + 5
