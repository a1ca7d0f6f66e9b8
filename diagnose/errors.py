"""Errors and exit codes of the command."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from estimators.errors import InputError

__all__ = [
    "BUG",
    "DISK_FULL",
    "FINISHED",
    "HELD_OUT",
    "INTERRUPTED",
    "TRAINED_ON",
    "UNUSABLE",
    "InputError",
    "among",
    "out_of_memory",
]

FINISHED = 0
BUG = 1
UNUSABLE = 2
INTERRUPTED = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of the system that room on the disk would mend."""
HELD_OUT = "held-out samples"
TRAINED_ON = "rows that runs train on"
"""Samples beside the sample set, as errors name them."""


@contextlib.contextmanager
def among(samples: str) -> Iterator[None]:
    """An InputError raised inside says among which samples the one is that it names."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, f"{samples}, {error.where}", error.hint) from error


def out_of_memory(error: Exception) -> bool:
    """Whether memory gave out, of the machine or of its accelerator; torch raises no class of its own for the first."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )
