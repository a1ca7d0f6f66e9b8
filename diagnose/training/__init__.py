"""The tuned race: every method on the same task, from the same start, with the same batches.

``race`` trains and ``replay`` walks one run again (torch); ``summary`` and ``findings`` read the finished runs (numpy
and scipy). Importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diagnose.training.runs import Leg, LegStore, MemoryStore, Race, RaceSettings, rows

if TYPE_CHECKING:
    from diagnose.training.racing import race
    from diagnose.training.running import replay

_HOME = {"race": "racing", "replay": "running"}
__all__ = ["Leg", "LegStore", "MemoryStore", "Race", "RaceSettings", "race", "replay", "rows"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"diagnose.training.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
