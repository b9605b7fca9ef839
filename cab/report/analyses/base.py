"""What an analysis is: a question about the records, answered by a table and figures.

A question names its answer: `<name>.csv` below leaderboard/analyses, and one figure for every value that its lines have
in the column `figure`; lines that are in no figure have none there. It uses ranked groups and the composites. If these
do not have what it needs, there are no lines, no file and no figure.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure

from cab.report.composite import Composite
from cab.report.controls import CONTROLS
from cab.report.groups import Group
from cab.report.settings import short_difference
from cab.report.variant import Variant

DIFFERENCE = 20
"""Characters of a difference in settings that fit into the name of a table."""


class Line(Protocol):
    """A row of an analysis: a dataclass, whose fields are the columns of the file."""

    @property
    def figure(self) -> str:
        """Names the figure that shows it; empty if none does."""


@dataclass(frozen=True)
class Material:
    """What a question may use."""

    groups: Sequence[Group]
    composites: Sequence[Composite]


@dataclass(frozen=True)
class Question:
    name: str
    """Of its file; the names of its figures begin with it."""
    title: str
    explanation: str
    """How to read the answer, in a sentence or two."""
    needs: str
    """What the records must have, for the line that says that there is no answer."""
    lines: Callable[[Material], Sequence[Line]]
    draw: Callable[[Sequence[Any]], Figure]
    """A figure of the lines that have one value of `figure`."""


@dataclass(frozen=True)
class Answer:
    question: Question
    lines: Sequence[Line]

    @property
    def figures(self) -> dict[str, list[Line]]:
        """The lines that each figure shows, by the figure's name."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            if line.figure:
                found.setdefault(f"{self.question.name}_{line.figure}", []).append(line)
        return found


def table_names(groups: Sequence[Group]) -> list[str]:
    """The names of tables in two short lines, with what differs in settings and data where names would be equal."""
    names = []
    different = set(groups)
    for group in groups:
        name = f"{group.task}\n{group.pattern.replace('_', ' ')}"
        alike = [each for each in different if (each.task, each.pattern) == (group.task, group.pattern)]
        if len(alike) > 1:
            difference = "" if "data=" in group.difference else group.difference  # data has a line of its own
            name += f"\n{short_difference(difference, group.settings_name, DIFFERENCE)}"
        if sum(each.settings_name == group.settings_name for each in alike) > 1:
            name += f"\ndata {(group.data_hash or 'unknown')[:8]}"
        names.append(name)
    return names


def one_per_family(group: Group) -> list[Variant]:
    """One variant per family, so that a family with many sets of options does not count more than others.

    The one with most seeds; of several, the first by its label. Never the best: that would be chosen by the outcome.
    """
    found: dict[str, Variant] = {}
    for variant in sorted(group.variants, key=lambda variant: (-len(variant.scores), variant.label)):
        if variant.mean is not None:
            found.setdefault(variant.attention, variant)
    return list(found.values())


def in_order(families: Iterable[str]) -> list[str]:
    """The order of figures: vanilla and the controls first."""
    first = ("vanilla", "eager", *CONTROLS)
    return sorted(set(families), key=lambda name: (first.index(name) if name in first else len(first), name))
