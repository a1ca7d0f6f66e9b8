"""Errors and exit codes of the command."""

from __future__ import annotations

import errno

from estimators.errors import InputError

__all__ = ["BUG", "DISK_FULL", "FINISHED", "INTERRUPTED", "UNUSABLE", "InputError"]

FINISHED = 0
BUG = 1
UNUSABLE = 2
INTERRUPTED = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of the system that room on the disk would mend."""
