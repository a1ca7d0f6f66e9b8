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
TOGETHER = 1 << 14
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
        weights: (T,), how often each point counts in the mean.
        spanned: (c,), whether x spans a decade where these points stand for more than themselves.
    """
    x, y = cloud.x, cloud.y
    top, ranges = y.max(0), span(x)
    spanned = ranges >= RANGE if spanned is None else spanned
    a, b = envelope(x, y, weights)
    gain = top - a - b * np.average(x, 0, weights)
    helps = (b > 0) & spanned & (gain > 2 * cloud.slack.max(0))
    return Lines(np.where(helps, a, top), np.where(helps, b, 0.0), helps, np.where(helps, gain, 0.0), ranges)


def envelope(x: Array, y: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """a, b >= 0 of least mean height a + b mean(x) with a + b x_t >= y_t for every t, of each column.

    Over all such lines the least height at mean(x) is that of the upper hull of the points, of (0, 0) (a >= 0) and of
    the direction (1, 0) (b >= 0). So for each point left of the mean the steepest chord to the points right of it is
    found; the chord that passes highest over the mean is the line. Exact but for rounding; of several best lines
    the one with the smallest slope that its left end allows.

    Args:
        x, y: (T, c), not negative.
        weights: (T,), above 0; how often each point counts in the mean.
    """
    parts = [
        _envelope(x[:, start : start + TOGETHER], y[:, start : start + TOGETHER], weights)
        for start in range(0, x.shape[1], TOGETHER)
    ]
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def _envelope(x: Array, y: Array, weights: Array | None) -> tuple[Array, Array]:
    mean = np.average(x, 0, weights)
    origin = np.zeros((1, x.shape[1]))
    from_mean = np.concatenate([origin, x]) - mean
    # A point over the mean itself is an end of both its edges: it counts as left.
    right = from_mean > NEAR * mean
    # Ends at infinity: chords to them are level.
    ends_x = np.where(right, np.concatenate([origin, x]), np.inf)
    ends_y = np.where(right, np.concatenate([origin, y]), 0.0)
    best, b = np.full(x.shape[1], -np.inf), np.zeros(x.shape[1])
    for i in range(len(x) + 1):
        own_x, own_y = (x[i - 1], y[i - 1]) if i else (origin[0], origin[0])
        with np.errstate(divide="ignore", invalid="ignore"):  # a right end against itself; it is no left end
            slope = np.maximum(((ends_y - own_y) / (ends_x - own_x)).max(0), 0.0)
        height = np.where(right[i], -np.inf, own_y - slope * np.minimum(from_mean[i], 0.0))
        better = height > best
        best, b = np.where(better, height, best), np.where(better, slope, b)
    return np.maximum((y - b * x).max(0), 0.0), b


def span(x: Array) -> Array:
    """Largest over smallest of each column: 1 where all vanish, infinity where only some do."""
    low, high = x.min(0), x.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(low > 0, high / low, np.where(high > 0, np.inf, 1.0))
