"""The store: the state of a cell in every situation, and what a claim does to the cell's folder."""

import os
import threading
import time
from pathlib import Path

import pytest
from helpers import synthetic

from cab.store.identity import CellKey
from cab.store.lock import Busy
from cab.store.record import Record, Status, record_path
from cab.store.store import State, Store

MADE = synthetic.quality("vanilla", 0)
KEY = CellKey("quality", MADE.cell, MADE.identity)
CHECK = CellKey("checks", {"attention": "vanilla", "pattern": "causal_self"}, {"attention": {"name": "vanilla"}})


def record(status: Status = "ok", reason: str = "", content: str = "a", key: CellKey = KEY) -> Record:
    checks = {"declared": "paper", "control": False, "checks": []}
    result = checks if key is CHECK else MADE.result | {"data": MADE.result["data"] | {"content": content}}
    return Record(key.kind, status, key.cell, key.identity, reason, result=result)


def folder(results: Path) -> Path:
    return record_path(results, KEY.kind, KEY.hash).parent


def put_checkpoint(store: Store, age: float = 0.0) -> Path:
    """A checkpoint of a training that begins now, its age in seconds."""
    checkpoint = store.checkpoint(KEY, "origin")
    checkpoint.save({"step": 1})
    os.utime(checkpoint.path, (time.time() - age, time.time() - age))
    return checkpoint.path


def claimed(store: Store, content: str = "a") -> State:
    with store.claim(KEY, content) as state:
        return state.state


def test_a_cell_is_new_until_its_record_is_written(tmp_path):
    store = Store(tmp_path)
    assert store.state(KEY, "a").state is State.NEW
    assert not any(tmp_path.iterdir())
    with store.claim(KEY, "a") as state:
        assert state.state is State.NEW
        store.write(record())
    assert store.state(KEY, "a").record == record()
    assert str(store.state(KEY, "a")) == "done"
    assert claimed(store) is State.DONE


@pytest.mark.parametrize(
    ("status", "text", "done"),
    [
        ("ok", "done", True),
        ("diverged", "done: diverged: a reason", True),
        ("out_of_memory", "done: out_of_memory: a reason", True),
        ("unsupported", "unsupported: a reason", True),
        ("error", "failed: error: a reason", False),
        ("timeout", "failed: timeout: a reason", False),
        ("failed_check", "failed: failed_check: a reason", False),
    ],
)
def test_states_of_records(tmp_path, status, text, done):
    store = Store(tmp_path)
    store.write(record(status, "a reason"))
    assert str(store.state(KEY, "a")) == text
    assert (store.state(KEY, "a").record is not None) == done
    again = Store(tmp_path, rerun=True).state(KEY, "a")
    assert str(again) == ("new: rerun=true" if done else text)
    assert again.record is None


def test_a_check_is_done_whatever_it_found(tmp_path):
    store = Store(tmp_path)
    failed = record("failed_check", "leaks", key=CHECK)
    store.write(failed)
    assert store.state(CHECK).record == failed


def test_data_that_changed(tmp_path, capsys):
    store = Store(tmp_path)
    store.write(record(content="a"))
    assert store.state(KEY, "b").state is State.STALE
    assert store.state(KEY).state is State.DONE
    assert capsys.readouterr().out == ""
    assert claimed(store, "b") is State.STALE
    assert capsys.readouterr().out == "the data changed since this cell was trained: it runs again\n"


def test_a_damaged_record_is_renamed_by_a_claim_only(tmp_path, capsys):
    store = Store(tmp_path)
    store.write(record())
    path = folder(tmp_path) / "result.json"
    path.write_text(path.read_text()[:100])
    assert str(store.state(KEY, "a")).startswith("damaged record: not valid JSON")
    assert path.exists()
    assert capsys.readouterr().out == ""
    assert claimed(store) is State.DAMAGED
    assert sorted(p.name for p in folder(tmp_path).iterdir()) == ["lock", "result.json.damaged-1"]
    assert capsys.readouterr().out.startswith(f"warning: {path}: not valid JSON")
    assert store.state(KEY, "a").state is State.NEW


