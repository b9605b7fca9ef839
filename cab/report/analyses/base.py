"""What an analysis is: one question put to the records, answered by a table and figures, and how to read these.

A question names its answer: `<name>.csv` below leaderboard/analyses, and one figure for every value that its lines
have in the column `figure`; lines that no figure can show have none there. It looks at ranked groups, their lines of
leaderboard.csv, the composites and the efficiency records, and at nothing else; where these do not have what it needs
there are no lines, no file and no figure. Controls are `eager` and `none` (`cab.report.composite.CONTROLS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cab.report.composite import Composite, is_logarithmic, scaled
from cab.report.load import settings_name
from cab.report.rows import Group, Row
from cab.report.words import apart
from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = dict[str, Any]
Ranked = Sequence[tuple[Group, list[Line]]]


@dataclass(frozen=True)
class Material:
    """Everything that a question may look at; groups, composites and figures never mix what may not be compared."""

    ranked: Ranked
    indices: Sequence[Composite]
    efficiency: Sequence[Record]

    @property
    def named(self) -> list[tuple[str, Group, list[Line]]]:
        """Every group with the name of its figures."""
        names = figure_names([group for group, _ in self.ranked])
        return [(name, *each) for name, each in zip(names, self.ranked, strict=True)]


@dataclass(frozen=True)
class Question:
    name: str
    """Of its file; its figures' names begin with it."""
    title: str
    reads: str
    """How to read the answer, in a sentence or two."""
    needs: str
    """Without which there is no answer, for the line that says so."""
    lines: Callable[[Material], list[Line]]
    draw: Callable[[Sequence[Mapping[str, Any]]], Figure]
    """A figure of the lines that have one value of `figure`."""


@dataclass(frozen=True)
class Answer:
    question: Question
    lines: list[Line]

    @property
    def figures(self) -> dict[str, list[Line]]:
        """What each figure shows, by the figure's name."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            if line["figure"]:
                found.setdefault(f"{self.question.name}_{line['figure']}", []).append(line)
        return found


def figure_names(groups: Sequence[Group]) -> list[str]:
    """`lm_causal_self_smoke`, with settings and data where several groups would have that name."""
    names = [f"{group.task}_{group.pattern}_{group.size}" for group in groups]
    return [
        f"{name}_{settings_name(group.first)}_{(group.data_hash or 'unknown')[:6]}" if names.count(name) > 1 else name
        for name, group in zip(names, groups, strict=True)
    ]


def place(group: Group) -> Line:
    """The columns that say which table a line belongs to."""
    return {
        "task": group.task,
        "pattern": group.pattern,
        "size": group.size,
        "data_hash": group.data_hash,
        "settings": settings_name(group.first),
        "difference": group.difference,
        "headline": group.headline,
        "better": group.better,
        "scale": "log" if is_logarithmic(group.headline or "") else "linear",
    }


def title(line: Mapping[str, Any]) -> str:
    """Of a figure about one table: its heading, from a line with the columns of `place`."""
    head = f"{line['task']}, {line['pattern'].replace('_', ' ')}, {line['size']}"
    return f"{head}, {line['difference']}" if line["difference"] else head


ROOM = 20
"""Characters of a difference in settings that have room in the name of a table."""


def table_names(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of each line in two short lines, with what differs in settings and data where others have that name."""
    keys = [tuple(line[name] for name in ("task", "pattern", "settings", "data_hash")) for line in lines]
    alike = [key[:2] for key in set(keys)]
    names = []
    for line, (task, pattern, settings, content) in zip(lines, keys, strict=True):
        name = f"{task}\n{pattern.replace('_', ' ')}"
        if alike.count((task, pattern)) > 1:
            said = "" if "data=" in line["difference"] else line["difference"]  # data has a line of its own
            name += f"\n{apart(said, settings, ROOM)}"
        if sum(key[:3] == (task, pattern, settings) for key in set(keys)) > 1:
            name += f"\ndata {(content or 'unknown')[:8]}"
        names.append(name)
    return names


def spoken(group: Group) -> list[Row]:
    """One row a family, so that a family with many sets of options does not count more than others.

    The one with most seeds; of several, the first by its name: never the best, which would be chosen by the outcome.
    """
    found: dict[str, Row] = {}
    for row in sorted(group.rows, key=lambda row: (-len(row.scores), row.label)):
        if row.mean is not None:
            found.setdefault(row.attention, row)
    return list(found.values())


def gains(group: Group, row: Row) -> list[float] | None:
    """The scores of all seeds, turned so that more is better, perplexities by their logarithm; None where one lacks."""
    sign = 1.0 if group.better == "higher" else -1.0
    values = [scaled(group.headline or "", value) for value in row.scores] if row.complete else []
    whole = [sign * value for value in values if value is not None]
    return whole if whole and len(whole) == len(values) else None


def span(interval: tuple[float, float] | None, name: str) -> Line:
    """The columns of an interval."""
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def families(names: Iterable[str]) -> list[str]:
    """In the order in which figures show them: vanilla and what it is compared with first."""
    first = ("vanilla", "eager", "none")
    return sorted(dict.fromkeys(names), key=lambda name: (first.index(name) if name in first else len(first), name))
