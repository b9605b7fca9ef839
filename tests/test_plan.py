"""cab.plan: what is said of every cell is what cab.run would do with it, and nothing is written."""

from pathlib import Path

import pytest

from cab import ROOT
from cab.compose import compose_one, expand
from cab.machine import resolve_device
from cab.plan import duration, lines, main, plan
from cab.quality.cell import quality_identity
from cab.store.record import Record, Status, identity_hash, record_path

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


def identity(results: Path, *overrides: str) -> dict:
    request = compose_one([f"results={results}", *overrides])
    return quality_identity(request, resolve_device("auto"))


def write(results: Path, *overrides: str, status: Status = "ok", reason: str = "", seconds: float = 10.0) -> Path:
    cell = {"attention": "vanilla", "pattern": "causal_self", "task": "lm", "size": "smoke", "seed": 0}
    found = identity(results, *overrides)
    record = Record("quality", status, cell, found, reason, provenance={"seconds": seconds})
    return record.write(results)


def states(results: Path, *overrides: str) -> list[tuple[str, float | None]]:
    return [(cell.state, cell.seconds) for cell in plan([f"results={results}", *overrides])]


def test_every_state(tmp_path):
    write(tmp_path, "attention=vanilla")
    write(tmp_path, "attention=fit", status="unsupported", reason="a reason")
    write(tmp_path, "attention=routing", status="timeout", reason="too slow")
    write(tmp_path, "attention=ssa", status="diverged")
    record_path(tmp_path, "quality", identity_hash(identity(tmp_path, "attention=none"))).parent.mkdir()
    checkpoint = record_path(tmp_path, "quality", identity_hash(identity(tmp_path, "attention=none")))
    checkpoint.with_name("checkpoint.pt").touch()
    cells = plan([f"results={tmp_path}", "attention=vanilla,fit,routing,ssa,none,lightning"])
    assert [cell.state for cell in cells] == ["done", "unsupported", "again", "done", "resumes", "new"]
    assert [cell.reason for cell in cells][1:3] == ["a reason", "timeout: too slow"]
    assert plan([f"results={tmp_path}", "attention=vanilla", "rerun=true"])[0].state == "new"
    assert plan([f"results={tmp_path}", "attention=vanilla", "train.steps=7", "train.warmup=1"])[0].state == "new"


def test_a_pattern_that_a_task_does_not_have(tmp_path):
    first, second = plan([f"results={tmp_path}", "task=lm", "pattern=causal_self,noncausal_self"])
    assert (first.state, second.state) == ("new", "left out")
    assert "has no pattern" in second.reason
    *table, _, sums = lines([first, second])
    assert "noncausal_self" not in "".join(table)
    assert sums.startswith("2 cells: 1 new, 1 left out; ")


def test_a_damaged_record_runs_again_and_stays_where_it_is(tmp_path):
    path = write(tmp_path, "attention=vanilla")
    path.write_text(path.read_text()[:300])
    before = sorted(tmp_path.rglob("*")), path.read_bytes()
    [cell] = plan([f"results={tmp_path}", "attention=vanilla"])
    assert cell.state == "again"
    assert "damaged record" in cell.reason
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


def test_a_line_of_the_run_fits_as_it_is(tmp_path, capsys):
    assert main([f"results={tmp_path}", "-m", "attention=vanilla,none"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("2 cells: 2 new; no earlier time for 2")


FAMILIES = sorted(path.stem for path in (ROOT / "conf" / "attention").glob("*.yaml") if path.stem != "eager")
EXPERIMENTS = {
    "smoke": 3,
    "recall": (len(FAMILIES) + 1) * 4 * 3,
    "books": (len(FAMILIES) + 1) * 3,
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
    there = [dict(option.split("=") for option in cell.overrides) for cell in cells if cell.state == "new"]
    found = {pattern: {cell["task"] for cell in there if cell["pattern"] == pattern} for pattern in PAPER}
    assert found == PAPER


def test_durations():
    assert [duration(seconds) for seconds in (5, 89, 90, 3000, 7200)] == ["5 s", "89 s", "2 min", "50 min", "2.0 h"]


def test_one_cell_has_no_columns_but_its_state(tmp_path):
    text = "\n".join(lines(plan([f"results={tmp_path}"])))
    assert "state" in text
    assert "1 cell: 1 new" in text
