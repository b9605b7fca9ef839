"""A sweep that is launched again: cells that are done are printed and not launched, all others run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import synthetic
from helpers.announcements import without_announcements
from test_run import TINY

from cab import run, sweep
from cab.config import Request
from cab.machine import set_allocator
from cab.store.identity import efficiency_key, quality_key
from cab.store.record import Record, all_records, read_record
from cab.store.store import Store
from tasks.lm import LanguageModelling


@pytest.fixture
def launched(tmp_path, monkeypatch, capsys):
    """Runs `python -m cab.run -m` in this process: returns exit code, output, and the cells that the launcher got."""
    batches: list[list[str]] = []
    run_here = sweep.run_here

    def spy(cells, composer):
        batches.append([" ".join(cell[len(TINY) + 1 :]) for cell in cells])
        return run_here(cells, composer)

    monkeypatch.setattr(sweep, "run_here", spy)

    def call(*overrides: str):
        batches.clear()
        code = run.main(["-m", f"results={tmp_path}", *TINY, *overrides])
        call.batches = list(batches)
        printed = capsys.readouterr()
        call.errors = printed.err
        return code, printed.out, [cell for batch in batches for cell in batch]

    return call


@pytest.fixture
def quick(monkeypatch):
    """Cells that write the records they would have made, and train nothing."""

    def write(request: Request, line: list[str]) -> int:
        cpu = torch.device("cpu")
        content = request.build_task().prepare().content
        results = {
            "quality": synthetic.quality(score=1.0, data=content).result,
            "efficiency": synthetic.efficiency(phases=["forward"], lengths=[16], rounds=1).result,
        }
        keys = [quality_key(request, cpu)]
        if request.measure:
            keys.append(efficiency_key(request, cpu, set_allocator()))
        store = Store(request.results, request.rerun)
        for key in keys:
            with store.claim(key):
                store.write(Record(key.kind, "ok", key.cell, key.identity, result=results[key.kind]))
        return 0

    monkeypatch.setattr(sweep, "run_cell", write)


@pytest.fixture
def text(tmp_path_factory) -> Path:
    """Local data."""
    folder = tmp_path_factory.mktemp("text")
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        (folder / split / "a.txt").write_text(f"the {split} cat sat on the mat. " * 200)
    return folder


def paths(results: Path) -> list[Path]:
    return [path for path, _ in all_records(results)]


def change(path: Path, **changes) -> Record:
    """Writes the record with other fields."""
    content = json.loads(path.read_text())
    fields = {name: value for name, value in content.items() if name not in ("hash", "digest")}
    record = Record(**(fields | changes))
    record.write(path.parents[3])
    return record


def test_done_cells_are_printed_and_the_launcher_is_not_called(launched, tmp_path):
    overrides = "attention=none,vanilla", "measure=false", "seed=0,1"
    code, out, cells = launched(*overrides)
    assert (code, len(cells), len(paths(tmp_path))) == (0, 4, 4)
    assert "already done" not in out
    before = {path: path.stat().st_mtime_ns for path in paths(tmp_path)}
    code, out, cells = launched(*overrides)
    assert (code, cells, launched.batches) == (0, [], [])
    assert {path: path.stat().st_mtime_ns for path in paths(tmp_path)} == before
    lines = out.splitlines()
    assert lines[-1] == "4 of 4 cells are done, 0 to run; rerun=true runs all again"
    for name, seed in (("none", 0), ("none", 1), ("vanilla", 0), ("vanilla", 1)):
        [line] = [line for line in lines if line.startswith(f"{name} · causal_self · lm · smoke · seed {seed}: ")]
        [record] = [
            read_record(p) for p in before if (c := read_record(p).cell)["attention"] == name and c["seed"] == seed
        ]
        assert f"bits per byte {record.result['metrics']['bits_per_byte']:.4g} (already done)" in line


def test_only_what_is_missing_runs(launched, quick, tmp_path):
    overrides = "attention=none,vanilla", "measure=false", "seed=0,1"
    launched(*overrides)
    [gone] = [
        p for p in paths(tmp_path) if read_record(p).cell | {"attention": "none", "seed": 1} == read_record(p).cell
    ]
    gone.unlink()
    code, out, cells = launched(*overrides)
    assert (code, cells) == (0, ["attention=none measure=False seed=1"])
    assert "3 of 4 cells are done, 1 to run" in out
    assert gone.exists()
    assert len(launched(*overrides, "rerun=true")[2]) == 4
    assert len(launched(*overrides[:2], "seed=0,1,2", "hydra.sweeper.max_batch_size=1")[2]) == 2
    assert [len(batch) for batch in launched.batches] == [1, 1]


def test_a_value_that_depends_on_the_seed_is_that_of_each_seed(launched, quick):
    overrides = "attention=none", "measure=false", "train.warmup=${seed}", "seed=1,2,3"
    launched(*overrides)
    assert launched(*overrides)[2] == []
    assert len(launched("attention=none", "measure=false", "train.warmup=1", "seed=1,2,3")[2]) == 2


def test_efficiency_belongs_to_a_cell_that_wants_it(launched, quick):
    launched("attention=none", "measure=false", "seed=0,1")
    code, _, cells = launched("attention=none", "seed=0,1")
    assert (code, len(cells)) == (0, 2)
    assert launched("attention=none", "seed=0,1")[2] == []
    assert len(launched("attention=none", "seed=0,1", "efficiency.rounds=4")[2]) == 2


def test_statuses_that_are_final_and_those_that_run_again(launched, quick, tmp_path):
    overrides = "attention=none", "measure=false", "seed=0,1,2,3"
    launched(*overrides)
    statuses = ["error", "timeout", "diverged", "unsupported"]
    seeds = {}
    for path, status in zip(paths(tmp_path), statuses, strict=True):
        seeds[status] = change(path, status=status, reason="a reason").cell["seed"]
    code, out, cells = launched(*overrides)
    assert {int(cell[-1]) for cell in cells} == {seeds["error"], seeds["timeout"]}
    assert code == 1  # a cell diverged, as when it was run
    assert f"seed {seeds['diverged']}: diverged: a reason (already done)" in out
    assert launched(*overrides)[1].count("(already done)") == 4


def test_changed_data_means_another_run(launched, quick, text):
    overrides = "attention=none", "measure=false", "data=local", f"data.path={text}", "seed=0,1"
    assert len(launched(*overrides)[2]) == 2
    assert launched(*overrides)[2] == []
    (text / "train" / "a.txt").write_text("a dog ran over the hill. " * 200)
    assert len(launched(*overrides)[2]) == 2
    assert launched(*overrides)[2] == []


def test_data_is_prepared_once_for_all_cells(launched, quick, monkeypatch):
    launched("attention=none,vanilla", "measure=false", "seed=0,1")
    prepared = []
    prepare = LanguageModelling.prepare

    def count(self):
        prepared.append(self.seed)
        return prepare(self)

    monkeypatch.setattr(LanguageModelling, "prepare", count)
    assert launched("attention=none,vanilla", "measure=false", "seed=0,1")[2] == []
    assert len(prepared) == 1


def test_data_that_is_gone_is_the_error_of_every_cell(launched, text):
    overrides = "attention=none", "measure=false", "data=local", f"data.path={text}", "seed=0,1"
    launched(*overrides)
    shutil.rmtree(text)
    code, _, cells = launched(*overrides)
    assert (code, len(cells)) == (2, 2)


def test_a_pair_that_does_not_exist_is_left_out_of_a_sweep(launched, quick, tmp_path):
    code, out, cells = launched("pattern=noncausal_self,causal_self", "attention=none", "measure=false")
    assert (code, cells) == (0, ["pattern=causal_self attention=none measure=False"])
    assert "left out: task lm has no pattern noncausal_self: use pattern=causal_self\n" in out
    assert len(paths(tmp_path)) == 1
    code, out, cells = launched("pattern=noncausal_self,causal_cross", "attention=none", "measure=false")
    assert (code, cells, out) == (2, [], "")  # nothing at all to do is a mistake
    assert launched.errors.startswith("error: no cell is left: task lm has no pattern noncausal_self")


def test_cells_with_wrong_values_are_not_launched_and_one_line_says_why(launched, tmp_path):
    launched("attention=none", "measure=false")
    code, out, cells = launched("attention=none", "measure=false", "model.heads=2,3")
    assert (code, len(cells)) == (2, 0)
    assert launched.errors == "error: model: dim=16 is not a multiple of heads=3\n"
    assert "1 of 2 cells are done" in out
    code, _, cells = launched("attention=none", "measure=false", "seed=0,one")
    assert (code, len(cells)) == (2, 0)
    code, _, cells = launched("attention=none", "measure=false", "model.heads=3,5", "seed=0,1,2,3,4,5,6,7,8,9")
    assert (code, len(cells)) == (2, 0)
    assert launched.errors.splitlines() == [
        "error: model: dim=16 is not a multiple of heads=3",
        "error: model: dim=16 is not a multiple of heads=5",
        "error: 20 cells are refused",
    ]
    assert len(paths(tmp_path)) == 1


def test_a_damaged_record_runs_again(launched, quick, tmp_path):
    launched("attention=none", "measure=false", "seed=0,1")
    path = paths(tmp_path)[0]
    path.write_text(path.read_text()[:100])
    code, out, cells = launched("attention=none", "measure=false", "seed=0,1")
    assert (code, len(cells)) == (0, 1)
    assert f"warning: {path}" in out
    assert len(paths(tmp_path)) == 2


@pytest.mark.slow
def test_a_sweep_from_another_folder(tmp_path):
    command = [sys.executable, "-m", "cab.run", "-m", f"results={tmp_path}/out", *TINY, "attention=none", "seed=0,1"]
    (tmp_path / "elsewhere").mkdir()
    for text in ("bits per byte", "2 of 2 cells are done, 0 to run"):
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere")
        assert (ran.returncode, without_announcements(ran.stderr)) == (0, "")
        assert text in ran.stdout
    assert not list((tmp_path / "elsewhere").iterdir())
