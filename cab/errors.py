"""Errors that a user can mend (all others are bugs or are recorded), and the text of an error in one line."""


class UserError(Exception):
    """A request that cannot be met; the message is one line that names the value, what is allowed and what to do."""


class NoSuchPattern(UserError):
    """A task without the pattern: a mistake in a single cell, in a sweep a pair that the product cannot avoid."""


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
