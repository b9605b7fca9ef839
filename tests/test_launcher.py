"""The launcher for SLURM, without SLURM: presets, waiting for jobs, and its errors."""

import pickle
import subprocess
from argparse import Namespace

import pytest
from omegaconf import OmegaConf
from submitit.core.utils import UncompletedJobError
from test_run import cab  # noqa: F401

from cab import ROOT, run, slurm
from cab.command import CellCode
from cab.compose import compose_one
from cab.errors import UserError
from dev import slurm_cluster


@pytest.mark.parametrize("preset", ["slurm", "slurm_gpu"])
def test_presets_compose_and_their_settings_are_checked(preset):
    compose_one([f"hydra/launcher={preset}", "hydra.launcher.account=someone", "hydra.launcher.timeout_min=5"])
    for wrong in ("hydra.launcher.mem_gb=much", "hydra.launcher.memory=4"):
        with pytest.raises(UserError, match="mem") as error:
            compose_one([f"hydra/launcher={preset}", wrong])
        assert "\n" not in str(error.value)


@pytest.fixture
def launch(tmp_path, monkeypatch, capsys):
    """The exit code and errors of a sweep through a SLURM with these programs."""

    def call(**programs):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if programs else str(folder))
        overrides = ["-m", "hydra/launcher=slurm", f"results={tmp_path}", "measure=false", "wandb.mode=disabled"]
        return run.main([*overrides, "attention=vanilla,none"]), capsys.readouterr().err

    return call


def test_a_machine_without_slurm(launch):
    assert launch() == (
        2,
        "error: hydra/launcher=slurm needs a machine that submits to a SLURM cluster: no sbatch here\n",
    )


def test_a_cluster_that_takes_no_such_job(launch):
    code, error = launch(sbatch="echo sbatch: error: invalid partition >&2; exit 1", srun="")
    assert code == 2
    assert error.splitlines()[-1] == "error: sbatch: error: invalid partition"
    assert "Traceback" not in error


class Job:
    """A job whose result `given` is there from the time `at` on; None = never."""

    def __init__(self, name, folder, given=None, at=0):
        self.job_id, self.given, self.at, self.num_tasks = name, given, at, 1
        self.paths = self
        self.result_pickle = folder / f"{name}.pkl"

    def task(self, number):
        return self

    def results(self):
        if isinstance(self.given, Exception):
            raise self.given
        return [self.given]


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when the launcher sleeps; `now` is in seconds since the start."""

    class Clock:
        now, jobs = 0.0, ()

        def sleep(self, seconds):
            self.now += seconds
            assert self.now < 1000, "it waits forever"
            for job in self.jobs:
                if job.at is not None and self.now >= job.at:
                    job.result_pickle.touch()

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(slurm, "time", made)
    return made


def wait(clock, monkeypatch, jobs, states):
    """The result of waiting while squeue reports states(now)."""
    clock.jobs = jobs
    monkeypatch.setattr(slurm, "query_squeue", lambda: states(clock.now))
    return slurm.wait(jobs, {job.job_id: f"seed={job.job_id}" for job in jobs})


def test_results_are_collected_in_any_order(clock, monkeypatch, tmp_path, capsys):
    jobs = [Job("5_0", tmp_path, 0, 50), Job("5_1", tmp_path, 1, 20)]
    found = wait(clock, monkeypatch, jobs, lambda now: {"5_0": "RUNNING", "5_1": "RUNNING"})
    assert found == {"5_0": jobs[0].given, "5_1": jobs[1].given}
    output = capsys.readouterr().out.splitlines()
    assert output == ["  5_1  seed=5_1  failed; 1 to go", "  5_0  seed=5_0  done; 0 to go"]


def test_the_line_of_a_job_has_the_cells_name_and_its_score(clock, monkeypatch, tmp_path, capsys):
    """They come back with what the job returns, through the file that SLURM's node writes."""
    title = "vanilla · causal_self · lm · smoke · seed 3"
    codes = [CellCode(0, title, "bits per byte 2.051"), CellCode(1, title, "error: RuntimeError: no")]
    jobs = [Job(f"5_{n}", tmp_path, pickle.loads(pickle.dumps(code)), 10 + 10 * n) for n, code in enumerate(codes)]
    clock.jobs = jobs
    monkeypatch.setattr(slurm, "query_squeue", dict)
    slurm.wait(jobs, {job.job_id: "seed=3 model.dim=32" for job in jobs})
    assert capsys.readouterr().out.splitlines() == [
        f"  5_0  {title} model.dim=32  done, bits per byte 2.051; 1 to go",
        f"  5_1  {title} model.dim=32  failed, error: RuntimeError: no; 0 to go",
    ]


