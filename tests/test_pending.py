"""A relaunched sweep: what is done is said and not started again, what is left is run, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig
from test_run import TINY

from cab import run
from cab.config import load
from cab.machine import set_allocator, set_threads
from cab.store.identity import efficiency_identity, quality_identity
from cab.store.record import Record, all_records, read_record
from tasks.lm import LanguageModelling


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Runs `python -m cab.run -m` in this process: returns exit code, output, and the cells that the launcher got."""
    batches: list[list[str]] = []
    launcher = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    launch = launcher.launch

    def spy(self, job_overrides, initial_job_idx):
        batches.append([" ".join(cell[len(TINY) + 1 :]) for cell in job_overrides])
        return launch(self, job_overrides, initial_job_idx)

    monkeypatch.setattr(launcher, "launch", spy)

    def call(*overrides: str):
        batches.clear()
        monkeypatch.setattr(sys, "argv", ["cab.run", "-m", f"results={tmp_path}", *TINY, *overrides])
        run.exit_codes[:] = [0]
        run.main()
        call.batches = list(batches)
        return max(run.exit_codes), capsys.readouterr().out, [cell for batch in batches for cell in batch]

    return call


@pytest.fixture
def quick(monkeypatch):
    """Cells that write the records they would have made, and train nothing."""

    def write(config: DictConfig) -> int:
        choices = HydraConfig.get().runtime.choices
        request = load(config, choices["attention"], choices["task"])
        set_threads(request.device.threads)
        cell = {"attention": request.attention, "seed": request.seed}
        cpu = torch.device("cpu")
        content = request.build_task().prepare().content
        result = {"data": {"content": content}, "headline": "bits_per_byte", "metrics": {"bits_per_byte": 1.0}}
        Record("quality", "ok", cell, quality_identity(request, cpu), result=result).write(request.results)
        if request.measure:
            identity = efficiency_identity(request, cpu, set_allocator())
            Record("efficiency", "ok", cell, identity).write(request.results)
        return 0

    monkeypatch.setattr(run, "run_cell", write)


def paths(results: Path) -> list[Path]:
    return [path for path, _ in all_records(results)]


def change(path: Path, **changes) -> Record:
    """The record written anew with other fields."""
    content = json.loads(path.read_text())
    fields = {name: value for name, value in content.items() if name not in ("hash", "digest")}
    record = Record(**(fields | changes))
    record.write(path.parents[3])
    return record


def test_what_is_done_is_said_and_the_launcher_is_not_called(sweep, tmp_path):
    asked = "attention=none,vanilla", "measure=false", "seed=0,1"
    code, out, cells = sweep(*asked)
    assert (code, len(cells), len(paths(tmp_path))) == (0, 4, 4)
    assert "recorded before" not in out
    before = {path: path.stat().st_mtime_ns for path in paths(tmp_path)}
    code, out, cells = sweep(*asked)
    assert (code, cells, sweep.batches) == (0, [], [])
    assert {path: path.stat().st_mtime_ns for path in paths(tmp_path)} == before
    lines = out.splitlines()
    assert lines[-1] == "4 of 4 cells were there already, 0 to run; rerun=true runs all"
    for name, seed in (("none", 0), ("none", 1), ("vanilla", 0), ("vanilla", 1)):
        [line] = [line for line in lines if line.startswith(f"{name} · causal_self · lm · smoke · seed {seed}: ")]
        [record] = [
            read_record(p) for p in before if (c := read_record(p).cell)["attention"] == name and c["seed"] == seed
        ]
        assert f"bits per byte {record.result['metrics']['bits_per_byte']:.4g} (recorded before)" in line


def test_only_what_is_missing_runs(sweep, quick, tmp_path):
    asked = "attention=none,vanilla", "measure=false", "seed=0,1"
    sweep(*asked)
    [gone] = [
        p for p in paths(tmp_path) if read_record(p).cell | {"attention": "none", "seed": 1} == read_record(p).cell
    ]
    gone.unlink()
    code, out, cells = sweep(*asked)
    assert (code, cells) == (0, ["attention=none measure=False seed=1"])
    assert "3 of 4 cells were there already, 1 to run" in out
    assert gone.exists()
    assert len(sweep(*asked, "rerun=true")[2]) == 4
    assert len(sweep(*asked[:2], "seed=0,1,2", "hydra.sweeper.max_batch_size=1")[2]) == 2
    assert [len(batch) for batch in sweep.batches] == [1, 1]


