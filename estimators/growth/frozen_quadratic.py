"""The control of the pairs (L0, L1): the quadratic frozen at the first point, where the true L1 is 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from estimators.growth.envelope import Array
from estimators.growth.fits import Points
from estimators.growth.points import Measured, array_of, bracketed, gathered
from estimators.task.problem import Problem
from estimators.task.products import hessian

STARTS = 3
"""So often the first point is measured again where H is formed; once where it takes products, as many as the point."""
RANGES = {2: 0.954, 4: 1.978}
"""Median of the range of so many independent draws of a standard normal."""


def repeated(problem: Problem) -> int:
    """How often the first point is measured again."""
    return STARTS if problem.forms_hessian else 1


def starts(
    first: Measured,
    gap: float | None,
    max_products: int,
    seed: int,
    report: Callable[[float], None],
    beside: int = 0,
) -> list[Measured]:
    """The first point measured again from other random starts; ``report`` is called with how many are done."""
    again = []
    for number in range(1, repeated(first.problem) + 1):
        another = seed + 7919 * number
        again.append(bracketed(first.problem, first.gradient, gap, max_products, another, beside)[0])
        report(number)
    return again


def spread(first: Measured, again: Sequence[Measured]) -> Array:
    """Freedom of L_j at the first point, (d,): largest minus smallest over four starts; of two starts as much as four
    would be apart, by what two and four draws of a normal usually are.

    At least the median over coordinates of that relative to L_j, times L_j: a few values may agree by chance.
    """
    bounds = array_of([point.bound for point in (first, *again)])
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
