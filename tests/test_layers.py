"""Imports go one way: cab -> tasks -> attentions, and within cab from commands and reports down to the store."""

import ast
from pathlib import Path

import pytest

from cab import ROOT

BELOW = {
    "attentions": set(),
    "tasks": {"attentions"},
    "cab/store": {"attentions", "tasks", "cab.ROOT", "cab.config", "cab.errors", "cab.machine"},
    "cab/check": {"attentions", "tasks", "cab.config", "cab.errors", "cab.store"},
    "cab/quality": {"attentions", "tasks", "cab.config", "cab.errors", "cab.machine", "cab.store", "cab.check"},
    "cab/efficiency": {
        *("attentions", "tasks", "cab.config", "cab.errors", "cab.machine", "cab.sizes", "cab.store", "cab.check")
    },
    "cab/report": {
        *("attentions", "tasks", "cab.ROOT", "cab.config", "cab.errors", "cab.store.record"),
        *("cab.sizes", "cab.tuning"),
        *("cab.check.battery", "cab.efficiency.efficiency_length", "cab.quality.tracker"),
    },
}
"""What of the project each folder may import beside itself. Its `__main__` is a command, and may import everything."""


def imported(path: Path) -> set[str]:
    """The names of the project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("attentions", "tasks", "cab", "dev")}


@pytest.mark.parametrize("folder", BELOW)
def test_imports_go_one_way(folder):
    own = folder.replace("/", ".")
    paths = [path for path in sorted((ROOT / folder).rglob("*.py")) if path.name != "__main__.py"]
    assert paths
    for path in paths:
        for name in imported(path):
            allowed = any(f"{name}.".startswith(f"{package}.") for package in {own} | BELOW[folder])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_every_folder_of_cab_has_its_place():
    assert {f"cab/{path.parent.name}" for path in (ROOT / "cab").glob("*/__init__.py")} == {
        folder for folder in BELOW if folder.startswith("cab/")
    }
