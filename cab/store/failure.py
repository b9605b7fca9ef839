"""How an error is recorded. Light to import."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cab.errors import one_line

if TYPE_CHECKING:
    from cab.store.record import Status

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EPIPE)
"""The disk is full, over a quota or read-only, the user has no permission, or nobody reads what is printed any more."""


def failure(error: Exception) -> tuple[Status, str]:
    """The status and the one-line reason of a record."""
    from attentions.base import Unsupported

    text = one_line(error)
    if isinstance(error, Unsupported):
        return "unsupported", text
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # torch.OutOfMemoryError is one
        and ("DefaultCPUAllocator" in text or "out of memory" in text)
    ):
        return "out_of_memory", text
    return "error", f"{type(error).__name__}: {text}"


def cannot_write(error: BaseException) -> bool:
    """Whether a file cannot be written. Such an error is never recorded: it has nothing to do with the cell."""
    return isinstance(error, OSError) and error.errno in NOT_WRITABLE
