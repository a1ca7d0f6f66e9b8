"""Measured points: gradient, bracket and a feasible L at each, and all of them as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from estimators.growth.envelope import Array
from estimators.growth.fits import Points
from estimators.results import Smoothness
from estimators.smoothness_vector.at_a_point import smoothness
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian

COUPLING = 1e-3
"""Largest sum of |H_jk| over k, relative to |h_jj|, of a coordinate that counts as uncoupled."""


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
    point, result = bracketed(problem, gradient, gap, max_products, seed, beside + 1, start, keep=True)
    return point, replace(result, vectors={}) if result.rows else None


def bracketed(
    problem: Problem,
    gradient: Tensor,
    gap: float | None,
    max_products: int,
    seed: int,
    beside: int,
    start: Smoothness | None = None,
    keep: bool = False,
) -> tuple[Measured, Smoothness]:
    """The point with this gradient and a bracket of its curvature, and the result with its vectors."""
    result = smoothness(problem, gap=gap, max_products=max_products, start=start, keep=keep, beside=beside, seed=seed)
    bound = problem.flatten(result.vectors)
    exact = torch.zeros_like(bound, dtype=torch.bool)
    if problem.forms_hessian:
        bound, exact = uncoupled(dense_hessian(problem), bound.double())
    return Measured(problem, gradient, replace(result, vectors={}, rows={}), bound, exact), result


def uncoupled(matrix: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """A feasible L whose uncoupled coordinates carry no floor, and which coordinates those are.

    H is cut into its diagonal on the uncoupled coordinates S, its block on the others, and the entries between them and
    within S, E. As -diag(e) <= E <= diag(e) for the row sums e of |E|: L'_j = |h_jj| + e_j on S and L_j + e_j
    elsewhere are feasible where L is.

    A certificate raises all coordinates by a share of the mean of L. For a small coordinate that is many times its
    own curvature, and it moves with the curvature of the others.

    Args:
        matrix: H, (d, d).
        bound: L, (d,), feasible.
    """
    size = matrix.abs()
    own = size.diagonal()
    mask = size.sum(1) - own <= COUPLING * own
    between = torch.where(mask, size.sum(1) - own, size[:, mask].sum(1))
    return torch.where(mask, own, bound) + between, mask


def width(start: Smoothness) -> int:
    """Vectors of d numbers that a start holds."""
    return len(next(iter(start.rows.values()))[0])


def gathered(points: Sequence[Measured]) -> Points:
    """The points as arrays."""
    ends = [_ends((point.smoothness.l1_lower, point.smoothness.l1_upper)) for point in points]
    norms = [_ends(point.smoothness.sharpness_interval) for point in points]
    return Points(
        gradients=array_of([point.gradient.abs() for point in points]),
        bounds=array_of([point.bound for point in points]),
        gaps=np.array([high - low for low, high in ends]),
        norms=np.array([high for _, high in norms]),
        norm_gaps=np.array([high - low for low, high in norms]),
        exact=torch.stack([point.exact for point in points]).cpu().numpy(),
    )


def array_of(vectors: Sequence[Tensor]) -> Array:
    stacked: Array = np.empty((len(vectors), vectors[0].numel()))
    for row, vector in zip(stacked, vectors, strict=True):
        row[:] = vector.cpu().double().numpy()
    return stacked


def _ends(ends: tuple[float | None, float | None] | None) -> tuple[float, float]:
    assert ends is not None
    assert ends[0] is not None
    assert ends[1] is not None
    return ends[0], ends[1]
