"""Numbers and names as text."""

from collections.abc import Callable

from cab.report.document import MISSING
from cab.report.groups import is_logarithmic
from cab.report.stats import Estimate


def words(name: str | None) -> str:
    """A name with spaces: `bits per byte`."""
    return (name or "score").replace("_", " ")


def scale_words(metric: str | None) -> str:
    """What a gain or a z-score of a metric is made of: `accuracy`, or `log masked perplexity`."""
    return f"log {words(metric)}" if is_logarithmic(metric) else words(metric)


def number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.3g}"


def z_score(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.3f}"


def two_decimals(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def estimate(found: Estimate | None, text: Callable[[float | None], str] = number) -> str:
    """`1.92 (1.90 to 1.94)`."""
    if found is None:
        return MISSING
    if found.interval is None:
        return text(found.value)
    return f"{text(found.value)} ({text(found.interval.low)} to {text(found.interval.high)})"


def count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def size(bytes_: float) -> str:
    for scale, unit in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if bytes_ >= scale:
            return f"{bytes_ / scale:.3g} {unit}"
    return f"{bytes_:.0f} bytes"


def commit(revision: str | None) -> str:
    """The first ten digits of a revision, and `+dirty` if it has that."""
    name, plus, dirty = (revision or "").partition("+")
    return name[:10] + plus + dirty
