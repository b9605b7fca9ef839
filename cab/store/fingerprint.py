"""Which code decides an answer: hashes of source files and of everything that they import.

Imports are followed into the project and, for code of the user's own, into the same top-level package or, for a single
file, the same folder. Only import statements are followed, and only files that end with .py count.
"""

import ast
import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

PROJECT = ("attentions", "cab", "tasks")
INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages: their files are no neighbours of a single file."""


def fingerprint(*objects: object) -> str:
    """A hash of the files that define these classes or functions, bases included, and of what they import."""
    return _hash(_sources(objects))


def own_fingerprint(kind: object) -> str:
    """A hash of the user's own files behind a family or task: as `fingerprint`, without the files of the project."""
    sources = _sources([kind])
    return _hash({name: source for name, source in sources.items() if not _in_project(name)})


def _sources(objects: Sequence[object]) -> dict[str, bytes]:
    """The name and content of every file that counts."""
    waiting: set[str] = set()
    packages: set[str] = set()
    folders: set[Path] = set()
    for item in objects:
        waiting |= {base.__module__ for base in getattr(item, "__mro__", (item,)) if base is not object}
        module: str = item.__module__
        path = _file(module)
        if "." in module:
            packages.add(module.partition(".")[0])
        elif path is not None and path.parent.name not in INSTALLED:
            folders.add(path.parent)
    found: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or path is None:
            continue
        found[name] = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imports(found[name], package):
            top = imported.partition(".")[0]
            if _in_project(top) or top in packages or any(_is_in(top, folder) for folder in folders):
                waiting |= _with_parents(imported)
    return found


def _hash(sources: dict[str, bytes]) -> str:
    content = hashlib.sha256()
    for name, source in sorted(sources.items()):
        content.update(f"{name}\0{len(source)}\0".encode() + source)
    return content.hexdigest()[:16]


def _in_project(name: str) -> bool:
    return name.partition(".")[0] in PROJECT


def _is_in(top: str, folder: Path) -> bool:
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _with_parents(name: str) -> set[str]:
    """The module and its packages, which Python runs first."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


@cache
def _imports(source: bytes, package: str) -> frozenset[str]:
    """What a file of this package imports, anywhere in it: modules, and names that may be modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
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
