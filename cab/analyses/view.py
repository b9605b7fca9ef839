"""The analyses as people read them: their section of leaderboard.md and of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Protocol

from cab.analyses.base import Answer
from cab.pagetable import prose

INTRO = "What the tables say when they are put beside each other, from the same records."


class Shown(Protocol):
    """The figures of the page."""

    names: list[str]

    def html(self, names: Sequence[str]) -> str: ...


def section(answers: Sequence[Answer], plots: bool) -> str:
    """The part of leaderboard.md; empty where no question has an answer."""
    if not any(answer.lines for answer in answers):
        return ""
    parts = ["## Analyses", INTRO]
    for answer in answers:
        if answer.lines:
            name = answer.question.name
            parts.append(
                f"### {answer.question.title}\n\n{answer.question.reads} Table: [{name}.csv](analyses/{name}.csv)."
            )
            parts += [f"![{figure}](plots/{figure}.svg)" for figure in answer.figures if plots]
    return "\n\n".join([*parts, *([lacking(answers)] if lacking(answers) else [])])


def lacking(answers: Sequence[Answer]) -> str:
    """One line on the questions that these records do not answer."""
    needs = [f"{a.question.title} (needs {a.question.needs})" for a in answers if not a.lines]
    return f"Without an answer in these records: {'; '.join(needs)}." if needs else ""


def html(answers: Sequence[Answer], figures: Shown, tables: Mapping[str, str]) -> str:
    """`tables`: for a figure that stands beside a table, the link to that."""
    if not any(answer.lines for answer in answers):
        return ""
    parts = [f"<section id=analyses><h2>Analyses</h2><p>{INTRO}"]
    parts += [_one(answer, figures, tables) for answer in answers if answer.lines]
    lacks = lacking(answers)
    return "".join([*parts, f"<div class=note>{prose(lacks)}</div>" if lacks else "", "</section>"])


def _one(answer: Answer, figures: Shown, tables: Mapping[str, str]) -> str:
    asked = answer.question
    drawn = [name for name in figures.names if name in answer.figures]
    links = list(dict.fromkeys(tables[name] for name in drawn if name in tables))
    beside = f" Figures stand beside their tables: {'; '.join(links)}." if links else ""
    says = f"{prose(asked.reads)} Table: <code>analyses/{asked.name}.csv</code>.{beside}"
    shown = figures.html([name for name in drawn if name not in tables])
    return f"<h3 id=about-{asked.name}>{escape(asked.title)}</h3>{says}{shown}"
