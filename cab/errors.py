"""The error that a user can mend: everything else is a bug or a recorded row."""


class UserError(Exception):
    """A request that cannot be met; the message is one line that names the value, what is allowed and what to do."""


class NoSuchPattern(UserError):
    """A task without the pattern: a mistake in a single cell, in a sweep a pair that the product cannot avoid."""
