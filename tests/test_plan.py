"""cab.plan: the state of every cell is what cab.run would do with it, and nothing is written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import synthetic
from test_run import TINY, cab  # noqa: F401

from cab import ROOT
from cab.compose import compose_one, expand
from cab.machine import resolve_device, set_allocator
from cab.plan import main
from cab.planning import duration, lines, plan
from cab.store.identity import CellKey, efficiency_key, quality_key
from cab.store.record import Record, Status, record_path

PAPER = {
    "noncausal_self": {
        "forecasting",
        "mlm",
        "point_cloud",
        "summarization",
        "super_resolution",
        "tts",
        "tts_fastspeech2",
    },
    "causal_self": {"lm", "summarization", "tts"},
    "noncausal_cross": {"forecasting", "point_cloud"},
    "causal_cross": {"summarization", "tts"},
}
"""Its table 1: the tasks of each pattern."""


def key(results: Path, *overrides: str) -> CellKey:
    return quality_key(compose_one([f"results={results}", *overrides]), resolve_device("auto"))


def write(results: Path, *overrides: str, status: Status = "ok", reason: str = "", seconds: float = 10.0) -> Path:
    """Records of a cell and of its efficiency."""
    request, device = compose_one([f"results={results}", *overrides]), resolve_device("auto")
    efficiency = efficiency_key(request, device, set_allocator())
    measured = synthetic.efficiency(request.attention, phases=["forward"], lengths=[16], rounds=1).result
    Record("efficiency", "ok", efficiency.cell, efficiency.identity, result=measured).write(results)
    quality = quality_key(request, device)
    result = synthetic.quality(status=status, data=request.build_task().prepare().content).result
    return Record(
        "quality", status, quality.cell, quality.identity, reason, result, provenance={"seconds": seconds}
    ).write(results)


def states(results: Path, *overrides: str) -> list[tuple[str, float | None]]:
    return [(cell.found.state, cell.seconds) for cell in plan([f"results={results}", *overrides])]


def state(results: Path, *overrides: str) -> str:
    [cell] = plan([f"results={results}", *overrides])
    return str(cell.found)


def test_states_of_records_and_checkpoints(tmp_path):
    write(tmp_path, "attention=vanilla")
    write(tmp_path, "attention=fit", status="unsupported", reason="a reason")
    write(tmp_path, "attention=routing", status="timeout", reason="too slow")
    write(tmp_path, "attention=ssa", status="diverged", reason="loss nan")
    folder = record_path(tmp_path, "quality", key(tmp_path, "attention=none").hash).parent
    folder.mkdir()
    (folder / "checkpoint.pt").touch()
    cells = plan([f"results={tmp_path}", "attention=vanilla,fit,routing,ssa,none,lightning"])
    assert [str(cell.found) for cell in cells] == [
        "done",
        "unsupported: a reason",
        "failed: timeout: too slow",
        "done: diverged: loss nan",
        "interrupted",
        "new",
    ]
    assert state(tmp_path, "attention=vanilla", "rerun=true") == "new: rerun=true"
    assert state(tmp_path, "attention=vanilla", "train.steps=7", "train.warmup=1") == "new"


def test_trained_but_not_measured(cab):  # noqa: F811
    cell = [*TINY, "attention=none"]
    cab("attention=none", "measure=false")
    assert state(cab.results, *cell, "measure=false") == "done"
    assert state(cab.results, *cell) == "to measure: trained, efficiency not measured"
    cab("attention=none")
    assert state(cab.results, *cell) == "done"
    assert state(cab.results, *cell, "efficiency.rounds=4") == "to measure: trained, efficiency not measured"


@pytest.fixture
def text(tmp_path_factory) -> Path:
    """Local data."""
    folder = tmp_path_factory.mktemp("text")
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        (folder / split / "a.txt").write_text(f"the {split} cat sat on the mat. " * 200)
    return folder


def test_changed_data(cab, text):  # noqa: F811
    overrides = ["attention=none", "measure=false", "data=local", f"data.path={text}"]
    cell = [*TINY, *overrides]
    assert cab(*overrides)[0] == 0
    assert state(cab.results, *cell) == "done"
    (text / "train" / "a.txt").write_text("a dog ran over the hill. " * 200)
    assert state(cab.results, *cell) == "stale data"
    _, out, _ = cab(*overrides)
    assert out.count("the data changed since this cell was trained: it runs again") == 1
    assert state(cab.results, *cell) == "done"


def test_missing_data(cab, text, capsys):  # noqa: F811
    local = ["attention=none", "data=local", f"data.path={text}"]
    cab(*local, "measure=false")
    shutil.rmtree(text)
    assert state(cab.results, *TINY, *local, "seed=1") == "new"
    assert main([f"results={cab.results}", *TINY, *local, "seed=0,1"]) == 0
    printed = capsys.readouterr().out
    assert f"no data: data.path={text}: no such folder" in printed
    assert "2 cells: 1 no data, 1 new" in printed


def test_a_cell_that_another_process_runs(tmp_path):
    path = record_path(tmp_path, "quality", key(tmp_path).hash).with_name("lock")
    code = "import sys; from pathlib import Path; from cab.store.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes)
    process.stdout.readline()
    assert f"process {process.pid}, since" in state(tmp_path)
    assert state(tmp_path).startswith("being run by ")
    process.communicate(b"end\n")
    assert state(tmp_path) == "new"


def test_a_pattern_that_a_task_does_not_have(tmp_path):
    first, second = plan([f"results={tmp_path}", "task=lm", "pattern=causal_self,noncausal_self"])
    assert (first.found.state, second.found.state) == ("new", "left out")
    assert "has no pattern" in second.found.detail
    *table, _, sums = lines([first, second])
    assert "noncausal_self" not in "".join(table)
    assert sums.startswith("2 cells: 1 new, 1 left out; ")


def test_a_damaged_record_runs_again_and_stays_where_it_is(tmp_path):
    path = write(tmp_path, "attention=vanilla")
    path.write_text(path.read_text()[:300])
    before = sorted(tmp_path.rglob("*")), path.read_bytes()
    assert state(tmp_path, "attention=vanilla").startswith("damaged record: not valid JSON")
    assert (sorted(tmp_path.rglob("*")), path.read_bytes()) == before


def test_time_is_that_of_the_family_or_else_of_the_others(tmp_path):
    for seed, seconds in enumerate([10.0, 30.0, 20.0]):
        write(tmp_path, "attention=vanilla", f"seed={seed}", seconds=seconds)
    write(tmp_path, "attention=lightning", seconds=100.0)
    write(tmp_path, "attention=vanilla", "train.steps=6000", seconds=9999.0)
    assert states(tmp_path, "attention=vanilla", "seed=9") == [("new", 20.0)]
    assert states(tmp_path, "attention=lightning", "seed=9") == [("new", 100.0)]
    assert states(tmp_path, "attention=fit") == [("new", 25.0)]
    assert states(tmp_path, "attention=fit", "task=recall") == [("new", None)]


def test_the_table(tmp_path, capsys):
    write(tmp_path, "attention=vanilla", seconds=100.0)
    assert main([f"results={tmp_path}", "attention=vanilla,none", "task=lm,recall", "seed=0,1"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["attention", "task", "seed", "state", "time"] in rows
    assert ["vanilla", "lm", "0", "done"] in rows
    assert ["vanilla", "lm", "1", "new", "2", "min"] in rows
    assert ["none", "lm", "0", "1", "new", "3", "min"] in rows
    assert printed.rstrip().endswith("8 cells: 1 done, 7 new; about 5 min one after the other; no earlier time for 4")


def test_nothing_is_written(tmp_path):
    results = tmp_path / "results"
    assert main([f"results={results}", "attention=vanilla"]) == 0
    assert not results.exists()


@pytest.mark.parametrize("bad", ["attention=vanila", "train.steps=many", "nonsense=1", "seed=0,"])
def test_a_mistake_is_one_line(tmp_path, capsys, bad):
    assert main([f"results={tmp_path}", bad]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_command_line_of_cab_run_fits(tmp_path, capsys):
    assert main([f"results={tmp_path}", "-m", "attention=vanilla,none"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("2 cells: 2 new; no earlier time for 2")


FAMILIES = sorted(path.stem for path in (ROOT / "conf" / "attention").glob("*.yaml") if path.stem != "eager")
EXPERIMENTS = {
    "smoke": 3,
    "recall": len(FAMILIES) * 4 * 3,
    "books": len(FAMILIES) * 3,
    "controls": 2 * 3,
    "etth1": len(FAMILIES) + 1,
    "cab": len(FAMILIES) * 4 * 8,
    "efficiency": len(FAMILIES) * 4,
}


def test_every_experiment_is_here():
    assert sorted(EXPERIMENTS) == sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_sweep_that_the_command_line_can_change(name):
    cells = expand([f"experiment={name}"])
    assert len(cells) == EXPERIMENTS[name]
    assert {tuple(option.partition("=")[0] for option in cell) for cell in cells} == {
        tuple(option.partition("=")[0] for option in cells[0])
    }
    one = {"attention": "eager", "pattern": "causal_self", "task": "lm", "seed": "7"}
    assert len(expand([f"experiment={name}", *(f"{group}={choice}" for group, choice in one.items())])) == 1
    [cell] = expand([f"experiment={name}", *(f"{group}={choice}" for group, choice in one.items())])
    assert {f"{group}={choice}" for group, choice in one.items()} < set(cell)


def test_the_paper_has_its_patterns_of_its_tasks(tmp_path):
    cells = plan([f"results={tmp_path}", "experiment=cab", "attention=vanilla"])
    there = [dict(option.split("=") for option in cell.overrides) for cell in cells if cell.found.state == "new"]
    found = {pattern: {cell["task"] for cell in there if cell["pattern"] == pattern} for pattern in PAPER}
    assert found == PAPER


def test_a_task_of_your_own_is_none_of_the_papers(tmp_path):
    """It has a recipe for smoke only."""
    for folder in ("task", "recipe"):
        (tmp_path / folder).mkdir()
    (tmp_path / "task/mine.yaml").write_text((ROOT / "conf/task/lm.yaml").read_text())
    (tmp_path / "recipe/mine_smoke.yaml").write_text((ROOT / "conf/recipe/lm_smoke.yaml").read_text())
    cells = plan([f"--config-dir={tmp_path}", f"results={tmp_path}", "experiment=cab", "attention=none", "size=base"])
    tasks = {option for cell in cells for option in cell.overrides if option.startswith("task=")}
    assert tasks == {f"task={name}" for names in PAPER.values() for name in names}


def test_durations():
    assert [duration(seconds) for seconds in (5, 89, 90, 3000, 7200)] == ["5 s", "89 s", "2 min", "50 min", "2.0 h"]


def test_one_cell_has_no_columns_but_its_state(tmp_path):
    text = "\n".join(lines(plan([f"results={tmp_path}"])))
    assert "state" in text
    assert "1 cell: 1 new" in text
