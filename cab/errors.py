"""Errors that a user can mend (all others are bugs or are recorded), and the text of an error in one line."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 400
"""Characters of an error in one line. What is longer repeats a user's own long value."""


class UserError(Exception):
    """A request that cannot be met; the message is one line that names the value, what is allowed and what to do."""


class NoSuchPattern(UserError):
    """A task without the pattern: a mistake in a single cell, in a sweep a pair that the product cannot avoid."""


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def instead(given: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: the closest one of the known, and all of them."""
    names = list(known)
    close = get_close_matches(given.lower(), names, n=1)
    return f"did you mean {close[0]}? It has {', '.join(names)}" if close else f"it has {', '.join(names) or 'none'}"
