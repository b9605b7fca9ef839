"""Which weights are tested, and when a training ends early: by validation alone, and the same after a resume."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from lightning_fabric import Fabric
from test_run import TINY, cab, records  # noqa: F401
from test_train import CONTEXT, EVERY_STEP, Echo, Killed, Net, settings, without_time

from cab.config import Training
from cab.quality.selection import Selection
from cab.quality.train import Trained, train
from cab.store.checkpoint import Checkpoint
from tasks.base import Evaluation, Metric, Options


class Scripted(Echo):
    """Validations have these values, one after the other; a test would say the opposite."""

    def __init__(self, *values: float, better: str = "lower") -> None:
        super().__init__(CONTEXT, Options())
        self.values = list(values)
        self.metrics = (Metric("loss", better),)

    def evaluate(self, model, split, move):
        value = self.values.pop(0)
        return Evaluation({"loss": value if split == "validation" else -value})


class Noisy(Echo):
    """One row a batch, so that with a high rate the validation goes up and down; `killed` raises in a validation."""

    killed = -1

    def __init__(self) -> None:
        super().__init__(CONTEXT, Options())

    def evaluate(self, model, split, move):
        self.killed -= 1
        if self.killed == 0:
            raise Killed
        return super().evaluate(model, split, move)


def run(task: Echo, training: Training, path=None) -> tuple[Trained, dict, list[dict]]:
    """What was trained, the weights at its end, and those at every validation."""
    torch.manual_seed(0)
    model, seen = Net(), []
    fabric = Fabric(accelerator="cpu", devices=1)

    def log(point):
        if "validation" in point:
            seen.append(copy.deepcopy(model.state_dict()))

    checkpoint = Checkpoint(path or CONTEXT.cache / "nowhere", "this code")
    trained = train(fabric.setup_module(model), task, training, fabric, checkpoint, log)
    return trained, model.state_dict(), seen


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("better", "values", "best"),
    [
        ("lower", [3.0, 1.0, 2.0, 4.0], 1),
        ("higher", [3.0, 1.0, 5.0, 4.0], 2),
        ("lower", [2.0, 1.0, 1.0, 1.0], 1),  # the earliest of several
        ("lower", [math.nan, 4.0, math.nan, 5.0], 1),
        ("higher", [1.0, 2.0, 3.0, 4.0], 3),
    ],
)
def test_the_weights_of_the_best_validation_are_tested(better, values, best):
    training = settings(steps=20, validations=4, select="best")
    trained, weights, seen = run(Scripted(*values, better=better), training)
    assert (trained.selected_step, trained.validation) == (5 * (best + 1), values[best])
    assert (trained.steps, trained.stopped_early) == (20, False)
    assert equal(weights, seen[best])
    assert not any(equal(one, other) for one, other in pairwise(seen))


def test_with_last_the_weights_of_the_last_step_are_tested():
    trained, weights, seen = run(Scripted(3.0, 1.0, 2.0, 4.0), settings(steps=20, validations=4))
    assert (trained.selected_step, trained.validation) == (20, 4.0)
    assert equal(weights, seen[-1])


@pytest.mark.parametrize(
    ("better", "values", "stop_at", "steps"),
    [
        ("lower", [3.0, 1.0, 2.0, 4.0], 1.0, 10),
        ("lower", [3.0, 1.0, 2.0, 4.0], 1.5, 10),
        ("higher", [0.2, 0.98, 0.995, 1.0], 0.99, 15),
        ("higher", [0.2, 0.3, 0.4, 0.995], 0.99, 20),
        ("higher", [0.2, 0.3, 0.4, 0.5], 0.99, 20),
        ("lower", [math.nan] * 4, 1.0, 20),
    ],
)
def test_a_training_ends_where_validation_is_good_enough(better, values, stop_at, steps):
    whole, _, _ = run(Scripted(*values, better=better), settings(steps=20, validations=4))
    trained, weights, seen = run(Scripted(*values, better=better), settings(steps=20, validations=4, stop_at=stop_at))
    assert (trained.steps, trained.stopped_early, trained.selected_step) == (steps, steps < 20, steps)
    assert [p["learning_rate"] for p in trained.curve] == [p["learning_rate"] for p in whole.curve][:steps]
    assert trained.curve[-1]["step"] == steps
    assert equal(weights, seen[-1])
    assert trained.validation == pytest.approx(values[steps // 5 - 1], nan_ok=True)


def test_a_training_that_is_killed_selects_what_an_undisturbed_one_selects(tmp_path, capsys):
    training = settings(steps=40, validations=20, select="best", lr=0.3, **EVERY_STEP)
    expected, weights, _ = run(Noisy(), training, tmp_path / "undisturbed.pt")
    assert expected.selected_step not in (None, 2, 40)
    for kill_at in (expected.selected_step // 2, expected.selected_step // 2 + 1, 20):  # at, just after, at the end
        task = Noisy()
        task.killed = kill_at
        path = tmp_path / f"{kill_at}.pt"
        with pytest.raises(Killed):
            run(task, training, path)
        capsys.readouterr()
        resumed, again, _ = run(Noisy(), training, path)
        assert f"continues at step {2 * kill_at - 1} of 40" in capsys.readouterr().out
        assert equal(again, weights)
        assert without_time(resumed.curve) == without_time(expected.curve)
        assert (resumed.selected_step, resumed.validation) == (expected.selected_step, expected.validation)


def test_a_training_that_is_killed_after_it_stopped_stops_there_again(tmp_path):
    training = settings(steps=20, validations=4, stop_at=1.5, **EVERY_STEP)
    expected, weights, _ = run(Scripted(3.0, 1.0), training, tmp_path / "c.pt")
    again, same, _ = run(Scripted(1.0), training, tmp_path / "c.pt")
    assert (again.steps, again.stopped_early) == (expected.steps, True) == (10, True)
    assert without_time(again.curve) == without_time(expected.curve)
    assert equal(weights, same)


def test_a_checkpoint_has_the_selected_weights(tmp_path):
    training = settings(steps=20, validations=4, select="best", **EVERY_STEP)
    _, weights, _ = run(Scripted(1.0, 2.0, 3.0, 4.0), training, tmp_path / "c.pt")
    saved = Checkpoint(tmp_path / "c.pt", "this code").load()
    assert saved["step"] == 19
    assert not equal(saved["model"], weights)
    restored = Selection(training, Metric("loss", "lower"))
    restored.load_state_dict(saved["selection"])
    model = Net()
    restored.load_into(model)
    assert equal(model.state_dict(), weights)


def test_validations_identify_a_cell_only_where_they_decide_its_result():
    for more in ({}, {"tuned_over": [1e-3, 2e-3]}):
        assert settings(validations=9, **more).identity() == settings(**more).identity()
    for more in ({"select": "best"}, {"stop_at": 0.99}):
        assert settings(validations=9, **more).identity() != settings(**more).identity()
        assert settings(**more).identity() != settings().identity()
    assert settings(tuned_over=[1e-3, 2e-3]).identity() != settings().identity()


CELL = [o for o in TINY if not o.startswith(("train.", "task.test"))]
CELL += ["attention=vanilla", "measure=false", "train.steps=24", "train.batch=2", "train.warmup=2", "train.lr=0.05"]
CELL += ["train.validations=12", "task.test_windows=8"]


def test_the_record_is_of_the_selected_weights(cab):  # noqa: F811
    """A training that ends at the best validation tests the weights that select=best tests."""

    def result(*overrides):
        before = {record.hash for record in records(cab.results, "quality")}
        code, out, err = cab(*overrides, tiny=CELL)
        assert (code, err) == (0, "")
        [record] = [record for record in records(cab.results, "quality") if record.hash not in before]
        return record.result, out

    last, _ = result()
    best, out = result("train.select=best")
    curve = {point["step"]: point["validation"]["bits_per_byte"] for point in best["curve"] if "validation" in point}
    step = min(curve, key=curve.get)
    assert step not in (2, 24), curve
    facts = best["training"]
    assert (facts["selected_step"], facts["validation"], facts["steps"]) == (step, curve[step], 24)
    assert (last["training"]["selected_step"], last["training"]["validation"]) == (24, curve[24])
    assert best["metrics"] != last["metrics"]
    assert f"tested at step {step}, " in out
    stopped, out = result(f"train.stop_at={curve[step]}")
    assert stopped["metrics"] == best["metrics"]
    facts = stopped["training"]
    assert (facts["steps"], facts["stopped_early"], facts["selected_step"]) == (step, True, step)
    assert facts["examples_per_second"] == pytest.approx(step * 2 / facts["seconds"])
    assert stopped["curve"][-1]["step"] == step
    assert f"step {step} of 24" in out
    assert f"{step} steps in" in out
