"""A cell that is killed at any point and started again gives the numbers of an undisturbed one, bit for bit."""

import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
from helpers import random_kills
from helpers.random_kills import KILLED, files, numbers, run_cell
from test_run import TINY

from cab.store.record import all_records, read_record

CELL = [
    *(o for o in TINY if not o.startswith(("train.steps", "train.validations", "task.validation", "efficiency."))),
    "attention=ssa",  # it samples in training, so that a wrong random state would show
    "efficiency.phases=[forward]",
    "efficiency.lengths=[32]",
    "efficiency.rounds=3",
    "efficiency.budget=300",  # more than a busy machine needs
    "task.contexts=[1]",
    "task.positions=sinusoidal",
    "train.steps=40",
    "train.validations=8",
    "train.select=best",  # with rates at which the best is not the last
    "train.lr=0.03",
    "train.final_lr=1",
    "task.validation_windows=8",
    "train.checkpoint_seconds=0",
    "task.vocabulary=300",  # a vocabulary that is learned and cached
    "device.threads=1",
    "data=local",
]


def cell_on_text(folder: Path) -> list[str]:
    """The cell, with data that is written to this folder."""
    words = ["cat", "mat", "sat", "seven", "black", "birds", "fly", "over", "green", "hills", "rain", "wind"]
    for index, split in enumerate(("train", "validation", "test")):
        draw = random.Random(index)
        (folder / split).mkdir(parents=True)
        (folder / split / "a.txt").write_text(" ".join(draw.choice(words) for _ in range(4000 if index == 0 else 1500)))
    return [*CELL, f"data.path={folder}"]


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> list[str]:
    return cell_on_text(tmp_path_factory.mktemp("text") / "text")


@pytest.fixture
def start(cell):
    """Runs the cell in a results folder: (exit code, or minus the signal that killed it; seconds; its output)."""
    return partial(run_cell, cell)


@pytest.fixture(scope="module")
def undisturbed(cell, tmp_path_factory) -> Path:
    """The results of a run that nothing disturbed."""
    results = tmp_path_factory.mktemp("undisturbed")
    code, _, output = run_cell(cell, results)
    assert code == 0, output
    assert "continues" not in output
    assert numbers(results)["selected_step"] < 40
    return results


BEFORE = "from {0} import {1} as at; real = at.{2}\nat.{2} = lambda *a, **k: kill() if {3} else real(*a, **k)"
AFTER = "from {0} import {1} as at; real = at.{2}\nat.{2} = lambda *a, **k: (real(*a, **k), kill() if {3} else None)[0]"
REPLACE = """
import os as at; from fnmatch import fnmatch
real, seen = at.replace, []
def replace(source, target):
    if fnmatch(str(target), {pattern!r}): seen.append(0)
    now = fnmatch(str(target), {pattern!r}) and len(seen) == {time}
    if now and not {after}: kill()
    real(source, target)
    if now: kill()
at.replace = replace
"""


def replacing(pattern: str, time: int = 1, after: bool = False) -> str:
    """A patch that kills the process before or after the `time`th rename to a path of this pattern."""
    return REPLACE.format(pattern=f"*/{pattern}", time=time, after=after)


