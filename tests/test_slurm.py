"""A sweep on a real SLURM whose jobs are killed in every way SLURM has ends with the table of an undisturbed one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas
import pytest

from cab import ROOT
from cab.store.record import all_records
from dev import slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(1200)]

SEEDS = 6
KILLED, CANCELLED, OVER_MEMORY, OVER_TIME, PREEMPTED, UNDISTURBED = range(SEEDS)
SWEEP = [
    f"seed={','.join(map(str, range(SEEDS)))}",
    "attention=vanilla",
    "attention._target_=helpers.waiting_attention.Waiting",
]
SWEEP += ["model.dim=16", "model.heads=2", "model.depth=1", "model.hidden=32", "model.length=32", "measure=false"]
SWEEP += ["train.steps=12", "train.batch=2", "train.warmup=2", "train.validations=1", "train.checkpoint_seconds=0"]
SWEEP += ["task.validation_windows=2", "task.test_windows=4", "wandb.mode=disabled", "device.threads=1"]
LONGEST_WAIT_SECONDS = 400
"""For anything that a test waits for; on two quiet cores nothing takes more than 90."""
SLURM = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
SLURM += ["hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=10"]
PROVENANCE = ["command", "revision", "device", "started"]
"""Columns of the table that two runs with equal numbers may differ in."""


@pytest.fixture(scope="module")
def slurm():
    if absent := slurm_cluster.missing():
        pytest.skip(f"no {', '.join(absent)} on this machine")
    folder = Path(tempfile.mkdtemp(prefix="cab-slurm-"))
    watcher = slurm_cluster.start(folder, SEEDS, subprocess.PIPE)
    yield folder
    watcher.stdin.close()
    watcher.wait(60)
    left = processes(folder)
    shutil.rmtree(folder)
    assert not left


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of the same sweep without SLURM, one cell after the other."""
    results = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "cab.run", "-m", f"results={results}", *SWEEP]
    subprocess.run(
        command, check=True, capture_output=True, timeout=LONGEST_WAIT_SECONDS, cwd=results, env=environment(os.environ)
    )
    return results


