"""Imports go one way: cab -> tasks -> attentions, and within cab from pages down to records."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "attentions": set(),
    "tasks": {"attentions"},
    "cab/measuring": {"attentions", "cab.errors", "cab.failure", "cab.machine"},
    "cab/board": {"cab.measuring", "cab.record"},
    "cab/figures": {"tasks", "cab.measuring", "cab.board", "cab.record"},
    "cab/checks": {"attentions", "tasks", "cab.figures", "cab.record"},
    "cab/analyses": {"cab.board", "cab.figures", "cab.record"},
    "cab/page": {"cab.board", "cab.analyses", "cab.record"},
}
"""What of the project each folder may import beside itself."""


def imported(path: Path) -> set[str]:
    """The project's modules that a file imports, anywhere in it, and each of its packages: cab, cab.board, ..."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("attentions", "tasks", "cab")}


@pytest.mark.parametrize("folder", BELOW)
def test_imports_go_one_way(folder):
    own = folder.replace("/", ".")
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        for name in imported(path):
            allowed = any(f"{name}.".startswith(f"{package}.") for package in {own} | BELOW[folder])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_every_folder_of_cab_has_its_place():
    assert {f"cab/{path.parent.name}" for path in (ROOT / "cab").glob("*/__init__.py")} == {
        folder for folder in BELOW if folder.startswith("cab/")
    }
