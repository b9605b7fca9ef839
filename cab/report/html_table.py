"""A table of the page: cells with what to sort them by, and below each row a <details> that says where it comes from.

Each row is a <tbody> of two lines, so that a sort or a filter moves both; the second stays in sight when the numbers
are scrolled sideways. Columns in which no row has anything are
named below the table instead of shown. End tags that HTML leaves optional are left out: a page has many cells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from cab.report.markdown import MISSING


@dataclass(frozen=True)
class Cell:
    text: str
    key: float | None = None
    """What it sorts by, where its text is no plain number."""


def numbered(text: str) -> Cell:
    """Sorts by the number that the text begins with, if any."""
    found = re.match(r"[+-]?[\d,]*\.?\d+(?=$| )", text)
    return Cell(text, float(found[0].replace(",", "")) if found else None)


@dataclass(frozen=True)
class TableRow:
    cells: Sequence[Cell]
    origin: Mapping[str, str] = field(default_factory=dict)
    """What there is to say about where it comes from, as HTML by name."""
    why: str = ""
    """What must be read before the numbers, such as why there are none."""
    failed: bool = False


def table(
    head: Sequence[str], rows: Sequence[TableRow], *, name: int, label: str, order: tuple[int, str] = (-1, "")
) -> str:
    """`name`: the column that names a row. `order`: the column by which rows stand in order, and its direction."""
    shown = [i for i in range(len(head)) if i == name or any(row.cells[i].text != MISSING for row in rows)]
    absent = [escape(head[i]) for i in range(len(head)) if i not in shown]
    sorts = {order[0]: f" aria-sort={order[1]}"}
    names = {name: " class=name"}
    titles = "".join(f"<th scope=col{names.get(i, '')}{sorts.get(i, '')}>{_two_lines(head[i])}" for i in shown)
    body = "".join(_row(row, shown, name) for row in rows)
    note = f"<p class=note>No row has: {', '.join(absent)}." if absent else ""
    box = f'<div class=scroll tabindex=0 role=region aria-label="{label}">'
    return f"{box}<table class=sortable><thead><tr>{titles}</thead>{body}</table></div>{note}"


def _row(row: TableRow, shown: Sequence[int], name: int) -> str:
    cells = "".join(_cell(row.cells[i], "th scope=row" if i == name else "td") for i in shown)
    says = "".join(f"<dt>{title}<dd>{text}" for title, text in row.origin.items() if text)
    more = f"<p class=why>{escape(row.why)}</p>" if row.why else ""
    more += f"<details><summary>origin</summary><dl>{says}</dl></details>" if says else ""
    more = f"<tr><td colspan={len(shown)}>{more}" if more else ""
    return f"<tbody{' class=failed' if row.failed else ''}><tr>{cells}{more}</tbody>"


def _cell(cell: Cell, tag: str) -> str:
    key = "" if cell.key is None or _plain(cell.text) else f" data-v={cell.key:.8g}"
    if tag.startswith("th"):  # a long name breaks after an underscore
        return f"<{tag}{key}>{escape(cell.text).replace('_', '_<wbr>')}"
    return f"<{tag}{key}>{_two_lines(cell.text) if cell.key is not None else escape(cell.text)}"


def _plain(text: str) -> bool:
    return re.fullmatch(r"[+-]?[\d,]*\.?\d+", text) is not None


def _two_lines(text: str) -> str:
    """The number, and below it in small its interval and where it was measured."""
    first, gap, rest = re.match(r"(.*?)( (?=\(|at )|$)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{escape(first)}{gap}<small>{escape(rest)}</small>" if rest else escape(text)


def prose(text: str) -> str:
    """Plain paragraphs of markdown."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.strip(), quote=False))
    return "".join(f"<p>{part}" for part in marked.split("\n\n"))
