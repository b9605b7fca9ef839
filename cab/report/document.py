"""The leaderboard as a document: what markdown.py, html.py and the terminal show.

Text is plain, but for `code` between backticks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib import figure as matplotlib_figure


@dataclass(frozen=True)
class Paragraph:
    text: str
    short: bool = False
    """Whether the terminal shows it."""
    important: bool = False


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Definitions:
    items: Mapping[str, str]


@dataclass(frozen=True)
class Cell:
    text: str
    number: float | None = None
    """What the cell sorts by; None: by its text."""
    tie_break: int = 0
    """Of cells with the same number: -1 for "at most", 1 for "more than"."""
    grey: bool = False
    """For what is not to be relied on."""


@dataclass(frozen=True)
class Column:
    title: str
    short: bool = False
    """Whether the terminal shows it."""


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    note: str = ""
    """The last cell in full, where that is too long for a column: a status with its reason."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Where the row comes from: command, commit, records, device."""
    failed: bool = False
    control: bool = False


@dataclass(frozen=True)
class Table:
    label: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    name: int = 0
    """The column that names a row."""
    sorted_by: int | None = None
    ascending: bool = True


@dataclass(frozen=True)
class Figure:
    """A figure that `draw(*content)` makes, in files beside the page."""

    name: str
    """Of its files, without ending."""
    caption: str
    draw: Callable[..., matplotlib_figure.Figure]
    content: tuple[Any, ...]


@dataclass(frozen=True)
class Details:
    """What a page shows on a click."""

    summary: str
    blocks: Sequence[Block]


Block = Paragraph | Bullets | Definitions | Table | Figure | Details


@dataclass(frozen=True)
class Section:
    title: str
    anchor: str
    blocks: Sequence[Block]
    level: int = 2
    remark: str = ""
    """Beside the title: how the section differs from others with that title."""
    tag: str = ""
    """`real data`, `synthetic data` or nothing."""
    best: str = ""
    """Who has rank 1."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Task, pattern and size of a section that can be filtered by them."""


@dataclass(frozen=True)
class Document:
    title: str
    introduction: Sequence[Block]
    legend: Sequence[Block]
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
