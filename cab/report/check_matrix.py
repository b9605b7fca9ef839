"""The results of the checks: the printed matrix, checks.csv, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from attentions.base import Pattern
from cab.check.battery import checks
from cab.report.csv_table import write_csv
from cab.report.figures.files import save
from cab.report.figures.grid import GridCell, draw_cells
from cab.report.figures.style import INK, new_figure
from cab.report.plain_table import plain_table, wrapped
from cab.store.record import Record

COLUMNS = ("family", "pattern", "declared", "check", "worst", "tolerance", "status", "detail")
COLORS = {"pass": "#b9dff5", "fail": "#d55e00", "control": "#f3d79b", "unsupported": "#eeeeee"}
"""Different also for the colour-blind and in grey."""
WORDS = {
    "pass": "passed: error at most 1e-9 (gradients 1e-6), in dependence the least reaction, above 1e-6",
    "fail": "failed",
    "control": "control: must fail",
    "unsupported": "unsupported",
}


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One per family, pattern and check; one per family and pattern that is unsupported or could not be built."""
    found = []
    for record in records:
        head = {
            "family": record.cell["attention"],
            "pattern": record.cell["pattern"],
            "declared": record.result["declared"],
        }
        found += [head | check for check in record.result["checks"]]
        if not record.result["checks"]:
            status = "unsupported" if record.status == "unsupported" else "fail"
            found.append(head | {"check": "build", "status": status, "detail": record.reason})
    return found


def matrix(records: Sequence[Record]) -> str:
    """Family x pattern, with the source of each pattern (paper, reference code, extension), and below it what failed or
    is unsupported, with the reason."""
    patterns = list(dict.fromkeys(record.cell["pattern"] for record in records))
    lines: dict[str, dict[str, str]] = {}
    for record in records:
        lines.setdefault(record.cell["attention"], {})[record.cell["pattern"]] = _word(record)
    body = [[name, *(line.get(pattern, "") for pattern in patterns)] for name, line in lines.items()]
    reasons = [
        f"{record.cell['attention']}, {record.cell['pattern']}: {record.reason}"
        for record in records
        if record.status != "ok"
    ]
    return "\n".join([plain_table(body, ["", *patterns]), *([""] if reasons else []), *map(wrapped, reasons)])


def _word(record: Record) -> str:
    failed = [check["check"] for check in record.result["checks"] if check["status"] != "pass"]
    if record.status == "ok" and failed:
        return f"control: {', '.join(failed)}"
    if record.status == "ok":
        return f"pass ({record.result['declared']})"
    return "unsupported" if record.status == "unsupported" else f"FAIL: {', '.join(failed) or 'build'}"


def write(records: Sequence[Record], stem: Path) -> list[Path]:
    """Writes <stem>.csv, .png and .svg; returns their paths."""
    write_csv([{name: row.get(name) for name in COLUMNS} for row in rows(records)], stem.with_suffix(".csv"))
    save(picture(records), stem)
    return [stem.with_suffix(ending) for ending in (".csv", ".png", ".svg")]


def picture(records: Sequence[Record]) -> Figure:
    """Family x pattern x check, coloured by status, with the worst error as a power of ten."""
    names = list(dict.fromkeys(record.cell["attention"] for record in records))
    patterns = [pattern for pattern in Pattern if any(record.cell["pattern"] == pattern for record in records)]
    widths = [len(checks(pattern)) for pattern in patterns]
    figure = new_figure(2.9 + 0.74 * sum(widths), 3.1 + 0.58 * len(names))
    panels = figure.subplots(1, len(patterns), squeeze=False, width_ratios=widths, sharey=True)[0]
    for axes, pattern in zip(panels, patterns, strict=True):
        cells: dict[tuple[str, str], GridCell] = {}
        for record in records:
            if record.cell["pattern"] == pattern:
                cells |= _cells(record, pattern)
        draw_cells(axes, names, checks(pattern), cells)
        axes.set_title(pattern.replace("_", " "))
        axes.tick_params(axis="x", rotation=90)
    statuses = {row["status"] for row in rows(records)}
    handles = [Patch(facecolor=COLORS[key], edgecolor=INK, label=WORDS[key]) for key in COLORS if key in statuses]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _cells(record: Record, pattern: Pattern) -> dict[tuple[str, str], GridCell]:
    """A cell per check, by family and check."""
    found = {check["check"]: check for check in record.result["checks"]}
    cells = {}
    for name in checks(pattern):
        status, text = _cell(found.get(name), record)
        failed = status == "fail"
        cell = GridCell(text, face=COLORS[status], ink="white" if failed else INK, bold=failed)
        cells[record.cell["attention"], name] = cell
    return cells


def _cell(check: dict[str, Any] | None, record: Record) -> tuple[str, str]:
    """Status and text of one cell."""
    if check is None:
        return ("unsupported", "-") if record.status == "unsupported" else ("fail", "✗")
    if check["worst"] is None:
        return check["status"], "✗"
    return check["status"], f"{check['worst']:.0e}".replace("e-0", "e-").replace("e+0", "e") if check["worst"] else "0"
