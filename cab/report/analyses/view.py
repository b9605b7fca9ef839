"""The analyses as people read them: their section of leaderboard.md."""

from __future__ import annotations

from collections.abc import Sequence

from cab.report.analyses.base import Answer

INTRO = "What the tables say when they are put beside each other, from the same records."


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
