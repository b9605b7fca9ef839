"""Where a row comes from: commands, commits, records, devices, versions."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cab.report.groups import Group
from cab.report.load import revision, revision_of, started
from cab.report.text import MISSING, commit, number
from cab.report.variant import Variant, data_hash, score
from cab.store.record import Record
from cab.tuning import Tuning


def of_variant(group: Group, variant: Variant, efficiency: Record | None) -> dict[str, str]:
    """Of a row of the leaderboard; `efficiency` is the record of its efficiency."""
    hashes = {data_hash(record) or group.data_hash for record in variant.records}
    own = of_records(variant.records)
    found = {
        "command": code(command(variant)),
        "commit": own["commit"],
        "own code": own["own code"],
        "records": "; ".join(_seed(record) for record in variant.records),
        "data": ", ".join(code(content[:16]) for content in sorted(filter(None, hashes))) or "unknown",
        "options": code(variant.options),
        "positions": variant.positions or "",
        "rates tried": _rates(variant.tuning) if variant.tuning else "",
        "device": own["device"],
        "versions": own["versions"],
        "started": own["started"],
    }
    measured = of_records([efficiency]) if efficiency else {}
    return found | {f"efficiency: {name}": text for name, text in measured.items() if text != found.get(name)}


def of_records(records: list[Record]) -> dict[str, str]:
    return {
        "command": _each(records, lambda record: code(record.provenance.get("command") or "")),
        "commit": _each(records, lambda record: commit(revision(record))),
        "own code": "; ".join(dict.fromkeys(text for record in records for text in own_code(record))),
        "record": _each(records, lambda record: code(record.hash)),
        "device": _each(records, lambda record: _device(record.provenance.get("device") or {})),
        "versions": _each(records, lambda record: _versions(record.provenance.get("versions") or {})),
        "started": _each(records, started),
    }


def own_code(record: Record) -> list[str]:
    """A text for every class of a record's cell that is outside of the checkout: its source, and the commit."""
    texts = []
    for each in record.provenance.get("own_code") or []:
        at = f", commit {commit(found)}" if (found := revision_of(each)) else ""
        texts.append(f"{code(each['class'])}, source {code(each['source'])}{at}")
    return texts


def command(variant: Variant) -> str:
    """One command for all seeds if their commands differ in the seed only; else that of the first seed."""
    commands = [shlex.split(record.provenance.get("command") or "") for record in variant.records]
    without_seed = [[token for token in tokens if not token.startswith("seed=")] for tokens in commands]
    first = without_seed[0]
    if not commands[0]:
        return MISSING
    if len(commands) == 1 or any(tokens != first for tokens in without_seed) or first[:2] != ["python", "-m"]:
        return shlex.join(commands[0])
    multirun = [] if "-m" in first[3:] else ["-m"]
    return shlex.join([*first[:3], *multirun, *first[3:], f"seed={','.join(map(str, variant.seeds))}"])


def _rates(tuning: Tuning) -> str:
    """Every rate with its score on validation, which chooses."""
    tried = [f"{rate:g}: {number(value)}" for rate, value in sorted(tuning.validations.items())]
    return f"validation {', '.join(tried)} (seed {tuning.seed})" if tried else MISSING


def _seed(record: Record) -> str:
    value = score(record)
    outcome = number(value) if value is not None else record.status
    reason = f" ({record.reason})" if record.reason else ""
    return f"seed {record.cell['seed']}: {outcome}{reason}, {code(record.hash)}"


def _device(device: Mapping[str, Any]) -> str:
    count = device.get("threads")
    threads = f"{count} thread{'' if count == 1 else 's'}" if count else ""
    return ", ".join(str(item) for item in (device.get("name"), threads, device.get("system")) if item)


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def _each(records: Iterable[Record], text: Callable[[Record], str]) -> str:
    """The different texts of some records."""
    return "; ".join(each for each in dict.fromkeys(map(text, records)) if each) or "unknown"


def code(text: str) -> str:
    return f"`{text}`" if text else ""
