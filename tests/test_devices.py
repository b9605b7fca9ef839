"""One cell on several devices: two processes give what one gives, stop together, and go on where they were."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import distributed_program

from cab.compose import compose_one
from cab.efficiency import __main__ as efficiency
from cab.errors import UserError
from cab.quality import distributed
from cab.store.record import all_records

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATHS = f"{ROOT}{os.pathsep}{HERE}"
"""For modules of the project and of the tests."""
SUMMED_OTHERWISE = {"rtol": 1e-9, "atol": 1e-12}
"""For float64. Sums over a batch are added up in another order: 1e-16 each, and 12 steps of AdamW may make it more."""
LOSS = 3e-7
"""Losses are kept in float32: a few units in the last place, 6e-8."""


def without_time(curve):
    return [{key: value for key, value in point.items() if key != "seconds"} for point in curve]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def pair(folder):
    """What each of two processes has after training all cases of tests/helpers/distributed_program.py."""
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": PATHS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, str(HERE / "helpers" / "distributed_program.py"), str(folder)]
    environments = [os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [subprocess.Popen(command, env=environment, cwd=ROOT) for environment in environments]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one(folder):
    return {
        name: distributed_program.run(name, folder / "nowhere", together=False)
        for name in ("plain", "micro", "routing")
    }


@pytest.mark.parametrize("case", ["plain", "micro", "routing"])
def test_two_processes_have_the_losses_and_weights_of_one(pair, one, case):
    for theirs, alone in zip(pair[0][case]["curve"], one[case]["curve"], strict=True):
        assert theirs["loss"] == pytest.approx(alone["loss"], rel=LOSS)
        assert theirs.get("validation", {}) == pytest.approx(alone.get("validation", {}), rel=LOSS)
        assert theirs["learning_rate"] == alone["learning_rate"]
    torch.testing.assert_close(pair[0][case]["weights"], one[case]["weights"], **SUMMED_OTHERWISE)
    assert pair[0][case]["curve"][-1]["loss"] < pair[0][case]["curve"][0]["loss"]


@pytest.mark.parametrize("case", distributed_program.CASES)
def test_all_processes_hold_the_same_model(pair, case):
    first, second = (found[case]["weights"] for found in pair)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_centroids_are_those_of_the_whole_batch(pair, one):
    names = [name for name in one["routing"]["weights"] if "mixer.centroids" in name]
    assert len(names) == 3
    start = distributed_program.Net(distributed_program.Routing, 0.0).state_dict()
    for name in names:
        own = one["routing"]["weights"][name]
        assert not torch.allclose(own, start[name], atol=1e-4), "the test sees no movement"
        for found in pair:
            torch.testing.assert_close(found["routing"]["weights"][name], own, **SUMMED_OTHERWISE)


def test_a_parameter_without_gradient_is_left_alone(pair):
    torch.manual_seed(0)
    start = distributed_program.Net(distributed_program.Vanilla, 0.0).state_dict()["idle.weight"]
    assert torch.equal(pair[0]["plain"]["weights"]["idle.weight"], start)


def test_two_processes_that_were_interrupted_go_on_with_the_same_numbers_bit_for_bit(pair):
    for found in pair:
        assert torch.equal(found["cut"]["random"], found["whole"]["random"])
        for name, tensor in found["whole"]["weights"].items():
            assert torch.equal(found["cut"]["weights"][name], tensor), name
    assert without_time(pair[0]["cut"]["curve"]) == without_time(pair[0]["whole"]["curve"])


def test_each_process_has_its_own_dropout(pair):
    assert not torch.equal(pair[0]["whole"]["random"], pair[1]["whole"]["random"])


def test_another_number_of_processes_goes_on_and_says_so(pair, folder, capsys):
    left = folder / "again" / "cut.pt"
    left.parent.mkdir()
    left.write_bytes((folder / "left.pt").read_bytes())
    curve = distributed_program.run("cut", left.parent, together=False)["curve"]
    said = capsys.readouterr().out
    assert f"continues at step {distributed_program.KILLED_AT} of 12\n" in said
    assert "it was trained by 2 processes, now by 1: dropout is drawn anew\n" in said
    assert (
        without_time(curve)[: distributed_program.KILLED_AT]
        == without_time(pair[0]["whole"]["curve"])[: distributed_program.KILLED_AT]
    )
    assert curve[-1]["loss"] == pytest.approx(pair[0]["whole"]["curve"][-1]["loss"], rel=0.2)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_NTASKS": "8"}


def test_how_many_processes_there_are():
    assert (distributed.world({}), distributed.rank({})) == (1, 0)
    assert (distributed.world(TORCHRUN), distributed.rank(TORCHRUN), distributed._on_this_node(TORCHRUN)) == (4, 3, 2)
    assert (distributed.world(SRUN), distributed.rank(SRUN), distributed._on_this_node(SRUN)) == (6, 5, 2)
    batch_script = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}  # srun has not been called in it
    assert (distributed.world(batch_script), distributed.rank(batch_script)) == (1, 0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batch=6", "train.batch=6 cannot be cut over 4 processes: use a multiple of 4"),
        ("train.micro_batch=8", None),
        ("train.micro_batch=4", "train.micro_batch=4 does not divide the 6 examples"),
        ("device.name=cuda:1", "device=cuda:1: 4 processes take one device each: use cuda"),
    ],
)
def test_what_cannot_be_cut_is_one_line(monkeypatch, override, words):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    micro = ["train.micro_batch=null"] if "micro" not in override else []
    request = compose_one(["train.batch=24", "train.steps=6", "train.warmup=2", *micro, override])
    if words is None:
        return distributed.check(request)
    with pytest.raises(UserError, match=f"^{words}") as error:
        distributed.check(request)
    assert "\n" not in str(error.value)
    return None


def test_costs_are_not_taken_by_several_processes(monkeypatch, capsys, tmp_path):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert efficiency.main([f"results={tmp_path}", "attention=none"]) == 2
    assert "started as 4 processes" in capsys.readouterr().err


TINY = ["model.dim=16", "model.heads=2", "model.depth=1", "model.hidden=32", "model.length=32"]
TINY += ["train.steps=6", "train.batch=4", "train.warmup=2", "train.validations=2", "task.validation_windows=2"]
TINY += ["task.test_windows=4", "wandb.mode=disabled", "measure=false", "device.threads=1"]


def cells(results: Path) -> dict[str, dict]:
    return {f"{r.cell['attention']} {r.cell['seed']}": r for _, r in all_records(results)}


def torchrun(results: Path, *arguments: str, program: tuple[str, ...] = ("-m", "cab.run")):
    """Two processes; returns the exit code and what they said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command += [str(free_port()), *program]
    command += [*(a for a in arguments if a == "-m"), f"results={results}", *TINY]
    command += [a for a in arguments if a != "-m"]
    environment = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said


