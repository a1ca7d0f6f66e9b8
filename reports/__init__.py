"""From a stored diagnosis to one self-contained page; never measures, never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.page.page import render

__all__ = ["render"]


def __getattr__(name: str) -> Any:
    if name == "render":
        from reports.page.page import render

        return render
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
