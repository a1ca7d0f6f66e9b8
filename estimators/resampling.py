"""Which points a replicate takes: blocks for a bootstrap, permutations for a test. Pure arithmetic on indices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence

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


def block_samples(labels: Sequence[Hashable], count: int, seed: int) -> Iterator[tuple[Index, NDArray[np.float64]]]:
    """Block bootstrap (Kuensch, Annals of Statistics 1989): which points a replicate holds, and how often each.

    Each group keeps its number of points n: ceil(n / l) blocks of l = n^(1/3) consecutive ones of its own, rounded,
    the last block cut.
    """
    generator = np.random.default_rng(seed)
    groups = list(members(labels).values())
    for _ in range(count):
        drawn = []
        for own in groups:
            length = round(len(own) ** (1 / 3))
            starts = generator.integers(len(own) - length + 1, size=-(-len(own) // length))
            drawn.append(own[(starts[:, None] + np.arange(length)).ravel()[: len(own)]])
        index, counts = np.unique(np.concatenate(drawn), return_counts=True)
        yield index, counts.astype(np.float64)


def symmetric(estimate: float, center: float, replicates: NDArray[np.float64]) -> Interval:
    """estimate -+ the largest distance of the replicates' 2.5% and 97.5% quantiles from ``center``; not below 0.

    ``center`` is what the replicates repeat: the estimate itself, or the same statistic of fewer coordinates. An
    envelope's replicates lie to one side of it, so that plain quantiles miss the true L1 half of the time.
    """
    low, high = np.percentile(replicates, ENDS)
    half = float(max(center - low, high - center, 0.0))
    return max(estimate - half, 0.0), estimate + half


def permutation_p(statistic: Callable[[Index], float], points: int, count: int, seed: int) -> float:
    """Share of orders in which the statistic is at least that of the given order, which counts as one of them.

    All orders where they are no more than ``count``, else so many random ones.
    """
    given = np.arange(points)
    if math.factorial(points) <= count:
        orders: list[Index] = [np.array(order, dtype=np.intp) for order in itertools.permutations(range(points))]
    else:
        generator = np.random.default_rng(seed)
        orders = [given, *(generator.permutation(points) for _ in range(count))]
    observed = statistic(given)
    return sum(statistic(order) >= observed for order in orders) / len(orders)