@pytest.mark.slow
def test_a_sweep_of_two_processes_records_once_what_one_records(tmp_path):
    sweep = ["-m", "attention=vanilla,routing,none", "train.micro_batch=1"]
    code, said = torchrun(tmp_path / "two", *sweep)
    assert code == 0, said
    assert said.count("step 6 of 6") == 3
    assert "arning" not in said
    command = [sys.executable, "-m", "cab.run", sweep[0], f"results={tmp_path / 'one'}", *TINY, *sweep[1:]]
    subprocess.run(command, check=True, cwd=ROOT, timeout=150, stdout=subprocess.DEVNULL)
    two, one = cells(tmp_path / "two"), cells(tmp_path / "one")
    assert len(two) == 3
    for name, record in one.items():
        assert two[name].hash == record.hash  # how many processes there were does not identify a cell
        assert [two[name].result["training"]["processes"], record.result["training"]["processes"]] == [2, 1]
        assert two[name].result["metrics"] == pytest.approx(record.result["metrics"], rel=1e-5)
        for theirs, alone in zip(two[name].result["curve"], record.result["curve"], strict=True):
            assert theirs["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    code, said = torchrun(tmp_path / "two", "attention=none", "train.micro_batch=1")
    assert code == 0, said
    assert "already done" in said or "1 of 1 cells are done" in said
    code, said = torchrun(tmp_path / "two", "attention=none", "train.batch=3")
    assert code != 0
    assert said.count("error: train.batch=3 cannot be cut over 2 processes") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SecondRaises", "FirstRaises"])
def test_a_process_that_fails_ends_the_cell_with_an_error(tmp_path, kind):
    code, said = torchrun(tmp_path, "attention=vanilla", f"attention._target_=helpers.failing_processes.{kind}")
    assert code != 0
    assert "RuntimeError: broken on purpose" in said
    [record] = cells(tmp_path).values()
    assert record.status == "error"
    assert ("another process" in record.reason) == (kind == "SecondRaises")


@pytest.mark.slow
def test_a_cell_whose_process_was_killed_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    cell = ["attention=vanilla", "attention._target_=attentions_that_fail_in_one_process.SecondIsKilled"]
    often = (str(HERE / "helpers" / "frequent_checkpoints.py"),)
    code, said = torchrun(tmp_path / "cut", *cell, program=often)
    assert code != 0, said
    assert not cells(tmp_path / "cut")
    monkeypatch.setenv("SPARED", "1")
    code, said = torchrun(tmp_path / "cut", *cell, program=often)
    assert code == 0, said
    assert "continues at step 4 of 6" in said
    code, said = torchrun(tmp_path / "whole", *cell)
    assert code == 0, said
    [cut], [whole] = cells(tmp_path / "cut").values(), cells(tmp_path / "whole").values()
    assert cut.result["metrics"] == whole.result["metrics"]
    assert without_time(cut.result["curve"]) == without_time(whole.result["curve"])
