"""Tables as plain text, no wider than the terminal.

On a terminal that is too narrow, a number and its interval stand below each other, and the widest columns are wrapped.
Where the output is not a terminal, a row is one line.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

GAP = 2
"""Characters between columns."""
NARROWEST = 6
"""Characters of a column that is wrapped."""


def plain_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """`rows` and `headers` have one text per column, without line breaks."""
    width, lines = terminal_width(), [list(headers), *map(list, rows)]
    if width and sum(_widths(lines)) + GAP * (len(headers) - 1) > width:
        lines = [[_below_each_other(text) for text in line] for line in lines]
        columns = _columns(lines, width - GAP * (len(headers) - 1))
        lines = [[_wrapped(text, most) for text, most in zip(line, columns, strict=True)] for line in lines]
    widths = _widths(lines)
    head, *body = (_row(line, widths) for line in lines)
    return "\n".join([head, (" " * GAP).join("-" * width for width in widths), *body])


def wrapped(text: str) -> str:
    """A line of text, wrapped at the terminal's width; further lines are indented."""
    width = terminal_width()
    return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False) if width else text


def terminal_width() -> int | None:
    """Columns; None where the output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Of the columns."""
    return [
        max(len(each) for text in column for each in text.split("\n")) if column else 0
        for column in zip(*lines, strict=True)
    ]


def _below_each_other(text: str) -> str:
    """`0.64`, `(0.60 to 0.69)`, `at 1,024`."""
    return text.replace(" (", "\n(").replace(" at ", "\nat ")


def _columns(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Widths of the columns that have `width` together if that is possible: the widest give way, to the length of their
    longest word before words are broken."""
    widths = _widths(lines)
    words = [max(len(word) for text in column for word in _words(text)) for column in zip(*lines, strict=True)]
    for least in (words, [min(NARROWEST, each) for each in widths]):
        for most in range(max(widths), NARROWEST - 1, -1):
            columns = [min(each, max(most, word)) for each, word in zip(widths, least, strict=True)]
            if sum(columns) <= width:
                return columns
    return columns


def _words(text: str) -> list[str]:
    """What is not broken: a name is, after an underscore, and `> 2,048` is not."""
    return text.replace("= ", "=\0").replace("> ", ">\0").replace("_", "_ ").split() or [""]


def _wrapped(text: str, most: int) -> str:
    """Lines of at most so many characters; see `_words`."""
    kept = text.replace("= ", "=\0").replace("> ", ">\0").replace("_", "_\1 ")
    lines = [textwrap.fill(line, most, break_on_hyphens=False) for line in kept.split("\n")]
    return "\n".join(lines).replace("\0", " ").replace("_\1 ", "_").replace("\1", "")


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Its lines, one below the other."""
    lines = zip_longest(*(cell.split("\n") for cell in cells), fillvalue="")
    padded = ((" " * GAP).join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
