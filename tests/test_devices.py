"""One cell on several devices: two processes give what one gives, stop together, and go on where they were."""

import contextlib
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
ANOTHER_ORDER_OF_SUMS = {"rtol": 1e-9, "atol": 1e-12}
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
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"results-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one(folder):
    return {
        name: distributed_program.run(name, folder / "nowhere", together=False)
        for name in ("plain", "micro", "routing", *distributed_program.SELECTIONS)
    }


@pytest.mark.parametrize("case", ["plain", "micro", "routing"])
def test_two_processes_have_the_losses_and_weights_of_one(pair, one, case):
    for theirs, alone in zip(pair[0][case]["curve"], one[case]["curve"], strict=True):
        assert theirs["loss"] == pytest.approx(alone["loss"], rel=LOSS)
        assert theirs.get("validation", {}) == pytest.approx(alone.get("validation", {}), rel=LOSS)
        assert theirs["learning_rate"] == alone["learning_rate"]
    torch.testing.assert_close(pair[0][case]["weights"], one[case]["weights"], **ANOTHER_ORDER_OF_SUMS)
    losses = [point["loss"] for point in pair[0][case]["curve"]]
    assert sum(losses[-6:]) < sum(losses[:6])


@pytest.mark.parametrize("case", distributed_program.CASES)
def test_all_processes_hold_the_same_model(pair, case):
    first, second = (results[case]["weights"] for results in pair)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_the_selected_weights_are_those_of_one_process(pair, one):
    torch.testing.assert_close(pair[0]["best"]["weights"], one["best"]["weights"], **ANOTHER_ORDER_OF_SUMS)
    best, last = pair[0]["best"]["weights"]["head.weight"], pair[0]["plain"]["weights"]["head.weight"]
    assert not torch.allclose(best, last, atol=1e-4), "the test sees no difference"
    assert torch.equal(pair[1]["best"]["weights"]["head.weight"], last)  # it has trained to the end


def test_all_processes_stop_together(pair, one):
    step = 2 * (1 + distributed_program.VALIDATIONS.index(1.0))
    for results in (*pair, one):
        assert results["stopped"]["curve"][-1]["step"] == step
    first, second = (results["stopped"]["weights"] for results in pair)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, pair[0]["best"]["weights"])  # the best is where it stopped


def test_centroids_are_those_of_the_global_batch(pair, one):
    names = [name for name in one["routing"]["weights"] if "mixer.centroids" in name]
    assert len(names) == 3
    start = distributed_program.Net(distributed_program.Routing, 0.0).state_dict()
    for name in names:
        own = one["routing"]["weights"][name]
        assert not torch.allclose(own, start[name], atol=1e-4), "the test sees no movement"
        for results in pair:
            torch.testing.assert_close(results["routing"]["weights"][name], own, **ANOTHER_ORDER_OF_SUMS)


def test_a_parameter_without_gradient_does_not_change(pair):
    torch.manual_seed(0)
    start = distributed_program.Net(distributed_program.Vanilla, 0.0).state_dict()["idle.weight"]
    assert torch.equal(pair[0]["plain"]["weights"]["idle.weight"], start)


def test_two_processes_resume_with_the_same_numbers_bit_for_bit(pair):
    for results in pair:
        resumed, undisturbed = results["interrupted"], results["undisturbed"]
        assert torch.equal(resumed["random"], undisturbed["random"])
        for name, tensor in undisturbed["weights"].items():
            assert torch.equal(resumed["weights"][name], tensor), name
    assert without_time(pair[0]["interrupted"]["curve"]) == without_time(pair[0]["undisturbed"]["curve"])


def test_each_process_has_its_own_dropout(pair):
    assert not torch.equal(pair[0]["undisturbed"]["random"], pair[1]["undisturbed"]["random"])


def test_another_number_of_processes_resumes_and_prints_it(pair, folder, capsys):
    checkpoint = folder / "again" / "interrupted.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((folder / "checkpoint.pt").read_bytes())
    curve = distributed_program.run("interrupted", checkpoint.parent, together=False)["curve"]
    output = capsys.readouterr().out
    step = distributed_program.KILLED_AT
    assert f"continues at step {step} of {distributed_program.STEPS}\n" in output
    assert "it was trained by 2 processes, now by 1: other dropout masks\n" in output
    undisturbed = pair[0]["undisturbed"]["curve"]
    assert without_time(curve)[:step] == without_time(undisturbed)[:step]
    assert curve[-1]["loss"] == pytest.approx(undisturbed[-1]["loss"], rel=0.2)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_NTASKS": "8"}


def test_world_size_and_rank():
    assert (distributed.world_size({}), distributed.rank({})) == (1, 0)
    assert (distributed.world_size(TORCHRUN), distributed.rank(TORCHRUN)) == (4, 3)
    assert (distributed.world_size(SRUN), distributed.rank(SRUN)) == (6, 5)
    batch_script = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}  # srun has not been called in it
    assert (distributed.world_size(batch_script), distributed.rank(batch_script)) == (1, 0)


