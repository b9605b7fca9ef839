"""Where a row of the page comes from: what its <details> says, as HTML by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from cab.report.load import revision
from cab.report.markdown import Line, number, row_command, short_revision
from cab.report.rows import Group, Row, data_hash, score
from cab.store.record import Record

Origin = dict[str, str]


def of_row(group: Group, row: Row, line: Line, measured: Mapping[str, Record], whole: bool) -> Origin:
    """Of a row of a table: its seeds, and the record of its costs. Less of it where a page has too many rows."""
    seeds = "; ".join(_seed(record, whole) for record in row.records)
    says = {"command": _code(row_command(row)), "commit": _commits(row.records), "records": seeds}
    hashes = {data_hash(record) or group.data_hash for record in row.records}
    says["data"] = ", ".join(_code(content[:16]) for content in sorted(filter(None, hashes))) or "unknown"
    if line["options"]:
        says["options"] = _code(line["options"])
    cost = measured.get(line["cost_record"] or "")
    if whole:
        says |= _machine(row.records)
        costs = of_measurement(cost) if cost else {}
        says |= {f"costs: {name}": text for name, text in costs.items() if text != says.get(name)}
    elif cost:
        says["costs: record"] = f"{_code(cost.hash)}, {_code(cost.provenance.get('command') or '')}"
    return says


def of_measurement(record: Record) -> Origin:
    """Of an efficiency record."""
    command = record.provenance.get("command") or ""
    says = {"command": _code(command), "commit": _commits([record]), "record": _code(record.hash)}
    return says | _machine([record])


def _seed(record: Record, whole: bool) -> str:
    if not whole:
        return _code(record.hash)
    value = score(record)
    ended = number(value) if value is not None else record.status
    why = f" ({record.reason})" if record.reason else ""
    return f"seed {escape(str(record.cell['seed']))}: {escape(ended + why)}, {_code(record.hash)}"


def _commits(records: Iterable[Record]) -> str:
    return _each(records, lambda record: short_revision(revision(record.provenance.get("git") or {}) or ""))


def _machine(records: Iterable[Record]) -> Origin:
    records = list(records)
    return {
        "device": _each(records, lambda record: _device(record.provenance.get("device") or {})),
        "versions": _each(records, lambda record: _versions(record.provenance.get("versions") or {})),
        "started": _each(records, lambda record: record.provenance.get("started") or ""),
    }


def _device(device: Mapping[str, Any]) -> str:
    count = device.get("threads")
    threads = f"{count} thread{'' if count == 1 else 's'}" if count else ""
    return ", ".join(str(part) for part in (device.get("name"), threads, device.get("system")) if part)


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def _each(records: Iterable[Record], what: Callable[[Record], str]) -> str:
    """What the records say, each text once."""
    return "; ".join(escape(text) for text in dict.fromkeys(map(what, records)) if text) or "unknown"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>" if text else ""
