"""Every task, pattern, size and family composes and builds, or says why not; and at a tiny size all of it runs."""

from pathlib import Path

import pytest
import torch

from attentions.base import Pattern, Unsupported, core_parameters
from attentions.slots import Slots
from cab import ROOT, run
from cab.compose import built_in_families, compose_requests
from cab.quality.cell import EXCESS_LIMIT
from cab.store.record import all_records

TASKS = {
    "forecasting": (Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS),
    "lm": (Pattern.CAUSAL_SELF,),
    "mlm": (Pattern.NONCAUSAL_SELF,),
    "point_cloud": (Pattern.NONCAUSAL_SELF, Pattern.NONCAUSAL_CROSS),
    "recall": tuple(Pattern),
    "summarization": (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS),
    "super_resolution": (Pattern.NONCAUSAL_SELF,),
    "tts": (Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS),
    "tts_fastspeech2": (Pattern.NONCAUSAL_SELF,),
}
CELLS = [(task, pattern) for task, patterns in TASKS.items() for pattern in patterns]
RECIPES = [path.stem.rsplit("_", 1) for path in sorted((ROOT / "conf" / "recipe").glob("*.yaml"))]
NO_FEEDFORWARD = {"super_resolution"}
"""Nothing can be solved for there: a family may add what CAB allows, and `none` has less."""
REFUSED = {
    "the slot is a single layer, the family is a whole stack",
    "a whole stack in decoder.self also takes decoder.cross",
    "Local has no noncausal_cross (it has noncausal_self, causal_self)",
    "Local has no causal_cross (it has noncausal_self, causal_self)",
}
"""The reasons that there may be, after the name of the slot."""
TINY = ["model.dim=16", "model.heads=2", "model.depth=2", "model.hidden=64", "train.steps=3", "train.batch=2"]
TINY += ["train.warmup=1", "train.validations=1", "measure=false", "wandb.mode=disabled", "device.threads=1"]
TINY_TASK = {
    "forecasting": ["model.length=128", "task.horizon=6", "task.label=4", "task.test_windows=3"],
    "lm": ["model.length=64", "task.test_windows=2", "task.validation_windows=2"],
    "mlm": ["model.length=64", "task.test_windows=2", "task.validation_windows=2"],
    "point_cloud": ["model.length=64", "model.memory=64", "task.points=64", "task.truth=64", "task.test_clouds=3"],
    "recall": ["task.test_examples=8", "task.validation_examples=8"],
    "summarization": ["model.length=64", "model.memory=64", "task.test_documents=3", "task.validation_documents=2"],
    "super_resolution": [
        "model.hidden=0",
        "model.length=256",
        "task.multipliers=[1,2]",
        "task.attention_sizes=[16,8]",
        "task.test_images=3",
        "task.validation_images=2",
    ],
    "tts": [
        "model.length=64",
        "model.memory=64",
        "task.prenet=8",
        "task.postnet=8",
        "task.test_clips=2",
        "task.validation_clips=2",
    ],
    "tts_fastspeech2": ["model.length=384", "model.memory=64", "task.test_clips=2", "task.validation_clips=2"],
}


def test_all_tasks_are_here():
    assert sorted(TASKS) == sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml"))
    for task in TASKS:
        sizes = {size for name, size in RECIPES if name == task}
        assert sizes == {"smoke", "small", "base"} if task == "recall" else {"smoke", "base", "paper"}


@pytest.mark.parametrize(("task", "size"), RECIPES)
def test_every_cell_builds_or_says_why_not(task, size, tmp_path):
    families = ",".join(built_in_families())
    for pattern in TASKS[task]:
        overrides = [f"attention={families}", f"pattern={pattern}", f"task={task}", f"size={size}"]
        built, refused = {}, {}
        for request in compose_requests([*overrides, f"results={tmp_path}"]):
            maker = request.build_task()
            if task == "forecasting":
                maker.prepare()  # the series says how many channels there are; it is generated
            slots = Slots(request.family, request.pattern)
            try:
                with torch.device("meta"):
                    model = maker.build(slots)
            except Unsupported as error:
                refused[request.attention] = str(error)
                continue
            assert slots.took, f"{request.attention} was put nowhere"
            assert slots.excess == 0 or task in NO_FEEDFORWARD
            built[request.attention] = core_parameters(model)
        assert {"vanilla", "eager", "none", "lightning", "routing", "ssa"} <= built.keys()
        assert ("local" in built) != pattern.cross
        assert {reason.split(": ", 1)[-1] for reason in refused.values()} <= REFUSED
        for name, parameters in built.items():
            excess = parameters / built["vanilla"] - 1
            fair = excess <= EXCESS_LIMIT if task in NO_FEEDFORWARD else abs(excess) < 0.01
            assert fair, f"{name}: {parameters} parameters"


@pytest.mark.slow
@pytest.mark.parametrize(("task", "pattern"), CELLS)
def test_every_cell_runs(task, pattern, tmp_path, monkeypatch):
    families = built_in_families()
    arguments = [f"task={task}", f"pattern={pattern}", f"results={tmp_path}", *TINY, *TINY_TASK[task]]
    monkeypatch.chdir(tmp_path)
    assert run.main(["-m", f"attention={','.join(families)}", *arguments]) == 0
    found = {record.cell["attention"]: record for _, record in all_records(Path(tmp_path))}
    assert sorted(found) == sorted(families)
    for record in found.values():
        assert record.status in ("ok", "unsupported"), record.reason
        if record.status == "unsupported":
            assert record.reason.split(": ", 1)[-1] in REFUSED
        else:
            headline = record.result["headline"]
            assert all(headline in each["metrics"] for each in record.result["predictors"])
            assert record.result["predictors"]