@pytest.mark.parametrize(
    ("launcher", "here"),
    [
        (TORCHRUN, None),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "4 processes, 3 on this node"),
        (SRUN, None),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4,2"}, "6 processes, 4 on this node"),
    ],
)
def test_every_node_has_the_same_number_of_processes(monkeypatch, launcher, here):
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    request = compose_one(["train.batch=24", "train.steps=6", "train.warmup=2", "train.micro_batch=null"])
    with pytest.raises(UserError, match=f"^{here}: ") if here else contextlib.nullcontext():
        distributed.check_request(request)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batch=6", "train.batch=6 cannot be divided over 4 processes: use a multiple of 4"),
        ("train.micro_batch=8", None),
        ("train.micro_batch=4", "train.micro_batch=4 does not divide the 6 examples"),
        ("device.name=cuda:1", "device=cuda:1: 4 processes use one device each: use cuda"),
    ],
)
def test_a_request_that_cannot_be_divided_is_refused_in_one_line(monkeypatch, override, words):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    micro = ["train.micro_batch=null"] if "micro" not in override else []
    request = compose_one(["train.batch=24", "train.steps=6", "train.warmup=2", *micro, override])
    if words is None:
        return distributed.check_request(request)
    with pytest.raises(UserError, match=f"^{words}") as error:
        distributed.check_request(request)
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


def torchrun(results: Path, *arguments: str) -> tuple[int, str]:
    """Two processes of `python -m cab.run`; returns the exit code and the output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command += ["-m", "cab.run", *(a for a in arguments if a == "-m"), f"results={results}", *TINY]
    command += [a for a in arguments if a != "-m"]
    environment = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


@pytest.mark.slow
def test_a_sweep_of_two_processes_records_once_what_one_records(tmp_path):
    sweep = ["-m", "attention=vanilla,routing,none", "train.micro_batch=1"]
    code, output = torchrun(tmp_path / "two", *sweep)
    assert code == 0, output
    assert output.count("step 6 of 6") == 3
    assert "arning" not in output
    command = [sys.executable, "-m", "cab.run", sweep[0], f"results={tmp_path / 'one'}", *TINY, *sweep[1:]]
    subprocess.run(command, check=True, cwd=ROOT, timeout=150, stdout=subprocess.DEVNULL)
    two, one = cells(tmp_path / "two"), cells(tmp_path / "one")
    assert len(two) == 3
    for name, record in one.items():
        assert two[name].hash == record.hash  # the world size does not identify a cell
        assert [two[name].result["training"]["processes"], record.result["training"]["processes"]] == [2, 1]
        assert two[name].result["metrics"] == pytest.approx(record.result["metrics"], rel=1e-5)
        for theirs, alone in zip(two[name].result["curve"], record.result["curve"], strict=True):
            assert theirs["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    code, output = torchrun(tmp_path / "two", "attention=none", "train.micro_batch=1")
    assert code == 0, output
    assert cells(tmp_path / "two") == two  # done, and not trained again
    code, output = torchrun(tmp_path / "two", "attention=none", "train.batch=3")
    assert code != 0
    assert output.count("error: train.batch=3 cannot be divided over 2 processes") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RaisesOnRank0", "RaisesOnRank1"])
def test_a_process_that_fails_ends_the_cell_with_an_error(tmp_path, kind):
    family = f"attention._target_=helpers.failing_processes.{kind}"
    code, output = torchrun(tmp_path, "attention=vanilla", family)
    assert code != 0
    assert "RuntimeError: broken on purpose" in output
    [record] = cells(tmp_path).values()
    assert record.status == "error"
    assert ("another process" in record.reason) == (kind == "RaisesOnRank1")


@pytest.mark.slow
def test_a_cell_whose_process_was_killed_resumes_from_its_checkpoint(tmp_path, monkeypatch):
    cell = ["attention=vanilla", "attention._target_=helpers.failing_processes.KilledOnRank1"]
    cell += ["train.checkpoint_seconds=0"]
    code, output = torchrun(tmp_path / "killed", *cell)
    assert code != 0, output
    assert not cells(tmp_path / "killed")
    monkeypatch.setenv("NO_KILL", "1")
    code, output = torchrun(tmp_path / "killed", *cell)
    assert code == 0, output
    assert "continues at step 4 of 6" in output
    code, output = torchrun(tmp_path / "undisturbed", *cell)
    assert code == 0, output
    [resumed], [undisturbed] = (cells(tmp_path / name).values() for name in ("killed", "undisturbed"))
    assert resumed.result["metrics"] == undisturbed.result["metrics"]
    assert without_time(resumed.result["curve"]) == without_time(undisturbed.result["curve"])
