"""Whether a family may be trained and measured in a pattern: the battery's verdict, kept as a record of kind `checks`.

`gate` is called before a cell is trained or measured. A family that fails in the cell's pattern gives a record with
status failed_check and no numbers. A control (see attentions.base) may fail `dependence` and nothing else.

A family's YAML may have a mapping `check:` of options that are small enough for two dozen tokens to cross several of
its blocks. Families that derive their sizes from the design length need none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attentions.base import Pattern, Unsupported
from attentions.slots import Family
from cab.check.battery import Battery, Finding, checks
from cab.config import Request
from cab.store.failure import failure
from cab.store.fingerprint import fingerprint
from cab.store.identity import CellKey
from cab.store.provenance import Clock, provenance
from cab.store.record import Record, Status
from cab.store.store import Outcome, Store

_examined: dict[str, Record] = {}
"""Records made by this process, by hash: they hold for other results folders too."""


@dataclass(frozen=True)
class Subject:
    """A family with its options, and with the small options of `check:`."""

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
        record = checked(Subject.of(request), request.pattern, request.results).record
    except (RuntimeError, MemoryError) as error:  # not the family's fault, and not recorded as a check
        return failure(error)
    return record.status, record.reason


def checked(subject: Subject, pattern: Pattern, results: Path, rerun: bool = False) -> Outcome:
    """The record of a family in a pattern; examines the family and writes the record if there is none.

    Waits while another process examines the same.
    """
    identity = {
        "attention": {"name": subject.name, **subject.options},
        "small": subject.small.keywords,
        "pattern": str(pattern),
        "declared": subject.family.func.support.get(pattern),  # type: ignore[attr-defined]
        "source": fingerprint(subject.family.func, Battery),
        "torch": torch.__version__,
    }
    key = CellKey("checks", {"attention": subject.name, "pattern": str(pattern)}, identity)
    store = Store(results, rerun)
    if record := store.state(key).record:
        return Outcome(record, was_done=True)
    with store.claim(key, wait="the same family is being checked by") as state:
        if state.record:
            return Outcome(state.record, was_done=True)
        if rerun or key.hash not in _examined:
            _examined[key.hash] = _examine(subject, pattern, key)
        record = _examined[key.hash]
        store.write(record)
    return Outcome(record, was_done=False)


def _examine(subject: Subject, pattern: Pattern, key: CellKey) -> Record:
    clock = Clock()
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
    config = {"attention": subject.options, "check": subject.small.keywords}
    rows = [_row(finding, subject.control) for finding in findings]
    result = {"declared": key.identity["declared"], "control": subject.control, "checks": rows}
    kind: Any = subject.family.func
    origin = provenance("cab.check", overrides, torch.device("cpu"), clock, [kind])
    return key.record(status, reason, config, result, origin)


def examine(family: Family, pattern: Pattern, small: Family | None = None) -> list[Finding]:
    """The findings of all checks of the pattern. A check in which the family raises an error has failed.

    Raises Unsupported, ValueError for options that do not fit, and errors that are not the family's fault (memory).
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
    """ok, or failed_check with what failed. A control is ok if it fails nothing but `dependence`."""
    failed = [finding for finding in findings if not (finding.passed or (control and finding.check == "dependence"))]
    if not failed:
        return "ok", "" if all(finding.passed for finding in findings) else "control: fails dependence, as it must"
    checks_by_detail: dict[str, list[str]] = {}
    for finding in failed:
        figure = "" if math.isnan(finding.worst) else f" ({finding.worst:.1e})"
        checks_by_detail.setdefault(finding.detail, []).append(finding.check + figure)
    return "failed_check", "; ".join(f"{', '.join(names)}: {detail}" for detail, names in checks_by_detail.items())


def _row(finding: Finding, control: bool) -> dict[str, Any]:
    failed = "control" if control and finding.check == "dependence" else "fail"
    return {
        "check": finding.check,
        "worst": finding.worst,
        "tolerance": finding.tolerance,
        "status": "pass" if finding.passed else failed,
        "detail": finding.detail,
    }