PLACES = {
    "before data is prepared": BEFORE.format("tasks.common", "windowed_text", "tokenise", "True"),
    "while a vocabulary is made": AFTER.format("tasks.data", "tokens", "_train", "True"),
    "before the cache is in place": replacing("cache/tokens-*"),
    "after the cache is in place": replacing("cache/tokens-*", after=True),
    "before the checks are written": replacing("checks/*"),
    "after the checks are written": replacing("checks/*", after=True),
    "before the first checkpoint": replacing("checkpoint.pt"),
    "after the first checkpoint": replacing("checkpoint.pt", after=True),
    "before a later checkpoint": replacing("checkpoint.pt", 17),
    "within a checkpoint": "import os; from cab.store import checkpoint\n"
    "real = checkpoint.write_atomically; seen = []\n"
    "def write(path, content):\n seen.append(0); real(path, content)\n"
    " os.fsync = lambda file: (os.ftruncate(file, 1000), kill()) if len(seen) == 9 else None\n"
    "checkpoint.write_atomically = write",
    "in validation": BEFORE.format("cab.quality", "train", "evaluate", "a[2] == 'validation'"),
    "before the test": BEFORE.format("cab.quality", "cell", "evaluate", "True"),
    "before the record": replacing("quality/*/result.json"),
    "after the record": replacing("quality/*/result.json", after=True),
    "before measuring": BEFORE.format("cab.efficiency", "cell", "sweep", "True"),
    "while measuring": AFTER.format("cab.efficiency", "sweep", "interleave", "True"),
    "before the record of costs": replacing("efficiency/*"),
    "after the record of costs": replacing("efficiency/*", after=True),
}
RESUMES = (
    "after the first checkpoint",
    "before a later checkpoint",
    "within a checkpoint",
    "in validation",
    "before the test",
    "before the record",
)
QUICK = ("before a later checkpoint", "within a checkpoint", "before the record", "after the record")


@pytest.mark.parametrize(
    "place", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow, id=p.replace(" ", "-")) for p in PLACES]
)
def test_killed_at_a_place(start, undisturbed, tmp_path, place):
    if not any(word in place for word in ("data", "vocabulary", "cache")):
        shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    if "checks" not in place:
        shutil.copytree(undisturbed / "runs" / "checks", tmp_path / "runs" / "checks")
    code, _, output = start(tmp_path, PLACES[place])
    assert code == KILLED, output
    code, _, output = start(tmp_path)
    assert code == 0, output
    assert "damaged" not in output
    assert ("continues at step" in output) == (place in RESUMES)
    assert numbers(tmp_path) == numbers(undisturbed)
    assert files(tmp_path) == files(undisturbed)


def test_a_rerun_does_not_continue_what_the_done_cell_left(start, undisturbed, tmp_path):
    """The checkpoint of a cell whose record is there, dated in the future as by a clock that is ahead."""
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    shutil.copytree(undisturbed / "runs" / "checks", tmp_path / "runs" / "checks")
    assert start(tmp_path, PLACES["before the record"])[0] == KILLED
    [left] = tmp_path.glob("runs/quality/*/checkpoint.pt")
    content = left.read_bytes()
    assert start(tmp_path)[0] == 0
    [path] = [p for p, _ in all_records(tmp_path) if p.parent == left.parent]
    before = read_record(path)
    left.write_bytes(content)
    os.utime(left, (4e9, 4e9))
    code, _, output = random_kills.run_cell([*start.args[0], "rerun=true"], tmp_path)
    assert code == 0, output
    assert "continues at step" not in output
    assert not left.exists()
    assert read_record(path).digest != before.digest
    assert numbers(tmp_path) == numbers(undisturbed)


@pytest.mark.parametrize("changed", ["code", "torch", "data"])
def test_a_checkpoint_of_other_code_or_data_is_not_used(start, undisturbed, cell, tmp_path, changed):
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    shutil.copytree(undisturbed / "runs" / "checks", tmp_path / "runs" / "checks")
    code, _, output = start(tmp_path, PLACES["before a later checkpoint"])
    assert code == KILLED, output
    path = Path(cell[-1].removeprefix("data.path=")) / "train" / "a.txt"
    before = path.read_text()
    patches = {
        "code": "cell.fingerprint = lambda *parts: 'other'",
        "torch": "cell.torch.__version__ += '.1'",
        "data": "",
    }
    try:
        path.write_text(before + " birds" if changed == "data" else before)
        code, _, output = start(tmp_path, f"from cab.quality import cell\n{patches[changed]}")
    finally:
        path.write_text(before)
    assert code == 0, output
    assert "it starts from step 0" in output
    assert "continues at step" not in output
    if changed != "data":
        assert numbers(tmp_path) == numbers(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments(cell, undisturbed, tmp_path):
    """Killed five times, and started again until it is done: every time the same numbers."""
    [*_, tally] = random_kills.kill_at_random(cell, undisturbed, tmp_path, kills=5)
    assert tally.equal == tally.cells, tally
