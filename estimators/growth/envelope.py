"""Lines above points: the fit that turns measured curvature into a pair (L0, L1). Pure functions of arrays.

Shapes: T points in rows, c separate fits in columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RANGE = 10.0
"""A slope is identified only where gradients span this factor."""
TOGETHER = 1 << 13
"""Columns that are fitted at once: as many as stay in a processor's cache."""
NEAR = 1e-8


@dataclass(frozen=True)
class Cloud:
    """Points (x, y) of c fits, x a size of the gradient and y one of the curvature, with the slack of each y.

    ``slack`` is what the measurement of y leaves free, in the unit of y. All three are (T, c).
    """

    x: Array
    y: Array
    slack: Array

    def rows(self, index: NDArray[np.intp]) -> Cloud:
        """Some of the points, in any order."""
        return Cloud(self.x[index], self.y[index], self.slack[index])

    def columns(self, index: NDArray[np.intp]) -> Cloud:
        """Some of the fits."""
        return Cloud(self.x[:, index], self.y[:, index], self.slack[:, index])

    def reordered(self, orders: NDArray[np.intp]) -> Cloud:
        """x of the points in each of the orders (m, T), y in its own: m fits for each one."""
        return self._repeated(self.x[orders.T], len(orders))

    def held(self, counts: Array) -> Cloud:
        """The points that are left where the others are (0, 0), which hold down no line: m fits for each one.

        Args:
            counts: (m, T), above 0 for a point that is left.
        """
        left = (counts > 0).T[:, :, None]
        return Cloud(*(_flat(left * part[:, None]) for part in (self.x, self.y, self.slack)))

    def _repeated(self, x: Array, count: int) -> Cloud:
        shape = (len(x), count, x.shape[2])
        y, slack = (_flat(np.broadcast_to(part[:, None], shape)) for part in (self.y, self.slack))
        return Cloud(_flat(x), y, slack)


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


@dataclass(frozen=True)
class Lines:
    """y <= a + b x at every point, with b = 0 where ``helps`` is False. All (c,).

    ``gain``: how far the mean height of the line lies below the constant max(y), 0 where b = 0.
    ``ranges``: largest x over smallest.
    """

    a: Array
    b: Array
    helps: NDArray[np.bool_]
    gain: Array
    ranges: Array


def fit(cloud: Cloud, weights: Array | None = None, spanned: NDArray[np.bool_] | None = None) -> Lines:
    """The envelope of each column, its slope kept only where the points tell it from 0.

    That is where x spans a decade and the mean height falls by more than twice the largest slack below max(y):
    less can come from the freedom of each y.

    Args:
        cloud: the points.
        weights: (T, c), how often each point counts in the mean of each fit.
        spanned: (c,), whether x spans a decade where these points stand for more than themselves.
    """
    x, y = cloud.x, cloud.y
    top, ranges = y.max(0), span(x)
    spanned = ranges >= RANGE if spanned is None else spanned
    a, b = envelope(x, y, weights)
    gain = top - a - b * mean_of(x, weights)
    helps = (b > 0) & spanned & (gain > 2 * cloud.slack.max(0))
    return Lines(np.where(helps, a, top), np.where(helps, b, 0.0), helps, np.where(helps, gain, 0.0), ranges)


def envelope(x: Array, y: Array, weights: Array | None = None, together: int = TOGETHER) -> tuple[Array, Array]:
    """a, b >= 0 of least mean height a + b mean(x) with a + b x_t >= y_t for every t, of each column.

    The line runs through a point left of the mean, or (0, 0) (a >= 0), and one right of it, or level (b >= 0). The one
    that starts at a left point i and lies above all right ones has the slope of the steepest chord to them; the line
    sought has the least slope among those. From (0, 0) on, the left point that lies highest above the last slope takes
    over until there is none higher: slopes only fall, and after three to five points there is no other. Exact but for
    rounding; of several best lines the one with the smallest slope that its left end allows.

    Args:
        x, y: (T, c), not negative.
        weights: (T, c), how often each point counts in the mean of each fit.
        together: columns that are fitted at once.
    """
    pieces = [slice(start, start + together) for start in range(0, x.shape[1], together)]
    parts = [_envelope(x[:, own], y[:, own], None if weights is None else weights[:, own]) for own in pieces]
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def mean_of(x: Array, weights: Array | None) -> Array:
    """The mean of each column, (c,)."""
    found: Array = x.mean(0) if weights is None else (weights * x).sum(0) / weights.sum(0)
    return found


def _envelope(x: Array, y: Array, weights: Array | None) -> tuple[Array, Array]:
    mean = mean_of(x, weights)
    # A point over the mean itself is an end of both its edges: it counts as left.
    right = x > mean + NEAR * mean
    # Ends at infinity: chords to them are level.
    ends_x, ends_y = np.where(right, x, np.inf), np.where(right, y, 0.0)
    left_y = np.where(right, -np.inf, y)
    b = np.maximum((ends_y / ends_x).max(0), 0.0)
    columns = np.arange(x.shape[1])
    while True:
        above = left_y - b * x
        highest = above.argmax(0)
        # Below (0, 0) it starts no line with a >= 0.
        better = above[highest, columns] > 0
        own_x, own_y = np.where(better, x[highest, columns], 0.0), np.where(better, y[highest, columns], 0.0)
        slope = np.maximum(((ends_y - own_y) / (ends_x - own_x)).max(0), 0.0)
        if not (slope < b).any():
            return np.maximum((y - b * x).max(0), 0.0), b
        b = np.minimum(slope, b)


def span(x: Array) -> Array:
    """Largest over smallest of each column: 1 where all vanish, infinity where only some do."""
    low, high = x.min(0), x.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(low > 0, high / low, np.where(high > 0, np.inf, 1.0))