def test_what_a_cell_returns_has_its_name_and_score(cab):  # noqa: F811
    code, _, _ = cab("attention=none", "measure=false")
    assert (code, code.title) == (0, "none · causal_self · lm · smoke · seed 0")
    assert code.outcome.startswith("bits per byte ")


def test_a_lost_job_is_reported_after_the_grace_period_and_the_others_are_waited_for(clock, monkeypatch, tmp_path):
    jobs = [Job("5_0", tmp_path, at=None), Job("5_1", tmp_path, at=None), Job("5_2", tmp_path, 0, 200)]
    found = wait(clock, monkeypatch, jobs, lambda now: {"5_0": "CANCELLED", "5_2": "RUNNING"})
    assert found == {"5_0": "CANCELLED", "5_1": "GONE", "5_2": jobs[2].given}
    assert clock.now == 200


def test_a_result_within_the_grace_period_counts(clock, monkeypatch, tmp_path):
    job = Job("5", tmp_path, 0, slurm.GRACE_SECONDS - 1)
    assert wait(clock, monkeypatch, [job], lambda now: {}) == {"5": job.given}


def test_a_job_that_is_queued_again_is_not_lost(clock, monkeypatch, tmp_path):
    job = Job("5", tmp_path, 0, 300)
    states = lambda now: {"5": "PREEMPTED" if now % 40 < 20 else "PENDING"}  # noqa: E731
    assert wait(clock, monkeypatch, [job], states) == {"5": job.given}


def test_a_slurm_that_does_not_answer_loses_nothing(clock, monkeypatch, tmp_path):
    job = Job("5", tmp_path, 0, 500)
    states = lambda now: None if now < 450 else {"5": "RUNNING"}  # noqa: E731
    assert wait(clock, monkeypatch, [job], states) == {"5": job.given}


def test_an_error_outside_of_the_cell_is_a_lost_job(clock, monkeypatch, tmp_path, capsys):
    job = Job("5", tmp_path, UncompletedJobError("no such module"), 10)
    assert wait(clock, monkeypatch, [job], lambda now: {}) == {"5": "FAILED"}
    assert capsys.readouterr().err == "no such module\n"


def test_states_are_read_from_squeue(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.query_squeue() is None
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 5_0 RUNNING; echo 5_1 PENDING\n")
    (tmp_path / "squeue").chmod(0o755)
    assert slurm.query_squeue() == {"5_0": "RUNNING", "5_1": "PENDING"}
    (tmp_path / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact controller; exit 1\n")
    assert slurm.query_squeue() is None


def test_a_cell_whose_time_is_up_goes_on_for_as_often_as_it_may(monkeypatch):
    monkeypatch.setattr(slurm, "run_cell", lambda request, line: len(line))
    monkeypatch.setattr(slurm, "compose_one", lambda line: None)
    cell = slurm.RequeuedCell(requeues=1)
    assert cell(["seed=1", "task=lm"]) == 2
    again = cell.checkpoint(["seed=1", "task=lm"])
    assert again.result() == 2
    with pytest.raises(SystemExit, match="max_num_timeout"):
        again.function.checkpoint(["seed=1"])


def test_what_jobs_print_does_not_make_the_checkout_dirty():
    launcher = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "hydra" / "launcher" / "slurm.yaml"))
    folder = launcher["submitit_folder"].split("/")[1]
    assert f"/results/{folder}/" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_make_slurm_up_installs_is_said(tmp_path, monkeypatch, capsys):
    """Python packages into .venv; of SLURM nothing."""
    planned = subprocess.run(["make", "-n", "-B", "slurm-up"], cwd=ROOT, capture_output=True, text=True, check=True)
    before = planned.stdout.partition("-m venv .venv")[0]
    assert "Installing into .venv: " in before
    assert "GB" in before
    monkeypatch.setattr(slurm_cluster, "missing", lambda: ["slurmd"])
    with pytest.raises(SystemExit, match=r"no slurmd, and this installs nothing of SLURM.*apt-get install"):
        slurm_cluster.up(tmp_path / "cluster", 2)
    monkeypatch.setattr(slurm_cluster, "missing", list)
    monkeypatch.setattr(slurm_cluster, "start", lambda *arguments: Namespace(pid=1))
    slurm_cluster.up(tmp_path / "cluster", 2)
    assert f"all of its files are in {tmp_path}/cluster" in capsys.readouterr().out
