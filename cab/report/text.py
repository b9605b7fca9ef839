"""Numbers and names as text."""

from cab.report.stats import Estimate

MISSING = "-"


def words(name: str | None) -> str:
    """A name with spaces: `bits per byte`."""
    return (name or "score").replace("_", " ")


def is_logarithmic(metric: str | None) -> bool:
    """Perplexities count by their logarithm."""
    return (metric or "").endswith("perplexity")


def scale_words(metric: str | None) -> str:
    """What a gain or a z-score of a metric is made of: `accuracy`, or `log masked perplexity`."""
    return f"log {words(metric)}" if is_logarithmic(metric) else words(metric)


def number(value: float | None, form: str = ".4g") -> str:
    """`form` as in format()."""
    return MISSING if value is None else format(value, form)


def count(value: int | None) -> str:
    return number(value, ",")


def estimate(found: Estimate | None, form: str = ".4g") -> str:
    """`1.92 (1.90 to 1.94)`."""
    if found is None:
        return MISSING
    text = number(found.value, form)
    return f"{text} ({found.interval.low:{form}} to {found.interval.high:{form}})" if found.interval else text


def commit(revision: str | None) -> str:
    """The first ten digits of a revision, and `+dirty` if it has that."""
    name, plus, dirty = (revision or "").partition("+")
    return name[:10] + plus + dirty
