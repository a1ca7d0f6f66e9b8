"""When a bracket is narrow enough: at a gap, or as soon as it is told from every value at which its reading changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from estimators.errors import InputError
from estimators.results import Interval

BELOW = 1 - 1e-9
"""An upper end is strictly below a threshold."""
WIDEST = 1.0
"""Sweeps and certificates aim at no wider a bracket than this, whatever would do."""


@dataclass(frozen=True)
class Threshold:
    """Values from ``low`` to ``high`` of R_L = Lambda/(d lambda), or of Lambda itself, at which a reading changes.

    low = high: one value. Else the true value that stands there is not known any closer, say that of another point:
    a bracket that lies wholly between the two cannot be told from it by narrowing, and need not go on for it.
    """

    low: float
    high: float
    quantity: Literal["density", "l1"] = "density"


def at(*values: float) -> tuple[Threshold, ...]:
    """Thresholds of R_L at single values."""
    return tuple(Threshold(value, value) for value in values)


@dataclass(frozen=True)
class Mark:
    """A threshold in the units of a bracket: the lower end lies above ``above``, the upper one below ``below``, or both
    within ``inside``."""

    below: float
    above: float
    inside: Interval

    def highest(self, lower: float) -> float:
        """Below which an upper end is told from the mark, with this lower end."""
        if lower > self.above:
            return math.inf
        return self.inside[1] if lower > self.inside[0] and self.inside[1] > lower else self.below


@dataclass(frozen=True)
class Goal:
    """A bracket ends at upper/lower - 1 <= gap, or told from all ``marks`` where there are any."""

    gap: float
    marks: tuple[Mark, ...] = ()

    def highest(self, lower: float) -> float:
        """The largest upper end with which a bracket of this lower end has ended; infinite where any would do."""
        narrow = (1 + self.gap) * lower
        if not self.marks:
            return narrow
        return max(narrow, BELOW * min(mark.highest(lower) for mark in self.marks))

    def slack(self, lower: float) -> float:
        """The width to aim at, relative: that of the widest bracket with this lower end that would do."""
        return min(self.highest(lower) / lower - 1, max(WIDEST, self.gap)) if lower > 0 else self.gap

    def cleared(self, lower: float, upper: float) -> bool:
        """Whether there are marks, and the bracket is told from all of them."""
        return bool(self.marks) and upper <= BELOW * min(mark.highest(lower) for mark in self.marks)


def marks(thresholds: Sequence[Threshold], whole: Interval, scale: float = 1.0) -> tuple[Mark, ...]:
    """The thresholds in the units of a bracket on Lambda/scale.

    Args:
        thresholds: of R_L or of Lambda.
        whole: the interval of d lambda.
        scale: what Lambda is divided by.
    """
    return tuple(_mark(threshold, whole, scale) for threshold in thresholds)


def _mark(threshold: Threshold, whole: Interval, scale: float) -> Mark:
    """Below, above or inside whatever d lambda is in its interval."""
    least, most = whole if threshold.quantity == "density" else (1.0, 1.0)
    low, high = threshold.low / scale, threshold.high / scale
    return Mark(low * least, high * most, (low * most, high * least))


def check_thresholds(thresholds: Sequence[Threshold]) -> None:
    """Raises InputError for one that is no interval of positive numbers."""
    for one in thresholds:
        if not 0 < one.low <= one.high < math.inf:
            raise InputError(f"no bracket is told from {one.low} to {one.high}", "thresholds", "give 0 < low <= high")
