"""The document as index.html: one page that opens anywhere, also without a network.

Everything is in the file: style and script (page.css, page.js), and the figures as PNG. A content security policy lets
no other script run and nothing be loaded. Without the script, only sorting and filtering are missing. End tags that
HTML leaves optional are left out.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from cab.report import document as doc
from cab.report.figures.style import RC
from cab.report.text import MISSING

PIXELS_PER_INCH = 68
"""Of all figures, so that their type is of one size on the page: 13 pixels."""


def render(document: doc.Document, plots: Path) -> str:
    """`plots`: the folder of the figures' files."""
    style, script = (Path(__file__).with_name(f"page.{ending}").read_text() for ending in ("css", "js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    body = [
        f"<header><h1>{escape(document.title)}</h1>{_blocks(document.introduction, plots)}</header>",
        f"<details id=legend open><summary>How to read it</summary>{_blocks(document.legend, plots)}</details>",
        _filter(document.sections),
        _contents(document.sections),
        *(_section(section, plots) for section in document.sections),
    ]
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(document.title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark"><link rel=icon href="data:,">'
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        f"<style>{style}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main>"
        f"<script>{script}</script></body></html>\n"
    )


def _hash(content: str) -> str:
    """How a content security policy names the content of an element."""
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _filter(sections: Sequence[doc.Section]) -> str:
    chosen = ""
    for name in ("task", "pattern", "size"):
        values = sorted({section.filters[name] for section in sections if section.filters.get(name)})
        options = "".join(f'<option value="{escape(each)}">{escape(each.replace("_", " "))}' for each in values)
        chosen += f'<label>{name}<select name={name}><option value="">all{options}</select></label>'
    search = '<input type=search name=text autocomplete=off placeholder="family, option, status, hash">'
    buttons = "<button type=button>Show all</button><output></output>"
    return f"<form id=filter hidden role=search><label>search{search}</label>{chosen}{buttons}</form>"


def _contents(sections: Sequence[doc.Section]) -> str:
    lines = []
    for section in sections:
        if section.level == 2 or section.filters:
            rows = sum(len(block.rows) for block in section.blocks if isinstance(block, doc.Table)) or ""
            name = f"<a href=#{section.anchor}>{escape(section.title)}</a> {_remark(section)}"
            cells = f"<th scope=row>{name}<td>{_tag(section)}<td>{rows}<td>{escape(section.best)}"
            lines.append(f"<tr data-for={section.anchor}>{cells}")
    head = "<thead><tr><th scope=col>table<th scope=col>data<th scope=col>rows<th scope=col>rank 1</thead>"
    box = "<div class=scroll tabindex=0 role=region aria-label=Contents>"
    return f"<nav id=tables aria-label=Tables>{box}<table>{head}<tbody>{''.join(lines)}</tbody></table></div></nav>"


def _section(section: doc.Section, plots: Path) -> str:
    filters = "".join(f' data-{name}="{escape(value)}"' for name, value in section.filters.items())
    kind = " class=group" if filters else ""
    title = " ".join(filter(None, [escape(section.title), _tag(section), _remark(section)]))
    title = f"<h{section.level}>{title}</h{section.level}>"
    return f"<section id={section.anchor}{kind}{filters}>{title}{_blocks(section.blocks, plots)}</section>"


def _remark(section: doc.Section) -> str:
    return f"<small>{escape(section.remark)}</small>" if section.remark else ""


def _tag(section: doc.Section) -> str:
    kind = "tag synthetic" if section.tag.startswith("synthetic") else "tag"
    return f'<span class="{kind}">{escape(section.tag)}</span>' if section.tag else ""


def _blocks(blocks: Sequence[doc.Block], plots: Path) -> str:
    return "".join(_block(block, plots) for block in blocks)


def _block(block: doc.Block, plots: Path) -> str:
    match block:
        case doc.Paragraph():
            return f"<p{' class=verdict' if block.important else ''}>{_inline(block.text)}"
        case doc.Bullets():
            return f"<ul>{''.join(f'<li>{_inline(item)}' for item in block.items)}</ul>"
        case doc.Definitions():
            return _definitions(block)
        case doc.Table():
            return _table(block)
        case doc.Figure():
            return _figure(block, plots)
        case doc.Details():
            return f"<details><summary>{escape(block.summary)}</summary>{_blocks(block.blocks, plots)}</details>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _definitions(block: doc.Definitions) -> str:
    return f"<dl>{''.join(f'<dt>{escape(term)}<dd>{_inline(text)}' for term, text in block.items.items())}</dl>"


def _figure(figure: doc.Figure, plots: Path) -> str:
    name = escape(f"{figure.caption}, {figure.name}")
    content = (plots / f"{figure.name}.png").read_bytes()
    width = int.from_bytes(content[16:20], "big") / RC["savefig.dpi"] * PIXELS_PER_INCH
    data = b64encode(content).decode()
    image = f'<img loading=lazy width={width:.0f} alt="{name}" src="data:image/png;base64,{data}">'
    box = f'<div class=scroll tabindex=0 role=region aria-label="{name}">{image}</div>'
    file = f"<code>plots/{escape(figure.name)}.svg</code>".replace("_", "_<wbr>")  # where a narrow screen may break it
    return f"<figure>{box}<figcaption>{escape(figure.caption)}, {file}</figcaption></figure>"


def _table(table: doc.Table) -> str:
    """Each row is a <tbody> of two lines, so that sorting and filtering move both: the cells, and below them the note
    and the origin. Columns in which every row is missing are listed below the table."""
    count = len(table.columns)
    shown = [i for i in range(count) if i == table.name or any(row.cells[i].text != MISSING for row in table.rows)]
    head = ""
    for i in shown:
        name = " class=name" if i == table.name else ""
        order = "ascending" if table.ascending else "descending"
        order = f" aria-sort={order}" if i == table.sorted_by else ""
        head += f"<th scope=col{name}{order}>{_two_lines(table.columns[i].title)}"
    body = "".join(_row(row, shown, table.name) for row in table.rows)
    absent = [escape(table.columns[i].title) for i in range(count) if i not in shown]
    note = f"<p class=note>No row has: {', '.join(absent)}." if absent else ""
    box = f'<div class=scroll tabindex=0 role=region aria-label="{escape(table.label)}">'
    return f"{box}<table class=sortable><thead><tr>{head}</thead>{body}</table></div>{note}"


def _row(row: doc.Row, shown: Sequence[int], name: int) -> str:
    cells = "".join(_cell(row.cells[i], is_name=i == name) for i in shown)
    below = f"<p class=why>{escape(row.note)}</p>" if row.note else ""
    origin = {title: text for title, text in row.origin.items() if text}
    if origin:
        below += f"<details><summary>origin</summary>{_definitions(doc.Definitions(origin))}</details>"
    second = f"<tr><td colspan={len(shown)}>{below}" if below else ""
    kinds = " ".join(name for name, has in (("failed", row.failed), ("control", row.control)) if has)
    return f'<tbody class="{kinds}"><tr>{cells}{second}</tbody>' if kinds else f"<tbody><tr>{cells}{second}</tbody>"


def _cell(cell: doc.Cell, is_name: bool) -> str:
    key = ""
    if cell.number is not None and cell.text.replace(",", "") != f"{cell.number:.8g}":
        key = f" data-number={cell.number:.8g}"
    if cell.tie_break:
        key += f" data-tie={cell.tie_break}"
    if cell.grey:
        key += " class=grey"
    if is_name:  # a long name breaks after an underscore
        return f"<th scope=row{key}>{escape(cell.text).replace('_', '_<wbr>')}"
    return f"<td{key}>{_two_lines(cell.text) if cell.number is not None else escape(cell.text)}"


def _two_lines(text: str) -> str:
    """The number, and small below it its interval and the length at which it was measured."""
    found = re.search(r" (?=\(|at )", text)
    if not found:
        return escape(text)
    return f"{escape(text[: found.end()])}<small>{escape(text[found.end() :])}</small>"