def test_a_value_that_depends_on_the_seed_is_that_of_each_seed(sweep, quick):
    asked = "attention=none", "measure=false", "train.warmup=${seed}", "seed=1,2,3"
    sweep(*asked)
    assert sweep(*asked)[2] == []
    assert len(sweep("attention=none", "measure=false", "train.warmup=1", "seed=1,2,3")[2]) == 2


def test_measurements_belong_to_a_cell_that_wants_them(sweep, quick):
    sweep("attention=none", "measure=false", "seed=0,1")
    code, _, cells = sweep("attention=none", "seed=0,1")
    assert (code, len(cells)) == (0, 2)
    assert sweep("attention=none", "seed=0,1")[2] == []
    assert len(sweep("attention=none", "seed=0,1", "efficiency.rounds=4")[2]) == 2


def test_endings_that_are_tried_again_and_those_that_are_not(sweep, quick, tmp_path):
    asked = "attention=none", "measure=false", "seed=0,1,2,3"
    sweep(*asked)
    ends = ["error", "timeout", "diverged", "unsupported"]
    names = {}
    for path, status in zip(paths(tmp_path), ends, strict=True):
        names[status] = change(path, status=status, reason="as it was").cell["seed"]
    code, out, cells = sweep(*asked)
    assert {int(cell[-1]) for cell in cells} == {names["error"], names["timeout"]}
    assert code == 1  # a cell diverged, as when it was run
    assert f"seed {names['diverged']}: diverged: as it was (recorded before)" in out
    assert sweep(*asked)[1].count("(recorded before)") == 4


def test_other_data_means_another_run(sweep, quick, monkeypatch):
    sweep("attention=none", "measure=false", "seed=0,1")
    prepared = []
    prepare = LanguageModelling.prepare

    def changed(self):
        prepared.append(self.seed)
        source = prepare(self)
        return type(source)(source.description, source.real, "f" * 64, source.facts)

    monkeypatch.setattr(LanguageModelling, "prepare", changed)
    _, _, cells = sweep("attention=none", "measure=false", "seed=0,1")
    assert len(cells) == 2
    assert len(prepared) == 3  # once for both before, and by each cell for itself
    assert sweep("attention=none", "measure=false", "seed=0,1")[2] == []


def test_a_pair_that_does_not_exist_is_left_out_of_a_sweep(sweep, quick, tmp_path):
    code, out, cells = sweep("pattern=noncausal_self,causal_self", "attention=none", "measure=false")
    assert (code, cells) == (0, ["pattern=causal_self attention=none measure=False"])
    assert "left out: task lm has no pattern noncausal_self: use pattern=causal_self\n" in out
    assert len(paths(tmp_path)) == 1
    code, out, cells = sweep("pattern=noncausal_self,causal_cross", "attention=none", "measure=false")
    assert (code, cells, out.count("left out: ")) == (2, [], 2)  # nothing at all to do is a mistake


def test_a_cell_that_cannot_be_runs_and_says_so(sweep, tmp_path):
    sweep("attention=none", "measure=false")
    code, out, cells = sweep("attention=none", "measure=false", "model.heads=2,3")
    assert (code, len(cells)) == (2, 1)
    assert "1 of 2 cells were there already" in out
    code, _, cells = sweep("attention=none", "measure=false", "seed=0,one")
    assert (code, len(cells)) == (2, 1)
    assert len(paths(tmp_path)) == 1


def test_a_damaged_record_runs_again(sweep, quick, tmp_path):
    sweep("attention=none", "measure=false", "seed=0,1")
    path = paths(tmp_path)[0]
    path.write_text(path.read_text()[:100])
    code, out, cells = sweep("attention=none", "measure=false", "seed=0,1")
    assert (code, len(cells)) == (0, 1)
    assert f"warning: {path}" in out
    assert len(paths(tmp_path)) == 2


@pytest.mark.slow
def test_a_sweep_from_another_folder(tmp_path):
    command = [sys.executable, "-m", "cab.run", "-m", f"results={tmp_path}/out", *TINY, "attention=none", "seed=0,1"]
    (tmp_path / "elsewhere").mkdir()
    for said in ("bits per byte", "2 of 2 cells were there already, 0 to run"):
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert said in ran.stdout
    assert not list((tmp_path / "elsewhere").iterdir())
