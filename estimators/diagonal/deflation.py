"""What a Lanczos run has already paid for: the part of H that its basis reaches is known without further products.

With orthonormal rows Q (k, d) and C = I - Q'Q, H = P + C H C, where P = Q'QH + HQ'Q - Q'QHQ'Q is known from H Q'.
Curvature that few directions carry leaves the remainder C H C, and with it the noise of random probes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from estimators.curvature.lanczos import Ritz
from estimators.errors import InputError


@dataclass(frozen=True)
class Deflation:
    """Q (k, d), T = Q H Q' (k, k) and the residual r (d,) of the last step: H Q' = Q' T + r e_k'."""

    basis: Tensor
    projected: np.ndarray
    residual: Tensor

    def complement(self, vectors: Tensor) -> Tensor:
        """C v for one vector (d,) or for rows (m, d)."""
        return vectors - vectors @ self.basis.T @ self.basis

    def remainder(self, vector: Tensor, image: Tensor) -> Tensor:
        """C H C v from ``image`` = H v: no product."""
        inside = self.basis @ vector
        projected = torch.from_numpy(self.projected).to(inside.device, inside.dtype)
        known = self.basis.T @ (projected @ inside) + self.residual * inside[-1]
        return self.complement(image - known)

    def diagonal(self) -> Tensor:
        """diag(P) = diag(Q' T Q) + 2 q_k r in float64, shape (d,); T is tridiagonal."""
        total = 2 * self.basis[-1].double() * self.residual.double()
        for k, row in enumerate(self.basis):
            q = row.double()
            total += float(self.projected[k, k]) * q.square()
            if k:
                total += 2 * float(self.projected[k, k - 1]) * q * self.basis[k - 1].double()
        return total


def deflation(run: Ritz, d: int) -> Deflation:
    """From a Lanczos run on H that kept its basis.

    Raises:
        InputError: the basis was not kept, or is of another number of coordinates.
    """
    if run.basis is None or run.residual is None:
        raise InputError("the Lanczos run did not keep its basis", "krylov", "run `lanczos(..., keep=True)`")
    if run.basis.shape[1] != d:
        raise InputError(
            f"the Lanczos run has {run.basis.shape[1]:,} coordinates, the problem {d:,}",
            "krylov",
            "run it on the Hessian of the same problem",
        )
    return Deflation(run.basis, run.tridiagonal(), run.residual)