def test_a_checkpoint_makes_a_cell_interrupted_until_the_record_is_written(tmp_path):
    store = Store(tmp_path)
    path = put_checkpoint(store)
    assert store.state(KEY, "a").state is State.INTERRUPTED
    assert claimed(store) is State.INTERRUPTED
    assert path.exists()
    store.write(record())
    assert not path.exists()


AGES = [60, 0, -86_400]
"""Seconds: clocks of other machines may be ahead."""


@pytest.mark.parametrize("remove", [claimed, lambda store: store.remove_checkpoint_left_over(KEY, record())])
@pytest.mark.parametrize("age", AGES)
def test_a_checkpoint_of_the_training_that_the_record_is_of_is_removed(tmp_path, remove, age):
    """Whatever its date: the process was killed between the record and the removal of the checkpoint."""
    store = Store(tmp_path)
    path = put_checkpoint(store, age)
    left_over = path.read_bytes()
    store.write(record())
    path.write_bytes(left_over)
    os.utime(path, (time.time() - age, time.time() - age))
    assert store.state(KEY, "a").state is State.DONE
    assert Store(tmp_path, rerun=True).state(KEY, "a").state is State.NEW
    remove(store)
    assert not path.exists()


@pytest.mark.parametrize("age", AGES)
def test_a_checkpoint_of_a_rerun_is_continued_by_a_rerun(tmp_path, age):
    store = Store(tmp_path, rerun=True)
    store.write(record())
    path = put_checkpoint(store, age)
    assert claimed(store) is State.INTERRUPTED
    assert path.exists()
    assert store.checkpoint(KEY, "origin").load() == {"step": 1}
    store.write(record("diverged"))  # another record ends it
    path = put_checkpoint(store, age)
    assert store.state(KEY).state is State.INTERRUPTED
    store.write(record())
    assert not path.exists()


@pytest.mark.parametrize("age", AGES)
def test_a_checkpoint_is_kept_beside_a_record_that_is_not_final(tmp_path, age):
    """What ended the cell may have nothing to do with it."""
    store = Store(tmp_path)
    path = put_checkpoint(store, age)
    store.write(record("error", "Broken pipe"))
    assert path.exists()
    assert store.state(KEY).state is State.FAILED
    with store.claim(KEY) as state:
        assert state.state is State.FAILED
        assert store.checkpoint(KEY, "origin").load() == {"step": 1}


def test_a_claim_removes_unfinished_files(tmp_path):
    store = Store(tmp_path)
    put_checkpoint(store)
    (folder(tmp_path) / ".result.json.abc").touch()
    assert store.state(KEY).state is State.INTERRUPTED
    assert (folder(tmp_path) / ".result.json.abc").exists()
    claimed(store)
    assert sorted(path.name for path in folder(tmp_path).iterdir()) == ["checkpoint.pt", "lock"]


def test_a_claim_ends_with_an_error(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="broken"), store.claim(KEY):
        raise ValueError("broken")
    assert claimed(store) is State.NEW


def test_a_cell_that_is_being_run(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    with other.claim(KEY):
        state = store.state(KEY, "a")
        assert state.state is State.RUNNING
        assert f"process {os.getpid()}, since" in str(state)
        with pytest.raises(Busy, match=f"process {os.getpid()}"), store.claim(KEY):
            pass
    assert store.state(KEY, "a").state is State.NEW


def test_a_record_counts_while_another_process_has_the_cell(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    store.write(record())
    with other.claim(KEY):
        assert store.state(KEY, "a").state is State.DONE
        assert store.state(KEY, "b").state is State.RUNNING


def test_waiting_for_another_claim(tmp_path, capsys):
    store, other = Store(tmp_path), Store(tmp_path)
    started = threading.Event()

    def finish() -> None:
        with other.claim(KEY):
            started.set()
            time.sleep(0.5)
            other.write(record())

    thread = threading.Thread(target=finish)
    thread.start()
    started.wait()
    with store.claim(KEY, "a", wait="the same is done by") as state:
        assert state.state is State.DONE
    thread.join()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("  waits: the same is done by ")
    assert f"process {os.getpid()}" in printed
