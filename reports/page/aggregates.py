"""Vectors of any size as a few hundred numbers: bins on a logarithmic axis, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PER_DECADE = 16
DECADES = (-46, 40)
"""Powers of ten that hold every positive float32."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Bins:
    """|values| in bins of equal ratio: how many lie in each, their sum, and how many are zero.

    ``edges`` has one entry more than ``counts`` and ``sums``; empty bins at both ends are cut.
    """

    edges: Array
    counts: Array
    sums: Array
    zeros: int

    @property
    def size(self) -> int:
        """Number of coordinates, zeros included."""
        return int(self.counts.sum()) + self.zeros


def _chunks(vector: Mapping[str, Any]) -> Iterator[Array]:
    for array in vector.values():
        flat = np.asarray(array).reshape(-1)
        for start in range(0, flat.size, CHUNK):
            yield flat[start : start + CHUNK].astype(np.float64)


def bins(vector: Mapping[str, Any], sign: int = 0) -> Bins:
    """Bin |x| over all tensors of a vector (parameter name -> array).

    Args:
        vector: arrays of any shape; values that are not finite are left out.
        sign: 0 takes every coordinate, 1 the positive and -1 the negative ones (zeros are then not counted).
    """
    number = PER_DECADE * (DECADES[1] - DECADES[0])
    counts, sums, zeros = np.zeros(number), np.zeros(number), 0
    for chunk in _chunks(vector):
        values = chunk[np.isfinite(chunk)]
        if sign:
            values = values[values * sign > 0]
        values = np.abs(values)
        positive = values[values > 0]
        zeros += values.size - positive.size
        index = np.floor((np.log10(positive) - DECADES[0]) * PER_DECADE).astype(np.int64)
        index = np.clip(index, 0, number - 1)
        counts += np.bincount(index, minlength=number)
        sums += np.bincount(index, weights=positive, minlength=number)
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    edges = 10.0 ** (DECADES[0] + np.arange(first, last + 1) / PER_DECADE)
    return Bins(edges, counts[first:last], sums[first:last], zeros)


def concentration(binned: Bins) -> tuple[Array, Array]:
    """Largest coordinates first: share of the coordinates against the share of the sum that they hold.

    Both run from 0 to 1; a uniform vector gives the diagonal. Exact at the edges of bins, linear between.
    """
    if binned.size == 0 or binned.sums.sum() == 0:
        return np.zeros(0), np.zeros(0)
    kept = np.flatnonzero(binned.counts)[::-1]
    share = np.cumsum(binned.counts[kept]) / binned.size
    mass = np.cumsum(binned.sums[kept]) / binned.sums.sum()
    return np.concatenate([[0.0], share, [1.0]]), np.concatenate([[0.0], mass, [1.0]])


def share_holding(curve: tuple[Array, Array], mass: float) -> float:
    """The smallest share of the coordinates that holds ``mass`` of the sum."""
    return float(np.interp(mass, curve[1], curve[0]))


def picture_width(*binned: Bins) -> int:
    """How many bins to join for a picture, so that it shows some five to fifteen bars."""
    known = [b.edges for b in binned if b.counts.size]
    span = np.log10(max(e[-1] for e in known) / min(e[0] for e in known)) if known else 0.0
    return next(width for width, most in ((1, 0.8), (2, 1.6), (4, 4.0), (8, np.inf)) if span <= most)


def decades(binned: Bins, width: int) -> tuple[Array, Array]:
    """Coarser bins for a picture: left edges (ratio 10^(width/16)) and counts."""
    if binned.counts.size == 0:
        return np.zeros(0), np.zeros(0)
    first = round(np.log10(binned.edges[0]) * PER_DECADE)
    groups = (first + np.arange(binned.counts.size)) // width
    low = int(groups[0])
    counts = np.bincount(groups - low, weights=binned.counts).astype(np.float64)
    return 10.0 ** ((low + np.arange(counts.size)) * width / PER_DECADE), counts


def signs(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Shares of coordinates whose bounds are above zero, below zero, and of unresolved sign; None without bounds."""
    above = below = total = 0
    for name, low in lower.items():
        high = upper.get(name)
        if high is None:
            continue
        above += int(np.count_nonzero(np.asarray(low) > 0))
        below += int(np.count_nonzero(np.asarray(high) < 0))
        total += int(np.asarray(low).size)
    return (above / total, below / total, (total - above - below) / total) if total else None
