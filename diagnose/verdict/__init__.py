"""The answer and what it rests on: pure functions of what was measured. Needs no torch."""

from __future__ import annotations

from diagnose.verdict.rule import decide
from diagnose.verdict.theory import bounds

__all__ = ["bounds", "decide"]
