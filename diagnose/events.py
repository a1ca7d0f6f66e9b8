"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Events(Protocol):
    """Called by the pipeline as it goes; implementations only show, they never change the run."""

    def opened(self, lines: Sequence[str]) -> None:
        """Model and data as understood, a line each."""

    def progress(self, stage: str, done: float, total: float) -> None:
        """A stage is running: ``done`` of ``total`` forward+backward passes."""

    def finished(self, stage: str, amount: str, seconds: float, finding: str) -> None:
        """A stage has ended: what it used ("256 samples"), how long it took, what it found in a few words."""

    def resumed(self, stages: Sequence[str]) -> None:
        """Stages taken over from an earlier attempt."""


class Silent:
    """Events that nobody watches."""

    def opened(self, lines: Sequence[str]) -> None:
        """Show nothing."""

    def progress(self, stage: str, done: float, total: float) -> None:
        """Show nothing."""

    def finished(self, stage: str, amount: str, seconds: float, finding: str) -> None:
        """Show nothing."""

    def resumed(self, stages: Sequence[str]) -> None:
        """Show nothing."""
