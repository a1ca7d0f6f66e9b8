"""Errors and exit codes of the command."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from estimators.errors import InputError

__all__ = ["BUG", "DISK_FULL", "FINISHED", "INTERRUPTED", "UNUSABLE", "InputError", "among_held_out", "out_of_memory"]

FINISHED = 0
BUG = 1
UNUSABLE = 2
INTERRUPTED = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of the system that room on the disk would mend."""


@contextlib.contextmanager
def among_held_out() -> Iterator[None]:
    """An InputError raised inside says that the sample is one of those held out."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, f"held-out samples, {error.where}", error.hint) from error


def out_of_memory(error: Exception) -> bool:
    """Whether memory gave out, of the machine or of its accelerator; torch raises no class of its own for the first."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )
