"""The control of the pairs (L0, L1): the quadratic frozen at the first point, where the true L1 is 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from estimators.growth.envelope import Array
from estimators.growth.fits import Points
from estimators.growth.uncoupled import uncoupled
from estimators.results import Smoothness
from estimators.smoothness_vector.at_a_point import smoothness
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian, hessian

STARTS = 3
"""So often the first point is measured again where H is formed; once where it takes products, as many as the point."""
RANGES = {2: 0.954, 4: 1.978}
"""Median of the range of so many independent draws of a standard normal."""


@dataclass(frozen=True)
class Measured:
    """One point: gradient, certified curvature, ``bound``, a feasible L, and ``exact``: where it is |h_jj|.

    Gradient and bound are in the parameters' format, in which they were rounded; float64 where H is formed. The
    curvature holds no vectors of its own.
    """

    problem: Problem
    gradient: Tensor
    smoothness: Smoothness
    bound: Tensor
    exact: Tensor

    @property
    def norm(self) -> float:
        """Upper end of ||H||."""
        return _ends(self.smoothness.sharpness_interval)[1]


def measure(
    problem: Problem,
    gap: float | None,
    max_products: int,
    seed: int,
    start: Smoothness | None = None,
    beside: int = 0,
) -> tuple[Measured, Smoothness | None]:
    """Gradient and bracket at the problem's point, and the ``start`` for the next point; None where H is formed."""
    gradient = problem.flatten(problem.gradient())
    found = smoothness(
        problem, gap=gap, max_products=max_products, start=start, keep=True, beside=beside + 1, seed=seed
    )
    return Measured(problem, gradient, *_bounded(problem, found)), replace(found, vectors={}) if found.rows else None


def width(start: Smoothness) -> int:
    """Vectors of d numbers that a start holds."""
    return len(next(iter(start.rows.values()))[0])


def _bounded(problem: Problem, found: Smoothness) -> tuple[Smoothness, Tensor, Tensor]:
    """The result without its vectors, the feasible L, and where it is |h_jj|."""
    bound = problem.flatten(found.vectors)
    bare = replace(found, vectors={}, rows={})
    if problem.forms_hessian:
        return bare, *uncoupled(dense_hessian(problem), bound.double())
    return bare, bound, torch.zeros_like(bound, dtype=torch.bool)


def repeated(problem: Problem) -> int:
    """How often the first point is measured again."""
    return STARTS if problem.forms_hessian else 1


def starts(
    first: Measured,
    gap: float | None,
    max_products: int,
    seed: int,
    report: Callable[[int], None],
    beside: int = 0,
) -> list[Measured]:
    """The first point measured again from other random starts; ``report`` is called with how many are done."""
    again = []
    for number in range(1, repeated(first.problem) + 1):
        found = smoothness(first.problem, gap=gap, max_products=max_products, beside=beside, seed=seed + 7919 * number)
        curved, bound, exact = _bounded(first.problem, found)
        again.append(replace(first, smoothness=curved, bound=bound, exact=exact))
        report(number)
    return again


def spread(first: Measured, again: Sequence[Measured]) -> Array:
    """Freedom of L_j at the first point, (d,): largest minus smallest over four starts; of two starts as much as four
    would be apart, by what two and four draws of a normal usually are.

    At least the median over coordinates of that relative to L_j, times L_j: a few values may agree by chance.
    """
    bounds = _array([point.bound for point in (first, *again)])
    apart, mean = (bounds.max(0) - bounds.min(0)) * RANGES[1 + STARTS] / RANGES[len(bounds)], bounds.mean(0)
    alive = mean > 0
    usual = float(np.median(apart[alive] / mean[alive])) if alive.any() else 0.0
    at_least: Array = np.maximum(apart, usual * mean)
    return at_least


def frozen(first: Measured, again: Sequence[Measured], path: Sequence[Measured]) -> Points:
    """The path on the quadratic frozen at the first point.

    Gradients g_0 + H_0 (w_t - w_0); the curvature H_0 as it was measured from each of the starts, in turn, so that the
    control carries the same measurement error.
    """
    measured = (*again, first)
    origin = first.problem.flatten(first.problem.parameters)
    with hessian(first.problem) as product:
        return gathered(
            [
                replace(
                    measured[number % len(measured)],
                    gradient=first.gradient
                    + product((point.problem.flatten(point.problem.parameters) - origin)[:, None])[:, 0].double(),
                )
                for number, point in enumerate(path)
            ]
        )


def gathered(points: Sequence[Measured]) -> Points:
    """The points as arrays."""
    ends = [_ends((point.smoothness.l1_lower, point.smoothness.l1_upper)) for point in points]
    norms = [_ends(point.smoothness.sharpness_interval) for point in points]
    return Points(
        gradients=_array([point.gradient.abs() for point in points]),
        bounds=_array([point.bound for point in points]),
        gaps=np.array([high - low for low, high in ends]),
        norms=np.array([high for _, high in norms]),
        norm_gaps=np.array([high - low for low, high in norms]),
        exact=torch.stack([point.exact for point in points]).cpu().numpy(),
    )


def _array(vectors: Sequence[Tensor]) -> Array:
    stacked: Array = np.empty((len(vectors), vectors[0].numel()))
    for row, vector in zip(stacked, vectors, strict=True):
        row[:] = vector.cpu().double().numpy()
    return stacked


def _ends(ends: tuple[float | None, float | None] | None) -> tuple[float, float]:
    assert ends is not None
    assert ends[0] is not None
    assert ends[1] is not None
    return ends[0], ends[1]
