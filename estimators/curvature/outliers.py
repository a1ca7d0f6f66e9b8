"""Eigenvalues at the ends of the spectrum that a Lanczos run has found, and the operator on their complement.

A Ritz pair (theta, x) of a run with residual r = beta q_{m+1} has H x - theta x = s_m r, s_m the last component of its
vector in the basis. With X the vectors of the pairs taken out and C = I - XX', H = X diag(theta) X' + C H C up to a
coupling of norm e = |r| |s_m|, all of whose columns are multiples of r. It moves each eigenvalue by no more than
2 e^2 / (g + sqrt(g^2 + 4 e^2)), g the gap between the thetas and the spectrum of C H C (Li & Li, "A note on eigenvalues
of perturbed Hermitian matrices", Linear Algebra Appl. 2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimators.curvature.lanczos import Ritz
from estimators.task.products import Product

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outliers:
    """Ritz values ``values`` (p,) taken out of H with the norms of their residuals (p,).

    ``basis`` (m, d) is the run's, ``projection`` (m, m) = SS' for their vectors S in it: XX' = Q'SS'Q needs no more
    memory.
    """

    values: Array
    residuals: Array
    basis: Tensor
    projection: Tensor

    def complement(self, block: Tensor) -> Tensor:
        """C v for the columns of (d, k)."""
        return block - self.basis.T @ (self.projection @ (self.basis @ block))

    def remainder(self, product: Product) -> Product:
        """V -> C H C V."""
        return lambda block: self.complement(product(self.complement(block)))

    def shift(self, low: float, high: float) -> float:
        """How far apart eigenvalues of H and of the two parts may be; the remainder's lie in [low, high]."""
        gap = float(np.maximum(low - self.values, self.values - high).clip(0).min())
        return _shift(float(np.linalg.norm(self.residuals)), gap)


def outliers(run: Ritz, tolerance: float) -> Outliers | None:
    """The Ritz values at both ends without which the others are closest together, and still know themselves.

    Those are taken that the coupling moves by no more than the tolerance, by the gap to the other Ritz values.
    None where there are no such values, or the run did not keep its basis.
    """
    if run.basis is None or run.residual is None:
        return None
    values, vectors = np.linalg.eigh(run.tridiagonal())
    squares = (vectors[-1] * float(run.residual.double().norm())) ** 2
    below, above = _outer(values, squares, tolerance)
    taken = np.r_[:below, len(values) - above : len(values)]
    if not len(taken):
        return None
    chosen = vectors[:, taken]
    projection = torch.from_numpy(chosen @ chosen.T).to(run.basis)
    return Outliers(values[taken], np.sqrt(squares[taken]), run.basis, projection)


def _outer(nodes: Array, squares: Array, tolerance: float) -> tuple[int, int]:
    """How many values to take at the lower and at the upper end."""
    count, best, least = len(nodes), (0, 0), float(nodes[-1] - nodes[0])
    low, high = ([0.0, *np.cumsum(part).tolist()] for part in (squares, squares[::-1]))
    values = nodes.tolist()
    for below in range(count):
        for above in range(count - below):
            first, last = below, count - above - 1
            if values[last] - values[first] >= least:
                continue
            gaps = ([values[first] - values[first - 1]] if below else []) + (
                [values[last + 1] - values[last]] if above else []
            )
            if _shift(math.sqrt(low[below] + high[above]), min(gaps)) <= tolerance:
                best, least = (below, above), values[last] - values[first]
    return best


def _shift(coupling: float, gap: float) -> float:
    whole = gap + math.hypot(gap, 2 * coupling)
    return 2 * coupling * coupling / whole if whole > 0 else 0.0
