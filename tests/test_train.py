"""The training loop on a task of a few lines: exact resume, exact accumulation, divergence, damaged checkpoints."""

import hashlib
import io
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from attentions.base import Attention, Pattern, Shape
from attentions.vanilla import Vanilla
from cab.config import Training
from cab.quality.state import make_optimizer
from cab.quality.train import evaluate, train
from cab.store import checkpoint
from cab.store.checkpoint import Checkpoint
from tasks.base import Data, Evaluation, Metric, Options, Predictor, Source, Task, TaskContext

CONTEXT = TaskContext(Pattern.CAUSAL_SELF, Shape(8, 2, 1, 0, 6), Data(), 0, Path())


class Counting(Vanilla):
    steps = 0

    def after_step(self) -> None:
        self.steps += 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = Counting(Shape(8, 2, 1, 0, 6), Pattern.CAUSAL_SELF, 0, 1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        y, auxiliary = self.attention(x)
        return self.head(self.dropout(x + y)), auxiliary


class Echo(Task):
    """Repeat the token before. Rows differ in their number of targets, so that means over micro-batches matter."""

    name = "echo"
    patterns = (Pattern.CAUSAL_SELF,)
    metrics = (Metric("loss", "lower"),)

    def prepare(self):
        return Source("numbers", False, "0")

    def build(self, slots):
        return Net()

    def examples(self, split):
        return 4

    def batch(self, split, ids):
        generators = [torch.Generator().manual_seed(hash((self.seed, split == "train", i)) % 2**31) for i in ids]
        tokens = torch.stack([torch.randint(0, 11, (7,), generator=g) for g in generators])
        labels = tokens[:, :-1].clone()
        for row, i in enumerate(ids):
            labels[row, 1 + i % 5 :] = -100
        return {"tokens": tokens[:, 1:], "labels": labels}

    def targets(self, batch):
        return int((batch["labels"] >= 0).sum())

    def loss(self, model, batch):
        logits, auxiliary = model(batch["tokens"])
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum"), auxiliary

    def evaluate(self, model, split, move):
        assert not model.training
        assert not torch.is_grad_enabled()
        losses = [self.loss(model, batch)[0] / self.targets(batch) for batch in self.batches(split, 2, move)]
        return Evaluation({"loss": torch.stack(losses).mean().item()})

    def predictors(self):
        return [Predictor("nothing", {"loss": 1.0})]


class Killed(Exception):
    pass


class KilledAtStep(Echo):
    """Raises at a step, before that step changes anything."""

    def __init__(self, step: int, batch: int = 4) -> None:
        super().__init__(CONTEXT, Options())
        self.first_example = step * batch

    def batch(self, split, ids):
        if split == "train" and ids[0] >= self.first_example:
            raise Killed
        return super().batch(split, ids)


EVERY_STEP = {"checkpoint_seconds": 0.0}


def settings(**changes) -> Training:
    plain = {"steps": 60, "batch": 4, "lr": 1e-2, "warmup": 3, "weight_decay": 0.1, "betas": [0.9, 0.95], "clip": 1.0}
    return Training(**(plain | {"final_lr": 0.1, "validations": 3} | changes))


def task() -> Echo:
    return Echo(CONTEXT, Options())


def run(path: Path, training: Training, log=lambda point: None, origin="this code", killed_at=None):
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    model = Net()
    wrapped = fabric.setup_module(model)
    echo = task() if killed_at is None else KilledAtStep(killed_at)
    return train(wrapped, echo, training, fabric, Checkpoint(path, origin), log), model


def without_time(curve):
    return [{key: value for key, value in point.items() if key != "seconds"} for point in curve]


@pytest.mark.parametrize("kill_at", [1, 20, 33, 59])
def test_an_interrupted_training_gives_the_same_numbers_bit_for_bit(tmp_path, kill_at):
    expected, model = run(tmp_path / "undisturbed.pt", settings())

    def kill(point):
        if point["step"] == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed.pt", settings(**EVERY_STEP), kill)
    logged = []
    resumed, other = run(tmp_path / "killed.pt", settings(), lambda point: logged.append(point["step"]))
    assert logged == [point["step"] for point in expected.curve]  # first those from before
    assert without_time(resumed.curve) == without_time(expected.curve)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert expected.curve[-1]["loss"] < expected.curve[0]["loss"]


def test_a_checkpoint_between_two_points_keeps_the_losses_since_the_last_one(tmp_path):
    training = settings(steps=150)  # a point in 3 steps
    expected, _ = run(tmp_path / "undisturbed.pt", training)
    with pytest.raises(Killed):
        run(tmp_path / "killed.pt", settings(steps=150, **EVERY_STEP), killed_at=38)
    assert Checkpoint(tmp_path / "killed.pt", "this code").load()["step"] == 38
    assert 38 not in [point["step"] for point in expected.curve]
    resumed, _ = run(tmp_path / "killed.pt", training)
    assert without_time(resumed.curve) == without_time(expected.curve)


def test_checkpoints_are_saved_after_so_many_seconds_and_not_after_the_last_step(tmp_path):
    run(tmp_path / "seldom.pt", settings(checkpoint_seconds=1000.0))
    assert not (tmp_path / "seldom.pt").exists()
    run(tmp_path / "often.pt", settings(**EVERY_STEP))
    assert Checkpoint(tmp_path / "often.pt", "this code").load()["step"] == 59


def test_a_damaged_checkpoint_is_named_set_aside_and_training_starts_anew(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    expected, _ = run(path, settings(**EVERY_STEP))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again, _ = run(path, settings())
    assert without_time(again.curve) == without_time(expected.curve)
    assert f"{path}: damaged" in capsys.readouterr().out
    assert path.with_name("checkpoint.pt.damaged-1").read_bytes() == content


def test_a_checkpoint_of_other_code_or_data_is_not_continued(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    expected, _ = run(path, settings(**EVERY_STEP), origin="before")
    again, _ = run(path, settings(**EVERY_STEP), origin="after")
    assert without_time(again.curve) == without_time(expected.curve)
    assert "starts from step 0" in capsys.readouterr().out
    run(path, settings(), origin="after")
    assert "continues at step" in capsys.readouterr().out


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    def curve(micro_batch):
        training = settings(steps=10, micro_batch=micro_batch)
        torch.manual_seed(0)
        fabric, model = Fabric(accelerator="cpu", devices=1), Net()
        model.dropout.p = 0.0
        checkpoint = Checkpoint(tmp_path / "none.pt", "")
        return train(fabric.setup_module(model), task(), training, fabric, checkpoint, lambda point: None).curve

    for cut in (1, 2):
        for one, other in zip(curve(None), curve(cut), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_ends_as_diverged(tmp_path):
    trained, _ = run(tmp_path / "c.pt", settings(lr=1e30, clip=1e30))
    assert trained.status == "diverged"
    assert "at step" in trained.reason


def test_statistics_move_once_per_optimiser_step(tmp_path):
    _, model = run(tmp_path / "c.pt", settings(steps=12, micro_batch=1))
    assert model.attention.steps == 12


def test_warm_up_and_decay(tmp_path):
    rates = []
    run(tmp_path / "c.pt", settings(), lambda point: rates.append(point["learning_rate"]))
    assert max(rates) == pytest.approx(1e-2, rel=0.01)
    assert rates[0] < 0.6e-2
    assert rates[-1] == pytest.approx(1e-3, rel=0.01)


def test_settings_that_do_not_change_the_result_are_not_in_the_identity():
    assert settings(micro_batch=2, validations=9, checkpoint_seconds=7.0).identity() == settings().identity()
    assert settings(lr=2e-2).identity() != settings().identity()


def test_decay_is_for_matrices_only():
    optimizer, _ = make_optimizer(Net(), settings())
    for group in optimizer.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_evaluation_restores_the_mode():
    model = Net().train()
    evaluate(model, task(), "validation", lambda batch: batch)
    assert model.training
    assert isinstance(model.attention, Attention)


def test_a_checkpoint_round_trip(tmp_path):
    state = {
        "model": {"w": torch.randn(3)},
        "step": 7,
        "curve": [{"loss": 1.0}],
        "random": checkpoint.random_state(torch.device("cpu")),
    }
    Checkpoint(tmp_path / "c.pt", "here").save(state)
    loaded = Checkpoint(tmp_path / "c.pt", "here").load()
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert loaded["curve"] == state["curve"]
    assert Checkpoint(tmp_path / "missing.pt", "here").load() is None


def forged(path, state) -> bytes:
    """A checkpoint with the right digest of whatever bytes or state; returns its content."""
    kept = Checkpoint(path, "this code")
    kept.save({} if isinstance(state, bytes) else state)
    if isinstance(state, bytes):
        header = path.read_bytes()[32:128]
        path.write_bytes(hashlib.sha256(header + state).digest() + header + state)
    return path.read_bytes()


@pytest.mark.parametrize("wrong", ["text", "empty", "no dict", "missing keys", "other shapes", "optimizer", "random"])
def test_a_checkpoint_that_is_no_state_of_this_training_is_set_aside(tmp_path, capsys, wrong):
    path = tmp_path / "checkpoint.pt"
    expected, _ = run(path, settings(**EVERY_STEP))
    state = Checkpoint(path, "this code").load()
    if wrong == "no dict":
        buffer = io.BytesIO()
        torch.save([1, 2], buffer)
        state = buffer.getvalue()
    elif wrong in ("text", "empty"):
        state = b"hello" if wrong == "text" else b""
    elif wrong == "missing keys":
        del state["schedule"]
    elif wrong == "other shapes":
        state["model"] = {name: torch.zeros(1) for name in state["model"]}
    else:
        state[wrong] = {"optimizer": 5, "random": [{"cpu": torch.zeros(3), "cuda": None}]}[wrong]
    content = forged(path, state)
    capsys.readouterr()
    again, _ = run(path, settings())
    assert without_time(again.curve) == without_time(expected.curve)
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(said) == 1
    assert f"{path}: no state of " in said[0]
    assert said[0].endswith("; renamed to checkpoint.pt.damaged-1, training starts from step 0")
    assert path.with_name("checkpoint.pt.damaged-1").read_bytes() == content


@pytest.mark.parametrize("name", ["cut", "nothing"])
def test_a_truncated_checkpoint_is_set_aside(tmp_path, capsys, name):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, "this code").save({"step": 1})
    path.write_bytes(path.read_bytes()[:-7] if name == "cut" else b"")
    assert Checkpoint(path, "this code").load() is None
    assert "; renamed to checkpoint.pt.damaged-1, training starts" in capsys.readouterr().out


def test_a_checkpoint_of_another_cell_is_set_aside(tmp_path, capsys):
    """Copied into its folder, with the same code and data."""
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, "this code", cell="a").save({"step": 1})
    assert Checkpoint(path, "this code", cell="b").load() is None
    assert f"{path}: of another cell; renamed" in capsys.readouterr().out
    assert not path.exists()
