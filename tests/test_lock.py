"""Locks: one holder at a time, released when it ends, and two launchers or two measurements side by side."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.announcements import without_announcements
from test_run import TINY, cab, records  # noqa: F401

from cab import ROOT
from cab.store import lock
from cab.store.lock import Busy, holder, locked, locked_device
from cab.store.store import Store

HOLD = "import time; from pathlib import Path; import torch; from cab.store import lock\n"


@pytest.fixture
def hold():
    """Starts a process that holds a lock until it is killed."""
    started = []

    def start(what: str) -> subprocess.Popen:
        code = f"{HOLD}with {what}:\n print('has it', flush=True); time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "has it\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_one_holder_at_a_time_and_none_is_left_over(tmp_path, hold):
    path = tmp_path / "cell" / "lock"
    assert holder(path) is None
    assert not path.parent.exists()
    process = hold(f"lock.locked(Path({str(path)!r}))")
    for _ in range(2):
        with pytest.raises(Busy, match=f"process {process.pid}, since 20..-..-.. ") as busy, locked(path):
            pass
        assert holder(path) == str(busy.value)
    assert "\n" not in str(busy.value)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(2):
        assert holder(path) is None
        with locked(path), pytest.raises(Busy, match=f"process {os.getpid()}"), locked(path):
            pass


def test_looking_at_a_lock_does_not_make_it_busy(tmp_path):
    """`holder` has the lock for a moment; a process that wants the cell in that moment gets it."""
    path = tmp_path / "lock"
    with locked(path):
        pass
    code = "import sys; from pathlib import Path; from cab.store.lock import holder\n"
    code += "print(flush=True)\nwhile True: holder(Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        for _ in range(3000):
            with locked(path):
                pass
    finally:
        process.kill()
        process.wait()


def test_timing_waits_says_so_once_and_goes_on(tmp_path, hold, monkeypatch, capsys):
    monkeypatch.setenv("CAB_LOCK_FOLDER", str(tmp_path))
    process = hold("lock.locked_device(torch.device('cpu'))")
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o666  # a colleague's process opens it too
    monkeypatch.setattr(
        lock.time, "sleep", lambda seconds: process.kill() if seen.append(seconds) is None and len(seen) > 3 else None
    )
    seen: list[float] = []
    with locked_device(torch.device("cpu")):
        printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("  waits: times are being taken on this cpu by ")
    assert f"process {process.pid}" in printed
    with locked_device(torch.device("cpu")):
        pass
    assert capsys.readouterr().out == ""


def test_devices_do_not_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("CAB_LOCK_FOLDER", str(tmp_path))

    class Card:
        def __init__(self, device):
            self.uuid = f"GPU-{device.index}"

    monkeypatch.setattr(torch.cuda, "get_device_properties", Card)
    with (
        locked_device(torch.device("cpu")),
        locked_device(torch.device("cuda:0")),
        locked_device(torch.device("cuda:1")),
    ):
        names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cab-measures-on-GPU-0", "cab-measures-on-GPU-1", "cab-measures-on-cpu"]


def test_a_link_laid_by_somebody_is_not_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAB_LOCK_FOLDER", str(tmp_path))
    (tmp_path / "precious").write_text("content")
    (tmp_path / "cab-measures-on-cpu").symlink_to(tmp_path / "precious")
    with locked_device(torch.device("cpu")):
        assert capsys.readouterr().err.count("another process may time at the same time\n") == 1
    assert (tmp_path / "precious").read_text() == "content"


def test_without_locks_the_work_is_done_with_a_warning(tmp_path, monkeypatch, capsys):
    def none(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with locked(tmp_path / "lock"), locked(tmp_path / "other", "why"):
        pass
    printed = capsys.readouterr().err
    assert printed.count("no locks here (No locks available)") == 2
    assert printed.count("\n") == 2
    assert holder(tmp_path / "lock") is None


def test_a_cell_that_another_process_runs_is_skipped(cab, hold):  # noqa: F811
    cab("attention=none", "measure=false")
    [record] = records(cab.results, "quality")
    folder = cab.results / "runs" / "quality" / record.hash
    (folder / "result.json").unlink()
    process = hold(f"lock.locked(Path({str(folder / 'lock')!r}))")
    code, out, err = cab("attention=none", "measure=false")
    assert (code, err) == (0, "")
    assert f"process {process.pid}" in out
    assert "skipped: being run by " in out
    assert not records(cab.results, "quality")
    code, out, _ = cab("-m", "attention=none", "measure=false", "seed=0,1")
    assert (code, out.count("skipped")) == (0, 1)
    assert [record.cell["seed"] for record in records(cab.results, "quality")] == [1]
    process.kill()
    process.wait()
    cab("attention=none", "measure=false")
    assert len(records(cab.results, "quality")) == 2


def test_what_another_process_finished_meanwhile_is_done(cab, monkeypatch):  # noqa: F811
    cab("attention=none", "measure=false")
    [path] = cab.results.glob("runs/quality/*/result.json")
    content = path.read_bytes()
    path.unlink()
    claim = Store.claim

    def finish(self, key, *arguments):
        path.write_bytes(content)
        return claim(self, key, *arguments)

    monkeypatch.setattr(Store, "claim", finish)
    code, out, _ = cab("attention=none", "measure=false")
    assert code == 0
    assert "already done" in out
    assert path.read_bytes() == content


def launch(tmp_path: Path, patch: str, *overrides: str) -> subprocess.Popen:
    """A sweep beside others, which shares its results with them."""
    command = [sys.executable, "-m", "tests.helpers.patched_command", patch, "--"]
    command += ["cab.run", "-m", f"results={tmp_path / 'results'}", *TINY, *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_launchers_share_a_sweep(tmp_path):
    """Every cell is run once, by one of them, and measured once; nobody measures while the other does."""
    note = (
        "import time; from cab.efficiency import cell as efficiency; sweep = efficiency.sweep\n"
        "def noted(*a):\n start = time.time(); rows = sweep(*a)\n print('MEASURED', start, time.time()); return rows\n"
        "efficiency.sweep = noted"
    )
    cells = "attention=none,vanilla", "seed=0,1,2", "efficiency.budget=300"
    both = [launch(tmp_path, note, *cells) for _ in range(2)]
    output = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [without_announcements(err) for _, err in output] == ["", ""]
    assert len(records(tmp_path / "results", "quality")) == 6
    assert len(records(tmp_path / "results", "efficiency")) == 2
    trained = sum(out.count("step 6 of 6") for out, _ in output)
    assert trained == 6
    spans = sorted(
        tuple(map(float, line.split()[1:]))
        for out, _ in output
        for line in out.splitlines()
        if line.startswith("MEASURED")
    )
    assert len(spans) == 2
    assert spans[0][1] <= spans[1][0]
