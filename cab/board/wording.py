"""Names of metrics as prose."""

from cab.board.composite import is_logarithmic

WORDS = {"bits_per_byte": "bits per byte"}
"""Names of metrics as prose where replacing underscores is not enough."""


def words(name: str | None) -> str:
    return WORDS.get(name or "", (name or "score").replace("_", " "))


def counted(name: str | None) -> str:
    """What a gain or a z-score is made of: `accuracy`, or `log masked perplexity`."""
    return f"{'log ' if is_logarithmic(name or '') else ''}{words(name)}"
