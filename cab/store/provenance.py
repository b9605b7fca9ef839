"""Where a number comes from: command, code, versions, machine."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from cab import ROOT
from cab.machine import device_name

LIBRARIES = ("torch", "numpy", "lightning-fabric", "hydra-core", "datasets", "tokenizers")


def provenance(
    module: str, overrides: Sequence[str], device: torch.device, started: str, seconds: float
) -> dict[str, Any]:
    """The record's `provenance`. `started` is an ISO time, `seconds` the wall time of the cell."""
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
        "started": started,
        "seconds": round(seconds, 3),
    }


def command(module: str, overrides: Sequence[str]) -> str:
    """What to type to get this record again."""
    return shlex.join(["python", "-m", module, *overrides])


@cache
def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


@cache
def git() -> dict[str, Any]:
    """Revision of the checkout and whether files differ from it; empty where there is no git."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError) as error:
        print(f"warning: git says nothing about this checkout ({error}); the record has no revision", file=sys.stderr)
        return {}
