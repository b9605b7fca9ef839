"""Names of metrics and tables as prose."""

from cab.report.composite import is_logarithmic

WORDS = {"bits_per_byte": "bits per byte"}
"""Names of metrics as prose where replacing underscores is not enough."""


def apart(difference: str, settings: str, room: int) -> str:
    """What tells a table from others of its title, in `room` characters: what differs, or the name of its settings."""
    return difference if 0 < len(difference) <= room else f"settings {settings}"


def words(name: str | None) -> str:
    return WORDS.get(name or "", (name or "score").replace("_", " "))


def counted(name: str | None) -> str:
    """What a gain or a z-score is made of: `accuracy`, or `log masked perplexity`."""
    return f"{'log ' if is_logarithmic(name or '') else ''}{words(name)}"
