"""The analyses on the page: what each asks, how to read it, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from cab.report.analyses.base import Answer
from cab.report.analyses.view import INTRO, lacking
from cab.report.html_figures import Figures
from cab.report.html_table import prose


def section(answers: Sequence[Answer], figures: Figures, tables: Mapping[str, str]) -> str:
    """`tables`: for a figure that stands beside a table, the link to that."""
    if not any(answer.lines for answer in answers):
        return ""
    parts = [f"<section id=analyses><h2>Analyses</h2><p>{INTRO}"]
    parts += [_one(answer, figures, tables) for answer in answers if answer.lines]
    lacks = lacking(answers)
    return "".join([*parts, f"<div class=note>{prose(lacks)}</div>" if lacks else "", "</section>"])


def _one(answer: Answer, figures: Figures, tables: Mapping[str, str]) -> str:
    asked = answer.question
    drawn = [name for name in figures.names if name in answer.figures]
    links = list(dict.fromkeys(tables[name] for name in drawn if name in tables))
    beside = f" Figures stand beside their tables: {'; '.join(links)}." if links else ""
    says = f"{prose(asked.reads)} Table: <code>analyses/{asked.name}.csv</code>.{beside}"
    shown = figures.html([name for name in drawn if name not in tables])
    return f"<h3 id=about-{asked.name}>{escape(asked.title)}</h3>{says}{shown}"
