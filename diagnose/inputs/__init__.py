"""Opening what the user named: models by name or object, data by name, path or object. Loads torch when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diagnose.inputs.opening import Opened, open_task

__all__ = ["Opened", "open_task"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from diagnose.inputs import opening

        return getattr(opening, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
