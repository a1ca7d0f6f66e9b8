"""Which points a replicate takes: blocks for a bootstrap, permutations for a test. Pure arithmetic on indices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from estimators.results import Interval

REPLICATES = 400
PERMUTATIONS = 499
ENDS = (2.5, 97.5)

Index = NDArray[np.intp]


def members(labels: Sequence[Hashable]) -> dict[Hashable, Index]:
    """The places of each label, labels in the order in which they appear."""
    places: dict[Hashable, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    return {label: np.array(own, dtype=np.intp) for label, own in places.items()}


def block_samples(labels: Sequence[Hashable], count: int, seed: int) -> NDArray[np.float64]:
    """Block bootstrap (Kuensch, Annals of Statistics 1989): how often each replicate holds each point, (count, points).

    Each group keeps its number of points n: ceil(n / l) blocks of l = n^(1/3) consecutive ones of its own, rounded,
    the last block cut.
    """
    groups = list(members(labels).values())
    lengths = [round(len(own) ** (1 / 3)) for own in groups]
    blocks = [-(-len(own) // length) for own, length in zip(groups, lengths, strict=True)]
    ends = [len(own) - length + 1 for own, length in zip(groups, lengths, strict=True)]
    starts = np.random.default_rng(seed).integers(np.repeat(ends, blocks), size=(count, sum(blocks)))
    held = np.zeros((count, len(labels)))
    rows = np.arange(count)[:, None]
    for own, length, drawn in zip(groups, lengths, np.split(starts, np.cumsum(blocks)[:-1], 1), strict=True):
        places = (drawn[:, :, None] + np.arange(length)).reshape(count, -1)[:, : len(own)]
        np.add.at(held, (rows, own[places]), 1)
    return held


def symmetric(estimate: float, center: float, replicates: NDArray[np.float64]) -> Interval:
    """estimate -+ the largest distance of the replicates' 2.5% and 97.5% quantiles from ``center``; not below 0.

    ``center`` is what the replicates repeat: the estimate itself, or the same statistic of fewer coordinates. An
    envelope's replicates lie to one side of it, so that plain quantiles miss the true L1 half of the time.
    """
    low, high = np.percentile(replicates, ENDS)
    half = float(max(center - low, high - center, 0.0))
    return max(estimate - half, 0.0), estimate + half


def permutation_p(statistic: Callable[[Index], NDArray[np.float64]], points: int, count: int, seed: int) -> float:
    """Share of orders in which the statistic is at least that of the given order, which counts as one of them.

    All orders where they are no more than ``count``, else so many random ones.

    Args:
        statistic: of orders (m, points), (m,).
        points: how many are put in order.
        count: of the random orders.
        seed: of the random orders.
    """
    given = np.arange(points)
    if math.factorial(points) <= count:
        orders: Index = np.array(list(itertools.permutations(range(points))), dtype=np.intp)
    else:
        generator = np.random.default_rng(seed)
        orders = np.array([given, *(generator.permutation(points) for _ in range(count))])
    values = statistic(orders)  # the given order is the first
    return float((values >= values[0]).mean())
