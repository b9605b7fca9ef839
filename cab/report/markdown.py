"""The document as leaderboard.md, and its short tables for the terminal."""

from tabulate import tabulate

from cab.report.document import Block, Bullets, Definitions, Details, Document, Figure, Paragraph, Row, Section, Table
from cab.report.plain_table import plain_table, wrapped


def render(document: Document) -> str:
    parts = [f"# {document.title}", *map(render_block, document.introduction), *map(render_block, document.legend)]
    parts += [_section(section) for section in document.sections]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    title = f"{'#' * section.level} {section.title}"
    if section.remark:
        title += f" ({section.remark})"
    return "\n\n".join([title, *map(render_block, section.blocks)])


def render_block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"**{block.text}**" if block.important else block.text
        case Bullets():
            return "\n".join(f"* {item}" for item in block.items)
        case Definitions():
            return "\n".join(f"* **{term}**: {text}" for term, text in block.items.items())
        case Table():
            return _table(block)
        case Figure():
            return f"![{block.caption}](plots/{block.name}.svg)"
        case Details():
            return "\n\n".join(map(render_block, block.blocks))


def _table(table: Table) -> str:
    """The table, and the command of each row."""
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in _texts(row)] for row in table.rows]
    headers = [column.title for column in table.columns]
    made = tabulate(escaped, headers=headers, tablefmt="github", disable_numparse=True)
    commands = [
        f"* {row.cells[table.name].text}: {row.origin['command']} (commit {row.origin['commit']})"
        for row in table.rows
        if row.origin
    ]
    return "\n\n".join([made, "Commands:", "\n".join(commands)]) if commands else made


def _texts(row: Row) -> list[str]:
    return [*(cell.text for cell in row.cells[:-1]), row.note or row.cells[-1].text]


def short(document: Document) -> str:
    """What the terminal shows: the most important columns of the most important tables."""
    parts = [wrapped(block.text) for block in document.introduction if isinstance(block, Paragraph) and block.short]
    for section in document.sections:
        texts = [wrapped(block.text) for block in section.blocks if isinstance(block, Paragraph) and block.short]
        for block in section.blocks:
            if isinstance(block, Table) and any(column.short for column in block.columns):
                title = f"{section.title} ({section.remark})" if section.remark else section.title
                parts.append("\n".join([title, *texts, _short_table(block)]))
    return "\n\n".join(parts)


def _short_table(table: Table) -> str:
    """Reasons stand below the table: one would make it wider than a terminal."""
    places = [place for place, column in enumerate(table.columns) if column.short]
    body = [[row.cells[place].text for place in places] for row in table.rows]
    notes = [wrapped(f"{row.cells[table.name].text}: {row.note}") for row in table.rows if row.note]
    return "\n".join([plain_table(body, [table.columns[place].title for place in places]), *notes])
