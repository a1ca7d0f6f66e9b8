"""Central differences: derivatives of a function of one number that trust no rule of differentiation.

Four values at -2h, -h, h, 2h: the error is h^4/30 times the fifth derivative, and rounding adds about 1.5/h units in
the last place of the values. In float64 that is 1e-12 or so at h = 1e-3 for functions of ordinary scale. Where a kink
lies between -2h and 2h the answer is wrong by its jump, whatever h; so callers try a shorter step before they judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = TypeVar("Values", float, Array)
STEPS = (1e-3, 1e-5)
"""Steps along a unit vector: for smooth functions, and one that passes by the kinks that the first one met."""
SMOOTH = 1e-9
"""So close they come where no kink is near: the next step would not tell more."""
ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""Of a value that is a sum of some hundred numbers, relative; 1.5 of it remain in a difference."""


def slope(value: Callable[[float], Values], h: float) -> Values:
    """The derivative of ``value`` at 0."""
    near, far = value(h) - value(-h), value(2 * h) - value(-2 * h)
    return (8 * near - far) / (12 * h)


def mixed(value: Callable[[float, float], Array], h: float) -> Array:
    """d^2 value / ds dt at (0, 0), from sixteen values."""
    return slope(lambda s: slope(lambda t: value(s, t), h), h)


def disagreement(ours: Array | float, value: Callable[[float], Array]) -> float:
    """How far ``ours`` is from the slope of ``value``, relative to the largest number: the least over :data:`STEPS`.

    What rounding of the values may leave of a difference is not counted: without it a slope of 0 would be all error.
    """
    level, apart = float(np.abs(value(0.0)).max(initial=0.0)), np.inf
    for h in STEPS:
        apart = min(apart, _off(np.asarray(ours), slope(value, h), ROUNDING * level / h))
        if apart <= SMOOTH:
            break
    return apart


def _off(ours: Array, wanted: Array, rounding: float) -> float:
    error = float(np.abs(ours - wanted).max(initial=0.0)) - rounding
    size = float(max(np.abs(ours).max(initial=0.0), np.abs(wanted).max(initial=0.0)))
    return error / size if error > 0 else 0.0
