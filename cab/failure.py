"""What a failure is called in a record."""

from attentions.base import Unsupported
from cab.record import Status


def failure(error: Exception) -> tuple[Status, str]:
    """Status and one line of reason."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Unsupported):
        return "unsupported", text
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # torch.OutOfMemoryError is one
        and ("DefaultCPUAllocator" in text or "out of memory" in text)
    ):
        return "out_of_memory", text
    return "error", f"{type(error).__name__}: {text}"
