"""Where a number comes from: command, code, versions, machine."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cab import ROOT
from cab.config import is_built_in
from cab.machine import device_name
from cab.store.fingerprint import own_fingerprint

LIBRARIES = ("torch", "numpy", "lightning-fabric", "hydra-core", "datasets", "tokenizers")


class Clock:
    """The wall time of a cell, from when it is made."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def provenance(
    module: str, overrides: Sequence[str], device: torch.device, clock: Clock, classes: Sequence[type]
) -> dict[str, Any]:
    """The `provenance` of a record that is written now, of a cell with these classes as family and task."""
    return {
        "command": command(module, overrides),
        "git": git(ROOT),
        "own_code": [own_code(kind) for kind in classes if not is_built_in(kind.__module__)],
        "versions": versions(),
        "device": {
            "type": device.type,
            "name": device_name(device),
            "threads": torch.get_num_threads(),
            "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
            "system": platform.platform(),
        },
        "started": clock.started,
        "seconds": round(clock.seconds, 3),
    }


def command(module: str, overrides: Sequence[str]) -> str:
    """The command line that makes this record again."""
    return shlex.join(["python", "-m", module, *overrides])


@cache
def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def own_code(kind: type) -> dict[str, Any]:
    """Where a class outside of the checkout is from: its file, a hash of its source (see cab.store.fingerprint), and
    the revision of the repository that it is in, if there is one."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    found = {"class": f"{kind.__module__}.{kind.__qualname__}", "file": file, "source": own_fingerprint(kind)}
    return found | (git(Path(file).absolute().parent) if file else {})


@cache
def git(folder: Path) -> dict[str, Any]:
    """Revision of the repository of a folder, and whether files differ from it; empty without git."""

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"revision": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError) as error:
        if folder == ROOT:
            print(f"warning: git fails in this checkout ({error}); the record has no revision", file=sys.stderr)
        return {}
