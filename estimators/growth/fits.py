"""The points of a trajectory as arrays, and the pairs (L0, L1) fitted to them at four levels.

By coordinate (|g_tj|, L_tj), by tensor (||g_tb||_1, sum of L_t over b), for the whole (||g_t||_1, sum L_t), and
isotropic (||g_t||_2, ||H_t||). Pure functions of arrays; see ``envelope.py`` for the fit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from estimators.growth.envelope import RANGE, TOGETHER, Array, Cloud, Lines, fit, span
from estimators.numbers.resampling import PERMUTATIONS, REPLICATES, Index, block_samples, permutation_p, symmetric
from estimators.results import Interval

Rows = TypeVar("Rows", Array, Index)
Value = TypeVar("Value")
COORDINATES = 1000
"""Beyond so many coordinates, replicates repeat the fits of a seeded subset."""
FEWEST_RESAMPLED = 8
"""Fitted points below which a bootstrap covers far less often than it says (docs/generalized-smoothness.md)."""


@dataclass(frozen=True)
class Points:
    """T measured points. ``gradients`` |g_t| and ``bounds`` L_t are (T, d), the rest (T,).

    ``gaps`` are the widths of the brackets around sum L_t, ``norms`` upper ends of ||H_t||, ``norm_gaps`` the widths
    of their intervals. ``exact``, (T, d), says where L_tj is |h_jj|.
    """

    gradients: Array
    bounds: Array
    gaps: Array
    norms: Array
    norm_gaps: Array
    exact: NDArray[np.bool_]


class Levels(NamedTuple):
    """The clouds of the four levels."""

    coordinates: Cloud
    tensors: Cloud
    whole: Cloud
    isotropic: Cloud

    def rows(self, index: Index) -> Levels:
        """Some of the points."""
        return Levels(*(cloud.rows(index) for cloud in self))

    def subset(self, index: Index) -> Levels:
        """Some of the coordinates; the other levels stay."""
        return self._replace(coordinates=self.coordinates.columns(index))


class Pairs(NamedTuple):
    """The lines of the four levels."""

    coordinates: Lines
    tensors: Lines
    whole: Lines
    isotropic: Lines


def levels(points: Points, sizes: Sequence[int], gap: float, spread: Array) -> Levels:
    """The clouds of the points, with the slack of each height.

    L at a point is not unique. The bracket fixes its sum to W_t, the larger of its width and ``gap`` times the sum;
    a coordinate's own share of that is W_t (1/d + L_tj / sum L_t), since certificates raise all L by one factor and
    by one floor; W_t L_tj / sum L_t where L_tj is exact. Repeated starts at one point show the rest, ``spread`` (d,):
    it grows with sum L_t where curvature does. A tensor may be off by all of W_t.

    Args:
        points: as measured.
        sizes: coordinates of each tensor.
        gap: goal of the brackets.
        spread: freedom of L_j where the starts were repeated, the first of the points.
    """
    bounds, d = points.bounds, points.bounds.shape[1]
    total = bounds.sum(1, keepdims=True)
    width = np.maximum(points.gaps[:, None], gap * total)
    share = bounds / np.maximum(total, 1e-300)
    growth = np.maximum(total / max(float(total[0, 0]), 1e-300), 1.0) if total[0, 0] > 0 else np.ones_like(total)
    cuts = np.cumsum(sizes[:-1])

    def by_tensor(values: Array) -> Array:
        return np.stack([part.sum(1) for part in np.split(values, cuts, 1)], 1)

    norms = points.norms[:, None]
    return Levels(
        Cloud(points.gradients, bounds, width * (share + ~points.exact / d) + spread * growth),
        Cloud(
            by_tensor(points.gradients),
            by_tensor(bounds),
            np.broadcast_to(width, (len(total), len(sizes))),
        ),
        Cloud(points.gradients.sum(1, keepdims=True), total, width),
        Cloud(
            np.linalg.norm(points.gradients, axis=1)[:, None],
            norms,
            np.maximum(points.norm_gaps[:, None], gap * norms),
        ),
    )


def fit_levels(clouds: Levels) -> Pairs:
    """The pairs of all levels."""
    return Pairs(*map(fit, clouds))


def some_coordinates(d: int, seed: int, most: int = COORDINATES) -> NDArray[np.intp]:
    """All, or a seeded choice."""
    return np.arange(d) if d <= most else np.sort(np.random.default_rng(seed).choice(d, most, replace=False))


class Summary(NamedTuple, Generic[Value]):
    """The numbers that get an interval, or their intervals."""

    l0_l1: Value
    l1_median: Value
    isotropic_l0: Value
    isotropic_l1: Value


def summary(coordinates: Lines, isotropic: Lines) -> Summary[float]:
    """||L0||_1, the median of L1, and the isotropic pair."""
    return Summary(
        float(coordinates.a.sum()), float(np.median(coordinates.b)), float(isotropic.a[0]), float(isotropic.b[0])
    )


def intervals(
    clouds: Levels,
    groups: Sequence[Hashable],
    values: Summary[float],
    seed: int,
    most: int = COORDINATES,
    count: int = REPLICATES,
) -> Summary[Interval]:
    """95% block-bootstrap intervals of the summary of all coordinates, from so many replicates of ``most`` at most."""
    few = clouds.subset(some_coordinates(clouds.coordinates.x.shape[1], seed, most))
    lines = fit_levels(few)
    center = summary(lines.coordinates, lines.isotropic)
    samples = block_samples(groups, count, seed)
    (l0, l1), (isotropic_l0, isotropic_l1) = (_replicates(each, samples) for each in (few.coordinates, few.isotropic))
    replicates = (l0.sum(1), np.median(l1, 1), isotropic_l0[:, 0], isotropic_l1[:, 0])
    # Of a subset of the coordinates the sum is scaled to that of all.
    scale = np.array([values.l0_l1 / center.l0_l1 if center.l0_l1 > 0 else 1.0, 1.0, 1.0, 1.0])
    return Summary(
        *(
            symmetric(own, middle * factor, column * factor)
            for own, middle, factor, column in zip(values, center, scale, replicates, strict=True)
        )
    )


def _replicates(cloud: Cloud, counts: Array) -> tuple[Array, Array]:
    """L0 and L1 of each replicate, (m, c), where it holds the points so often, (m, T)."""
    c = cloud.x.shape[1]
    # Whether gradients span a decade is a matter of where the points were put, not of which were drawn again.
    spanned = span(cloud.x) >= RANGE
    lines = [fit(cloud.held(own), np.repeat(own.T, c, 1), np.tile(spanned, len(own))) for own in _some(counts, c)]
    l0, l1 = (np.concatenate(each).reshape(-1, c) for each in ([own.a for own in lines], [own.b for own in lines]))
    return l0, l1


def _some(rows: Rows, c: int) -> list[Rows]:
    """The rows in pieces whose fits of c columns each are made together."""
    each = max(1, TOGETHER // c)
    return [rows[start : start + each] for start in range(0, len(rows), each)]


def permutation_test(clouds: Levels, seed: int) -> tuple[float, float]:
    """How often gradients in another order help as much: by coordinate, isotropic.

    By coordinate "as much" is the mean over coordinates of gain over max(L_j), 0 where L1 does not help: orders that
    help the same share of coordinates differ in it.
    """
    few = clouds.subset(some_coordinates(clouds.coordinates.x.shape[1], seed))
    by_coordinate, by_norm = (_permuted(cloud, seed) for cloud in (few.coordinates, few.isotropic))
    return by_coordinate, by_norm


def _permuted(cloud: Cloud, seed: int) -> float:
    c = cloud.x.shape[1]
    top = np.maximum(cloud.y.max(0), 1e-300)

    def saved(orders: Index) -> Array:
        gains = [fit(cloud.reordered(own)).gain.reshape(-1, c) for own in _some(orders, c)]
        shares: Array = (np.concatenate(gains) / top).mean(1)
        return shares

    return permutation_p(saved, len(cloud.x), PERMUTATIONS, seed)
