"""What a failure is called in a record."""

import errno

from attentions.base import Unsupported
from cab.store.record import Status

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Full, over a quota, or not allowed."""


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


def cannot_write(error: BaseException) -> bool:
    """Whether a folder is full, or may not be written: nothing that a record should say of its cell."""
    return isinstance(error, OSError) and error.errno in NOT_WRITABLE
