"""Which code decides an answer: a fingerprint of modules and of everything of the project that they import."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PROJECT = ("attentions", "cab", "tasks")


def fingerprint(*objects: object) -> str:
    """A hash of the files that define these classes or functions and of the project's modules they import.

    A class counts with its bases. A change elsewhere in the project does not change the fingerprint.
    """
    waiting = {name for item in objects for name in _modules_of(item)}
    seen: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        if name in seen or (path := _file(name)) is None:
            continue
        seen[name] = path.read_bytes()
        waiting |= _imports(seen[name])
    content = hashlib.sha256()
    for name in sorted(seen):
        content.update(f"{name}\0{len(seen[name])}\0".encode() + seen[name])
    return content.hexdigest()[:16]


def _modules_of(item: object) -> Iterator[str]:
    yield from (part.__module__ for part in getattr(item, "__mro__", (item,)))


@cache
def _imports(source: bytes) -> frozenset[str]:
    """The project's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PROJECT:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}  # `from cab import record`
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in PROJECT}
    return frozenset(found)


def _file(name: str) -> Path | None:
    """The file of a module; None for what is not a module or has no source."""
    module = sys.modules.get(name)
    if module is not None:
        path = getattr(module, "__file__", None)
    else:
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):  # the name of a function or class
            return None
        path = spec.origin if spec else None
    return Path(path) if path and path.endswith(".py") else None