def environment(base, **more):
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {**base, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def processes(folder):
    """Command lines of the processes that belong to the cluster in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (path / "environ").read_bytes() + (path / "cmdline").read_bytes():
                found.append((path / "cmdline").read_text())
        except OSError:
            continue
    return found


def until(condition):
    """Waits until `condition()` is true, and returns it."""
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.2)
    return value


@pytest.fixture
def launch(slurm, undisturbed, tmp_path):
    """Starts the sweep on the cluster; the checks of its family are those of the undisturbed one."""
    shutil.copytree(undisturbed / "runs" / "checks", tmp_path / "runs" / "checks")
    (tmp_path / "wait").mkdir()
    started = []

    def call(*overrides):
        started.append(Sweep(slurm, tmp_path, *overrides))
        return started[-1]

    yield call
    for sweep in started:
        sweep.process.kill()
        sweep.process.wait()


def text(file):
    return file.read_text() if file.exists() else ""


class Sweep:
    """`cab.run -m` on the cluster, from a folder that is not the checkout."""

    def __init__(self, slurm, results, *overrides):
        self.slurm, self.results = slurm, results
        self.wait_folder = results / "wait"
        self.files = [(results / f"launcher.{name}") for name in ("out", "err")]
        command = [sys.executable, "-m", "cab.run", "-m", f"results={results}", *SWEEP, *SLURM, *overrides]
        env = environment(slurm_cluster.environment(slurm), WAIT_FOLDER=str(self.wait_folder))
        with self.files[0].open("w") as out, self.files[1].open("w") as err:
            self.process = subprocess.Popen(command, cwd=results, stdout=out, stderr=err, env=env)

    @property
    def job(self):
        """The number of the job array."""
        return until(lambda: re.search(r"as SLURM job (\d+);", text(self.files[0])))[1]

    def log(self, number):
        """What a job has printed."""
        return text(self.results / "slurm" / f"{self.job}_{number}" / f"{self.job}_{number}_0_log.out")

    def command(self, *command):
        done = slurm_cluster.run_client(self.slurm, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def waiting(self, number):
        """The process id of a job that waits."""
        return int(until(lambda: text(self.wait_folder / f"{number}.waiting")))

    def end(self):
        """Exit code, output and errors."""
        return self.process.wait(LONGEST_WAIT_SECONDS), *(file.read_text() for file in self.files)


def table(results):
    command = [sys.executable, "-m", "cab.leaderboard", "--no-plots", "--results", str(results)]
    subprocess.run(command, check=True, capture_output=True, timeout=LONGEST_WAIT_SECONDS)
    return pandas.read_csv(results / "leaderboard" / "leaderboard.csv").drop(columns=PROVENANCE)


def numbers(results):
    """Metrics and curve, without its times, of every seed."""
    by_seed = {}
    for _, record in all_records(results):
        assert record.status == "ok"
        curve = [{key: value for key, value in point.items() if key != "seconds"} for point in record.result["curve"]]
        by_seed[record.cell["seed"]] = (record.result["metrics"], curve)
    return by_seed


def test_a_sweep_gives_the_numbers_it_gives_without_slurm(launch, undisturbed, tmp_path):
    code, out, err = launch("seed=0,1").end()
    assert (code, err) == (0, "")
    assert out.count("  done, bits per byte ") == 2
    assert numbers(tmp_path) == {seed: result for seed, result in numbers(undisturbed).items() if seed < 2}


def test_whatever_happens_to_its_jobs_a_sweep_ends_as_an_undisturbed_one(launch, undisturbed, tmp_path):
    wait_folder = tmp_path / "wait"
    for number in (KILLED, CANCELLED, OVER_MEMORY, OVER_TIME, PREEMPTED):
        (wait_folder / str(number)).write_text("wait")
    sweep = launch()

    os.kill(sweep.waiting(KILLED), signal.SIGKILL)
    sweep.waiting(CANCELLED)
    sweep.command("scancel", f"{sweep.job}_{CANCELLED}")
    sweep.waiting(OVER_MEMORY)
    (wait_folder / str(OVER_MEMORY)).write_text("memory")
    first = sweep.waiting(OVER_TIME)
    sweep.command("scontrol", "update", f"JobId={sweep.job}_{OVER_TIME}", "TimeLimit=1")
    until(lambda: sweep.waiting(OVER_TIME) != first)
    (wait_folder / str(OVER_TIME)).unlink()
    until(lambda: f"seed {OVER_TIME}  done" in text(sweep.files[0]))

    first = sweep.waiting(PREEMPTED)
    sweep.command("srun", "--partition=high", f"--cpus-per-task={SEEDS}", "--mem=10", "true")
    until(lambda: sweep.waiting(PREEMPTED) != first)
    (wait_folder / str(PREEMPTED)).unlink()
    code, out, err = sweep.end()

    lost = (KILLED, CANCELLED, OVER_MEMORY)
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("error: 3 of 6 jobs ended without a result: ")
    assert all(f"{sweep.job}_{number} (" in err for number in lost)
    assert f"{sweep.job}_{CANCELLED} (CANCELLED)" in err
    assert out.count("; 0 to go") == 1
    assert {number for number in range(SEEDS) if f"seed {number}  done" in out} == set(range(SEEDS)) - set(lost)
    assert "exceeded memory limit" in sweep.log(OVER_MEMORY)
    assert "this job is timed-out" in sweep.log(OVER_TIME)
    for number in (OVER_TIME, PREEMPTED):
        assert sweep.log(number).count("continues at step 5 of 12") == 1
    assert numbers(tmp_path).keys() == set(range(SEEDS)) - set(lost)

    for file in wait_folder.iterdir():
        file.unlink()
    again = launch()
    code, out, err = again.end()
    assert (code, err) == (0, "")
    assert out.count("already done") == 3
    assert out.count("  done, bits per byte ") == 3
    assert sum("continues at step 5 of 12" in again.log(number) for number in range(3)) == 3
    assert numbers(tmp_path) == numbers(undisturbed)
    pandas.testing.assert_frame_equal(table(tmp_path), table(undisturbed))


def test_rates_are_tuned_as_without_slurm(slurm, tmp_path):
    cells = [one for one in SWEEP if not one.startswith(("seed=", "attention"))] + ["attention=none", "seed=0,1"]
    cells += ["tune.rates=[1e-4,3e-2]"]
    found = []
    for name, launcher in (("with", SLURM), ("without", [])):
        results = tmp_path / name
        command = [sys.executable, "-m", "cab.tune", f"results={results}", *cells, *launcher]
        env = environment(slurm_cluster.environment(slurm))
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=LONGEST_WAIT_SECONDS, env=env
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("as SLURM job") == (3 if launcher else 0)  # the grid, one more, the second seed
        line = next(line for line in done.stdout.splitlines() if "validation by rate" in line)
        records = [record for _, record in all_records(results)]
        metrics = {record.hash: (record.cell["seed"], record.result["metrics"]) for record in records}
        found.append((line, metrics))
    assert len(found[0][1]) == 4
    assert found[0] == found[1]


def test_a_cluster_whose_owner_ends_leaves_no_process():
    if absent := slurm_cluster.missing():
        pytest.skip(f"no {', '.join(absent)} on this machine")
    folder = Path(tempfile.mkdtemp(prefix="cab-slurm-"))
    watcher = slurm_cluster.start(folder, 1, subprocess.PIPE)
    slurm_cluster.run_client(folder, "sbatch", "--output=/dev/null", "--wrap=srun sleep 100")
    until(lambda: "R" in slurm_cluster.run_client(folder, "squeue", "--noheader", "--format=%t").stdout)
    assert any("slurmstepd" in line for line in until(lambda: processes(folder)))
    watcher.stdin.close()
    watcher.wait(60)
    assert processes(folder) == []
    shutil.rmtree(folder)
