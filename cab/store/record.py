"""Records: one result.json per finished cell, written last and atomically. Every table is built from these files alone.

Layout     <results>/runs/<kind>/<hash>/result.json, kind "quality", "efficiency" or "checks"
Hash       SHA-256 (16 hex digits) of `identity` and `science_version`: what decides the numbers, and nothing else
Digest     SHA-256 of everything else in the file, so that a damaged or edited record is never believed

Fields, schema 1:
  schema, science_version, kind, hash, digest; which names and types each kind has: cab.store.schema
  status           ok | unsupported | failed_check | out_of_memory | diverged | timeout | error
  reason           one line; empty when ok
  cell             what people filter by: attention, pattern, task, size, seed (quality);
                   attention, pattern, level, dim, heads, depth, hidden, conv, qk_norm, rotary, device, precision
                   (efficiency)
                   attention, pattern (checks)
  identity         what the hash is taken of
  config           the whole resolved configuration
  result           quality: metrics, headline, better, predictors, tables, curve, model, training, data
                   efficiency: measurements (see cab.efficiency.plan), gemm_gflops, allocator
                   checks: declared, control, checks (see cab.check.gate)
                   {} where the status is not ok and nothing was measured
  provenance       command, git, own_code, versions, device, started, seconds
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cab.store.schema import misfit
from tasks.data.set_aside import ASIDE, InTheWay, in_the_way, make_way, read_file

SCHEMA = 1
RECORD = "result.json"
SCIENCE_VERSION = 3
"""Raised by hand whenever a change to the code changes what the numbers mean. Tables never mix versions."""

Kind = Literal["quality", "efficiency", "checks"]
Status = Literal["ok", "unsupported", "failed_check", "out_of_memory", "diverged", "timeout", "error"]
FINAL: tuple[Status, ...] = ("ok", "unsupported", "out_of_memory", "diverged")
"""A cell that ended so is done: running it again would give the same. `timeout` and `error` are tried again. So is
`failed_check`: whether a family passes depends on its source, which does not identify a quality or efficiency cell."""


class DamagedRecord(Exception):
    """What is not a complete, unedited record of this schema, or no file at all. The message says why."""


@dataclass(frozen=True)
class Record:
    kind: Kind
    status: Status
    cell: dict[str, Any]
    identity: dict[str, Any]
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    science_version: int = SCIENCE_VERSION

    @property
    def hash(self) -> str:
        return identity_hash(self.identity, self.science_version)

    @property
    def final(self) -> bool:
        """Whether the cell is done. A check always is: the source of the family identifies it."""
        return self.kind == "checks" or self.status in FINAL

    @property
    def digest(self) -> str:
        """That of its file: no two runs of a cell have the same."""
        return _digest(self._content())

    def write(self, results: Path) -> Path:
        """Writes the file atomically and durably; returns its path."""
        content = self._content()
        path = record_path(results, self.kind, self.hash)
        write_atomically(path, json.dumps(content | {"digest": _digest(content)}, indent=1, allow_nan=False).encode())
        return path

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = _plain({f.name: getattr(self, f.name) for f in fields(self)} | {"hash": self.hash})
        return content


def read_record(path: Path) -> Record:
    """The record in a file. Raises DamagedRecord; a missing file is FileNotFoundError."""
    try:
        text = read_file(path)
    except InTheWay as error:
        raise DamagedRecord(str(error)) from None
    try:
        content = json.loads(text)
        digest = content.pop("digest", None) if isinstance(content, dict) else None
        own = _digest(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, NaN, a number of thousands of digits
        raise DamagedRecord(f"not valid JSON ({error})") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise DamagedRecord("not a record")
    if content["schema"] != SCHEMA:
        raise DamagedRecord(f"schema {content['schema']}, this version reads {SCHEMA}")
    if digest != own:
        raise DamagedRecord("content does not match its digest: damaged or edited")
    name = content.pop("hash", None)
    try:
        record = Record(**content)
    except TypeError as error:
        raise DamagedRecord(f"fields do not fit the schema ({error})") from error
    if record.status not in get_args(Status) or record.kind not in get_args(Kind):
        raise DamagedRecord(f"unknown status or kind: {record.status}, {record.kind}")
    if type(record.science_version) is not int or not isinstance(record.reason, str):
        raise DamagedRecord("its science_version or reason is of another type")
    if not isinstance(record.identity, Mapping) or name != record.hash:
        raise DamagedRecord("hash does not match the identity")
    if record.science_version == SCIENCE_VERSION and (reason := misfit(record.kind, record.status, content)):
        raise DamagedRecord(reason)
    return record


Entry = tuple[Path, DamagedRecord]
"""What lies where a folder belongs, and what it is."""


def all_records(results: Path) -> Iterator[tuple[Path, Record | DamagedRecord]]:
    """Every quality and efficiency record in order of path, and as an error what cannot be one. Changes nothing."""
    for kind in _folders(results / "runs"):
        if not isinstance(kind, Path):
            yield kind
        elif kind.name != "checks":
            for folder in _folders(kind):
                yield from _record_in(folder) if isinstance(folder, Path) else [folder]


def _folders(parent: Path) -> Iterator[Path | Entry]:
    """The folders in a folder, and what else is there. Hidden and set aside ones do not count."""
    try:
        names = sorted(os.listdir(parent)) if _is_folder(parent) else []
    except (DamagedRecord, OSError) as error:
        yield parent, _as_damage(error)
        return
    for path in (parent / name for name in names if not name.startswith(".") and ASIDE not in name):
        try:
            if _is_folder(path):
                yield path
        except (DamagedRecord, OSError) as error:
            yield path, _as_damage(error)


def _is_folder(path: Path) -> bool:
    """False if nothing is there; raises DamagedRecord for anything else."""
    if what := in_the_way(path, "folder"):
        raise DamagedRecord(what)
    return path.exists()


def _record_in(folder: Path) -> Iterator[tuple[Path, Record | DamagedRecord]]:
    """The record in a cell's folder, if there is one."""
    path = folder / RECORD
    try:
        record = read_record(path)
        if folder.name != record.hash:
            raise DamagedRecord(f"lies in folder {folder.name}, its hash is {record.hash}: a copy")
        yield path, record
    except FileNotFoundError:
        return
    except (DamagedRecord, OSError) as error:
        yield path, _as_damage(error)


def _as_damage(error: DamagedRecord | OSError) -> DamagedRecord:
    return error if isinstance(error, DamagedRecord) else DamagedRecord(error.strerror or str(error))


def record_path(results: Path, kind: Kind, name: str) -> Path:
    return results / "runs" / kind / name / RECORD


def identity_hash(identity: Mapping[str, Any], science_version: int = SCIENCE_VERSION) -> str:
    content = {"identity": identity, "science_version": science_version}
    return hashlib.sha256(_canonical(_plain(content))).hexdigest()[:16]


def write_atomically(path: Path, content: bytes) -> None:
    """The file has either its old content or all of the new, also after a crash. An OSError names it.

    What is there and no file is set aside.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path, "file")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        error.filename = str(path)
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes the files of a `write_atomically` that was killed. Only for the process that holds the folder's lock."""
    for path in folder.glob(".*.*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """JSON's own types: tuples become lists, paths text, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot go into a record")
