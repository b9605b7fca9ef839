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
from typing import Any

import torch

from cab import ROOT
from cab.machine import device_name

LIBRARIES = ("torch", "numpy", "lightning-fabric", "hydra-core", "datasets", "tokenizers")


class Clock:
    """The wall time of a cell, from when it is made."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def provenance(module: str, overrides: Sequence[str], device: torch.device, clock: Clock) -> dict[str, Any]:
    """The `provenance` of a record that is written now."""
    return {
        "command": command(module, overrides),
        "git": git(),
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


@cache
def git() -> dict[str, Any]:
    """Revision of the checkout, and whether files differ from it; empty without git."""

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"revision": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError) as error:
        print(f"warning: git fails in this checkout ({error}); the record has no revision", file=sys.stderr)
        return {}
