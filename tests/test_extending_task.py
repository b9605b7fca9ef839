"""The task of the documentation, in a folder of its own, taken from the page and run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cab import ROOT
from cab.compose import compose_one

PAGE = (ROOT / "docs" / "extending.md").read_text().partition("## Add a task")[2]
FEW_STEPS = ["train.steps=3", "train.warmup=1", "train.validations=1", "measure=false", "wandb.mode=disabled"]
FILE = re.compile(r"`(my_\w+/[\w/.]+)`\n\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The user's folder: every file of the page."""
    root = tmp_path_factory.mktemp("user")
    for name, content in FILE.findall(PAGE):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The command of the page, with further overrides."""
    (command,) = re.findall(r"python -m (cab\.run --config-dir my_conf .*task=copying)", PAGE)
    arguments = [sys.executable, "-m", *command.split(), *FEW_STEPS, *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_task_runs(folder: Path) -> None:
    assert len(FILE.findall(PAGE)) == 3
    done = run(folder, "results=results", "attention=vanilla")
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "results" / "runs" / "quality").glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok"
    assert record["cell"]["task"] == "copying"
    assert record["result"]["headline"] == "accuracy"
    assert set(record["result"]["metrics"]) == set(record["result"]["predictors"][0]["metrics"]) == {"accuracy", "loss"}
    assert not record["result"]["data"]["real"]


def test_a_wrong_option_is_one_line(folder: Path) -> None:
    done = run(folder, "results=results", "task.symbols=1")
    assert done.returncode == 2
    assert done.stderr == "error: task.symbols=1: Input should be greater than or equal to 2\n"


def test_a_changed_file_of_a_task_is_a_new_cell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ["--config-dir=my_conf", "task=copying"]
    before = compose_one(arguments).resolved
    source = next(folder / name for name, content in FILE.findall(PAGE) if "options: " in content)
    source.write_text(source.read_text() + "# changed\n")
    after = compose_one(arguments).resolved
    assert [key for key in before["task"] if before["task"][key] != after["task"][key]] == ["_source_"]
    assert before["attention"] == after["attention"]
    assert "_source_" not in compose_one(["task=lm"]).resolved["task"]
