"""index.html: the leaderboard as one page that opens anywhere, from the same lines as leaderboard.md.

Everything is inside the file: style and script (page.css, page.js), and the figures as far as LIMIT bytes allow. A
content security policy lets no other script run and nothing be loaded. Without the script only sorting and filtering
are missing.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from cab.report import html_analyses, html_composite, markdown, origin
from cab.report.analyses.base import Answer
from cab.report.composite import Composite
from cab.report.html_figures import Figures
from cab.report.html_table import Cell, TableRow, prose, table
from cab.report.load import Loaded, settings_name
from cab.report.markdown import LEGEND, MISSING, Column, Line, below, status_text
from cab.report.rows import Group
from cab.report.words import apart
from cab.store.record import Record

LIMIT = 2_000_000
"""Bytes of the whole file: what a mail takes and a phone opens at once."""
ROOM = 40
"""Characters of a difference between tables that have room beside a title."""
NAMED = 200
"""Of the files that were left out, so many are named."""
Ranked = Sequence[tuple[Group, Sequence[Line]]]
INTRO = """\
<p>Where does an attention mechanism pay: at which length, in which of four patterns, on which task, at what quality,
and against what one would run today? Each table compares families that were trained on the same task, with the same
data, settings and number of core parameters. Each number comes from the record of a run; this page is made from
the records alone, by <code>python -m cab.leaderboard</code>, and loads nothing from elsewhere."""
TERMS = """\
<dl>
<dt>Baselines<dd><b>vanilla</b> is softmax attention with the fused kernel that one would run today; <b>eager</b> is the
same function written out: what they differ by in quality is noise; <b>none</b> has no token mixing at all, and shows
what a task gives without attention.
<dt>Patterns<dd><b>noncausal self</b>: an output may depend on the whole sequence, as in an encoder. <b>causal self</b>:
on what came before, as in a language model. <b>noncausal cross</b>: on all queries and the whole memory. <b>causal
cross</b>: on earlier queries and the whole memory, as in the decoder of a translator.
<dt>Generated data<dd>comes from a generator of this project, not from the world: a score on it says what a mechanism
can do, not what that is worth.
<dt>Origin<dd>opens below each row: the command that makes it again, commit (<i>dirty</i>: with changes that were not
committed), hashes of data and records, device, versions.
</dl>"""


def render(
    ranked: Ranked,
    indices: Sequence[Composite],
    loaded: Loaded,
    results: Path,
    drawn: Iterable[str] = (),
    answers: Sequence[Answer] = (),
) -> str:
    """The page; `drawn` names the figures below leaderboard/plots."""
    figures = Figures(results / "leaderboard" / "plots", drawn)
    page = Page(ranked, indices, loaded, results, figures, answers)
    if (size := len(page.html().encode())) > LIMIT:
        page.whole = False
        size = len(page.html().encode())
    figures.choose(LIMIT - size)
    return page.html()


class Page:
    def __init__(
        self,
        ranked: Ranked,
        indices: Sequence[Composite],
        loaded: Loaded,
        results: Path,
        figures: Figures,
        answers: Sequence[Answer],
    ) -> None:
        self.ranked, self.loaded, self.results, self.figures = ranked, loaded, results, figures
        self.indices, self.answers = indices, answers
        self.whole = True
        """Whether origins are told in full, and measurements without a row listed."""
        self.about = [figures.of(*_subjects(group)) for group, _ in ranked]
        self.measured = {record.hash: record for record in loaded.efficiency}

    def html(self) -> str:
        style, script = (Path(__file__).with_name(f"page.{ending}").read_text() for ending in ("css", "js"))
        policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
        body = [
            f"<header><h1>CAB leaderboard</h1>{INTRO}<p>{self._counts()}</header>",
            f"<details id=legend open><summary>How to read it</summary>{prose(LEGEND)}{TERMS}</details>",
            f"{self._filter()}{self._contents()}"
            if self.ranked
            else "<p>There are no quality records: nothing to rank.",
            *(self._group(index, *each) for index, each in enumerate(self.ranked)),
            html_composite.section(self.indices),
            self._analyses(),
            self._costs(),
            self._left_out(),
        ]
        return (
            "<!doctype html><html lang=en><head><meta charset=utf-8><title>CAB leaderboard</title>"
            '<meta name=viewport content="width=device-width, initial-scale=1">'
            '<meta name=color-scheme content="light dark"><link rel=icon href="data:,">'
            f'<meta http-equiv=Content-Security-Policy content="{policy}">'
            f"<style>{style}</style></head>\n<body><main>\n" + "\n".join(filter(None, body)) + "\n</main>"
            f"<script>{script}</script></body></html>\n"
        )

    def _counts(self) -> str:
        quality, efficiency = self.loaded.quality, self.loaded.efficiency
        newest = max((record.provenance.get("started") or "" for record in [*quality, *efficiency]), default="")[:10]
        says = f"{len(quality):,} quality and {len(efficiency):,} efficiency records"
        says += f", the newest of {escape(newest)}" if newest else ""
        says += ". <a href=#tables>To the tables</a>."
        if self.loaded.problems:
            says += f" <a href=#left-out>{len(self.loaded.problems):,} left out</a>."
        if not self.whole:
            says += " So many rows leave no room for the versions, devices and single seeds behind each, nor for"
            says += " measurements that belong to no row: see quality.csv and efficiency.csv."
        return says

    def _filter(self) -> str:
        chosen = ""
        for name in ("task", "pattern", "size"):
            values = sorted({str(getattr(group, name)) for group, _ in self.ranked})
            options = "".join(f'<option value="{escape(value)}">{_spaced(value)}' for value in values)
            chosen += f'<label>{name}<select name={name}><option value="">all{options}</select></label>'
        search = '<input type=search name=text autocomplete=off placeholder="family, option, status, hash">'
        buttons = "<button type=button>Show all</button><output></output>"
        return f"<form id=filter hidden role=search><label>search{search}</label>{chosen}{buttons}</form>"

    def _contents(self) -> str:
        lines = []
        for index, (group, _) in enumerate(self.ranked):
            name = f"<a href=#table-{index}>{_title(group)}</a>{_apart(group)}"
            best = ", ".join(row.label for row in group.rows if row.rank == 1) or MISSING
            cells = f"<th scope=row>{name}<td>{_kind(group)}<td>{len(group.rows)}<td>{escape(best)}"
            lines.append(f"<tr data-for=table-{index}>{cells}")
        lines += html_composite.contents(self.indices)
        if any(answer.lines for answer in self.answers):
            lines.append("<tr><th scope=row><a href=#analyses>Analyses</a><td><td><td>")
        head = "<thead><tr><th scope=col>table<th scope=col>data<th scope=col>rows<th scope=col>rank 1</thead>"
        box = "<div class=scroll tabindex=0 role=region aria-label=Contents>"
        return f"<nav id=tables aria-label=Tables>{box}<table>{head}<tbody>{''.join(lines)}</tbody></table></div></nav>"

    def _group(self, index: int, group: Group, lines: Sequence[Line]) -> str:
        columns = markdown.columns(group)
        rows = [
            TableRow(
                [_cell(column, line) for column in columns],
                origin.of_row(group, row, line, self.measured, self.whole),
                why=said if (said := status_text(line)) != "ok" else "",
                failed=line["mean"] is None,
            )
            for row, line in zip(group.rows, lines, strict=True)
        ]
        fields = [column.field for column in columns]
        order = fields.index("mean"), "ascending" if group.better == "lower" else "descending"
        titles = [column.title for column in columns]
        made = table(titles, rows, name=fields.index("label"), label=_title(group), order=order)
        where = "".join(f' data-{name}="{escape(getattr(group, name))}"' for name in ("task", "pattern", "size"))
        says, settings, differ = markdown.heading(group).partition("\n\n")[2].partition(" Settings: ")
        figures = self.figures.html(self.about[index])
        head = f"<h2>{_title(group)} {_kind(group)}{_apart(group)}</h2><p class=facts>{escape(says)}</p>"
        if settings:
            head += f"<details class=facts><summary>settings in which tables differ</summary>{escape(differ)}</details>"
        return f"<section id=table-{index} class=group{where}>{head}{made}{figures}</section>"

    def _analyses(self) -> str:
        """Each answer with its figures, or with links to the tables beside which they stand."""
        tables = {name: index for index, about in enumerate(self.about) for name in about}
        groups = {name: (index, self.ranked[index][0]) for name, index in tables.items()}
        links = {name: f"<a href=#table-{index}>{_title(g)}</a>{_apart(g)}" for name, (index, g) in groups.items()}
        return html_analyses.section(self.answers, self.figures, links)

    def _costs(self) -> str:
        """Figures that belong to no single table, and measurements that belong to no row."""
        used = {line["cost_record"] for _, lines in self.ranked for line in lines}
        others = [record for record in self.loaded.efficiency if record.hash not in used]
        about = {name for names in (*self.about, *(answer.figures for answer in self.answers)) for name in names}
        drawn = self.figures.html(name for name in self.figures.names if name not in about)
        made = _measurements(others) if self.whole and others else ""
        return f"<section id=costs><h2>Costs and further figures</h2>{drawn}{made}</section>" if drawn or made else ""

    def _left_out(self) -> str:
        problems = self.loaded.problems
        if not problems:
            return ""
        named = "".join(
            f"<li><code>{escape(str(below(problem.path, self.results)))}</code>: {escape(problem.reason)}"
            for problem in problems[:NAMED]
        )
        more = f"<p>{len(problems) - NAMED:,} more are named in leaderboard.md." if len(problems) > NAMED else ""
        return f"<section id=left-out><h2>Left out: {len(problems):,}</h2><ul>{named}</ul>{more}</section>"


def _measurements(records: Sequence[Record]) -> str:
    names = ("attention", "pattern", "level", "dim", "heads", "depth", "hidden", "device", "precision")
    rows = []
    for record in records:
        cells = [Cell(str(record.cell.get(name, MISSING))) for name in names]
        cells.insert(1, Cell(record.status))
        rows.append(TableRow(cells, origin.of_measurement(record), record.reason, failed=record.status != "ok"))
    made = table([names[0], "status", *names[1:]], rows, name=0, label="Other measurements")
    return f"<details><summary>Measurements that belong to no row above: {len(rows):,}</summary>{made}</details>"


def _cell(column: Column, line: Line) -> Cell:
    """Lengths from which something is cheaper sort by the length, bounds just outside of it."""
    if column.field == "status":  # the reason stands below the row
        return Cell(line["status"])
    key = line.get(f"{column.field}_length", line.get(column.field))
    if isinstance(key, bool) or not isinstance(key, int | float):
        return Cell(column.text(line))
    bound = line.get(f"{column.field}_bound") or ""
    return Cell(column.text(line), key * {"<=": 1 - 1e-6, ">": 1 + 1e-6}.get(bound, 1.0))


def _subjects(group: Group) -> tuple[str, str]:
    """How figures name a group, and how where several would have that name."""
    name = f"{group.task}_{group.pattern}_{group.size}"
    return name, f"{name}_{settings_name(group.first)}_{(group.data_hash or 'unknown')[:6]}"


def _title(group: Group) -> str:
    return escape(", ".join((group.task, _spaced(group.pattern), group.size)))


def _apart(group: Group) -> str:
    """Tells tables of one title apart: by the setting that differs, or as leaderboard.csv names their settings."""
    if not group.difference:
        return ""
    return f" <small>{escape(apart(group.difference, settings_name(group.first), ROOM))}</small>"


def _spaced(name: str) -> str:
    return escape(name.replace("_", " "))


def _kind(group: Group) -> str:
    if not group.data_hash:
        return "<span class=tag>data unknown</span>"
    real = (group.first.result.get("data") or {}).get("real")
    return "<span class=tag>real data</span>" if real else '<span class="tag generated">generated data</span>'


def _hash(content: str) -> str:
    """How a content security policy names what may stand in the page."""
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
