"""Which losses are told apart: those further from each other than rounding moves them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Key = TypeVar("Key")
ROUNDINGS = 2.0
"""Two losses are two roundings apart at most."""


def resolution(measured: Iterable[float | None]) -> float:
    """Losses closer than this are equal, from what rounding did to each of them (``Leg.rounding``); 0 where no run has
    measured it."""
    return ROUNDINGS * max((one for one in measured if one is not None), default=0.0)


def lowest(losses: Mapping[Key, float], resolutions: Mapping[Key, float]) -> list[Key]:
    """The keys whose loss is not told apart from the lowest one, in their order; empty without a loss."""
    if not losses:
        return []
    least = min(losses, key=lambda key: losses[key])

    def level(key: Key) -> float:
        return losses[least] + max(resolutions.get(least, 0.0), resolutions.get(key, 0.0))

    return [key for key in losses if losses[key] <= level(key)]
