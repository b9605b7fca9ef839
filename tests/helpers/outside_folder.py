"""A user's own family in a folder outside of the checkout: the example of docs/extending.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from cab import ROOT

TINY = ["model.dim=16", "model.heads=2", "model.depth=1", "model.hidden=32", "model.length=32", "train.steps=2"]
TINY += ["train.batch=2", "train.warmup=1", "train.validations=1", "task.validation_windows=2", "task.test_windows=2"]
TINY += [
    "efficiency.lengths=[16]",
    "efficiency.rounds=3",
    "measure=false",
    "wandb.mode=disabled",
    "device.threads=1",
    "task=lm",
]
SECTION = (ROOT / "docs" / "extending.md").read_text().partition("## Add an attention")[2].partition("\n## ")[0]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)


def write_example(folder: Path) -> Path:
    """The two files as the document names them."""
    python, yaml = re.findall(r"^`(\S+)`, ", SECTION, re.MULTILINE)
    (folder / yaml).parent.mkdir(parents=True)
    for name, kind in ((python, "python"), (yaml, "yaml")):
        [content] = blocks(kind)
        (folder / name).write_text(content)
    return folder


def call(folder: Path, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m ...` in the folder."""
    python, *arguments = shlex.split(command)
    assert python == "python"
    return subprocess.run(
        [sys.executable, *arguments, *more],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
