"""Errors and exit codes of the command."""

from __future__ import annotations

from estimators.errors import InputError

__all__ = ["BUG", "FINISHED", "INTERRUPTED", "UNUSABLE", "InputError"]

FINISHED = 0
BUG = 1
UNUSABLE = 2
INTERRUPTED = 130
