"""Coordinates that a formed Hessian couples to no other: there the smallest L is known, |h_jj|."""

from __future__ import annotations

import torch
from torch import Tensor

COUPLING = 1e-3
"""Largest sum of |H_jk| over k, relative to |h_jj|, of a coordinate that counts as uncoupled."""


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
