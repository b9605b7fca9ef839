"""Whether a family may be trained and measured in a pattern: the battery's verdict, kept as a record of kind `checks`.

Before a cell is trained or measured, `gate` asks here; a family that fails in the cell's pattern gives a record with
status failed_check and no numbers. A control (see attentions.base) may fail dependence and nothing else.

A family's YAML may have a mapping `check:` with options so small that inputs of two dozen tokens cross several of its
blocks. Families that derive their sizes from the design length shrink by themselves and need none.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from attentions.base import Pattern, Unsupported
from attentions.slots import Family
from cab.check.battery import Battery, Finding, checks
from cab.config import Request
from cab.store.failure import failure
from cab.store.fingerprint import fingerprint
from cab.store.provenance import provenance
from cab.store.record import Record, Status, find_record, identity_hash

_known: dict[str, Record] = {}
"""Records of this process, by hash: another results folder needs no other answer."""


@dataclass(frozen=True)
class Subject:
    """A family with its options, and with small ones."""

    name: str
    family: Family
    small: Family
    options: dict[str, Any]
    arguments: Sequence[str] = ()
    """Of a command line, to choose the family and its options."""

    @classmethod
    def of(cls, request: Request) -> "Subject":
        options = request.resolved["attention"]
        return cls(request.attention, request.family, request.small_family, options, request.family_arguments)

    @property
    def control(self) -> bool:
        return getattr(self.family.func, "control", False)


def gate(request: Request) -> tuple[Status, str]:
    """ok if the request's family may be trained and measured in its pattern; else the status to record, and why."""
    try:
        record, _ = checked(Subject.of(request), request.pattern, request.results)
    except (RuntimeError, MemoryError) as error:  # says nothing about the family, and is not kept
        return failure(error)
    return record.status, record.reason


def checked(subject: Subject, pattern: Pattern, results: Path, rerun: bool = False) -> tuple[Record, bool]:
    """The record of a family in a pattern, and whether it was there already; examined and written if there is none."""
    identity = {
        "attention": {"name": subject.name, **subject.options},
        "small": subject.small.keywords,
        "pattern": str(pattern),
        "declared": subject.family.func.support.get(pattern),  # type: ignore[attr-defined]
        "source": fingerprint(subject.family.func, Battery),
        "torch": torch.__version__,
    }
    name = identity_hash(identity)
    if not rerun and (record := find_record(results, "checks", name)):
        return record, True
    if rerun or name not in _known:
        _known[name] = _examined(subject, pattern, identity)
    _known[name].write(results)
    return _known[name], False


def _examined(subject: Subject, pattern: Pattern, identity: dict[str, Any]) -> Record:
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    findings: list[Finding] = []
    status: Status = "ok"
    try:
        findings = examine(subject.family, pattern, subject.small)
        status, reason = verdict(findings, subject.control)
    except Unsupported as error:
        status, reason = failure(error)
    except ValueError as error:
        status, reason = "failed_check", f"cannot be built for the battery: {error}"
    overrides = [*subject.arguments, f"pattern={pattern}"]
    return Record(
        kind="checks",
        status=status,
        reason=reason,
        cell={"attention": subject.name, "pattern": str(pattern)},
        identity=identity,
        config={"attention": subject.options, "check": subject.small.keywords},
        result={
            "declared": identity["declared"],
            "control": subject.control,
            "checks": [_row(finding, subject.control) for finding in findings],
        },
        provenance=provenance("cab.check", overrides, torch.device("cpu"), started, time.monotonic() - clock),
    )


def examine(family: Family, pattern: Pattern, small: Family | None = None) -> list[Finding]:
    """All checks of the pattern. A check that the family answers with an error has failed.

    Raises Unsupported, ValueError for options that cannot be, and what says nothing about the family: out of memory.
    """
    kind: Any = family.func
    if pattern not in kind.support:
        raise Unsupported(f"{kind.__name__} has no {pattern} (it has {', '.join(kind.support) or 'none'})")
    battery = Battery(family, pattern, small)
    findings = []
    for name in checks(pattern):
        try:
            findings.append(battery.run(name))
        except Exception as error:
            status, reason = failure(error)
            if status == "out_of_memory":
                raise
            findings.append(Finding(name, math.nan, reason))
    return findings


def verdict(findings: Sequence[Finding], control: bool) -> tuple[Status, str]:
    """ok, or failed_check with what failed; a control is ok if it fails no more than dependence."""
    failed = [finding for finding in findings if not (finding.passed or (control and finding.check == "dependence"))]
    if not failed:
        return "ok", "" if all(finding.passed for finding in findings) else "control: fails dependence, as it must"
    said: dict[str, list[str]] = {}
    for finding in failed:
        figure = "" if math.isnan(finding.worst) else f" ({finding.worst:.1e})"
        said.setdefault(finding.detail, []).append(finding.check + figure)
    return "failed_check", "; ".join(f"{', '.join(names)}: {detail}" for detail, names in said.items())


def _row(finding: Finding, control: bool) -> dict[str, Any]:
    failed = "control" if control and finding.check == "dependence" else "fail"
    return {
        "check": finding.check,
        "worst": finding.worst,
        "tolerance": finding.tolerance,
        "status": "pass" if finding.passed else failed,
        "detail": finding.detail,
    }
