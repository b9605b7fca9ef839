"""The Compositional Index on the page: the same two tables for each pattern and size as in leaderboard.md."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cab.report.composite import Composite
from cab.report.composite_tables import LEGEND, grids
from cab.report.html_table import Cell, TableRow, numbered, prose, table
from cab.report.markdown import MISSING


def section(indices: Sequence[Composite]) -> str:
    if not indices:
        return ""
    made = "".join(_one(number, each) for number, each in enumerate(indices))
    return f"<section id=index><h2>Compositional Index</h2>{prose(LEGEND)}</section>{made}"


def contents(indices: Sequence[Composite]) -> list[str]:
    """Lines of the table of contents."""
    lines = []
    for number, made in enumerate(indices):
        if made.entries:
            best = ", ".join(entry.label for entry in made.entries if entry.rank == 1) or MISSING
            name = f"<a href=#index-{number}>{_title(made)}</a>"
            cells = f"<th scope=row>{name}<td><td>{len(made.entries)}<td>{escape(best)}"
            lines.append(f"<tr data-for=index-{number}>{cells}")
    return lines


def _one(number: int, made: Composite) -> str:
    notes = "".join(f"<li>{escape(note)}" for note in made.notes)
    if not made.entries:
        return f"<section><h2>{_title(made)}</h2><p>No index:<ul>{notes}</ul></section>"
    (head, body), (names, scale) = grids(made)
    where = f'data-task="" data-pattern="{escape(made.pattern)}" data-size="{escape(made.size)}"'
    families = table(head, _rows(body, 1), name=1, label=_title(made), order=(head.index("index"), "descending"))
    measure = table(names, _rows(scale, 1), name=1, label=f"{_title(made)}: scale")
    lacks = f"<p>Not in it:<ul>{notes}</ul>" if notes else ""
    about = f"<details><summary>scale of each metric</summary>{measure}</details>"
    return f"<section id=index-{number} class=group {where}><h2>{_title(made)}</h2>{families}{about}{lacks}</section>"


def _rows(body: Sequence[Sequence[str]], name: int) -> list[TableRow]:
    return [TableRow([Cell(t) if i == name else numbered(t) for i, t in enumerate(line)]) for line in body]


def _title(made: Composite) -> str:
    return escape(f"Compositional Index, {made.pattern.replace('_', ' ')}, {made.size}")
