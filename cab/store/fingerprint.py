"""Which code decides an answer: hashes of source files and of everything that they import.

Imports are followed into the project and into the user's own code: what is neither Python's nor installed. Of a
family's own package every module counts, also one that no import statement names and one that is compiled.
"""

import ast
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec, resolve_name
from pathlib import Path

PROJECT = ("attentions", "cab", "tasks")
INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages."""
NEVER_OWN = sys.stdlib_module_names | {"torch", "triton", "numpy"}
"""Top-level modules that are nobody's own, also where they are built from source."""


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
    for item in objects:
        bases = {base.__module__ for base in getattr(item, "__mro__", (item,)) if base is not object}
        waiting |= bases
        packages |= {top for name in (item.__module__, *filter(_is_own, bases)) if not _in_project(top := _top(name))}
    places = {name: path for package in packages for name, path in _modules(package).items()}
    found: dict[str, bytes] = {}
    waiting |= places.keys()
    while waiting:
        name = waiting.pop()
        path = places.get(name) or _file(name)
        if name in found or path is None:
            continue
        found[name] = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imports(found[name], package) if path.suffix == ".py" else ():
            if _in_project(imported) or _top(imported) in packages or _is_own(imported):
                waiting |= _with_parents(imported)
    return found


def _modules(package: str) -> dict[str, Path]:
    """Every module of a package, by name, whether it is imported or not; empty if it is a single file."""
    found = {}
    for location in _locations(package):
        for folder, folders, names in os.walk(location):
            folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
            parents = (package, *Path(folder).relative_to(location).parts)
            for path in (Path(folder, name) for name in names):
                stem, _, ending = path.name.partition(".")
                if ending == "py" and path.is_file():
                    found[".".join(parents if stem == "__init__" else (*parents, stem))] = path
                elif f".{ending}" in EXTENSION_SUFFIXES and path.is_file():
                    found[".".join((*parents, path.name))] = path
    return found


def _is_own(name: str) -> bool:
    """Whether a module is neither of the project nor Python's nor installed."""
    top = _top(name)
    return not (_in_project(top) or top in NEVER_OWN) and any(
        not set(path.parts) & set(INSTALLED) for path in (*_locations(top), *filter(None, [_file(top)]))
    )


def _locations(top: str) -> list[Path]:
    """The folders of a top-level package; none if it is a single file, or no module at all."""
    module = sys.modules.get(top)
    try:
        paths: Iterable[str] | None = (
            getattr(module, "__path__", None) if module else getattr(find_spec(top), "submodule_search_locations", None)
        )
    except (ImportError, ValueError):
        paths = None
    return [Path(path) for path in paths or ()]


def _hash(sources: dict[str, bytes]) -> str:
    content = hashlib.sha256()
    for name, source in sorted(sources.items()):
        content.update(f"{name}\0{len(source)}\0".encode() + source)
    return content.hexdigest()[:16]


def _in_project(name: str) -> bool:
    return _top(name) in PROJECT


def _top(name: str) -> str:
    return name.partition(".")[0]


def _with_parents(name: str) -> set[str]:
    """The module and its packages, which Python runs first."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


@cache
def _imports(source: bytes, package: str) -> frozenset[str]:
    """What a file of this package imports, anywhere in it: modules, and names that may be modules. Nothing if it is no
    Python, which a file of a package may be that nobody imports."""
    found = set()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # beyond the package
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
