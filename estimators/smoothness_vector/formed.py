"""The smallest diagonal that dominates symmetric matrices that are formed: their eigenvalues certify it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.smoothness_vector.bracket import Bracket, floored
from estimators.smoothness_vector.sweeps import Sweeps


@dataclass(frozen=True)
class JointBracket:
    """lower <= min{1'd : -diag(d) <= H_t <= diag(d) for all t} <= upper = sum(vector), the vector feasible.

    ``binding`` holds for each matrix max|eig D^-1/2 H_t D^-1/2| as a share of the largest of them.
    """

    lower: float
    upper: float
    vector: Tensor
    binding: tuple[float, ...]


def dense_bracket(matrix: Tensor, generator: torch.Generator, gap: float, max_sweeps: int = 4000) -> Bracket:
    """The bracket of a formed symmetric matrix in float64; the upper bound is an eigenvalue, no probability."""
    n = int((matrix.abs().sum(1) > 0).sum())
    # Above sqrt(2n) columns the low-rank program has no spurious local maxima in general.
    found = formed_bracket(matrix[None], generator, gap, min(n, int(2 * n**0.5) + 3), max_sweeps)
    return Bracket(found.lower, found.upper, found.vector, matrix.norm(dim=1), matrix.shape[0])


def formed_bracket(
    matrices: Tensor, generator: torch.Generator, gap: float, columns: int, max_sweeps: int
) -> JointBracket:
    """One vector for several symmetric matrices (T, d, d) in float64; the upper bound is an eigenvalue.

    Sweeps with ``columns`` for each matrix; they are certified from time to time until upper/lower - 1 <= gap or
    ``max_sweeps`` are done.
    """
    alive = matrices.abs().sum((0, 2)) > 0
    n, points = int(alive.sum()), len(matrices)
    vector = torch.zeros(alive.numel(), dtype=torch.float64, device=alive.device)
    if n == 0:
        return JointBracket(0.0, 0.0, vector, (0.0,) * points)
    scale = float(matrices.abs().max())
    parts = matrices[:, alive][:, :, alive] / scale
    sweeps = Sweeps(lambda z: _stacked(parts, z), n, columns * points, generator, parts)
    upper, best, norms = float("inf"), vector, torch.zeros(points)
    every = torch.ones(n, dtype=torch.bool, device=parts.device)
    check = 16
    for count in range(1, max_sweeps + 1):
        sweeps.sweep()
        if count < check and count < max_sweeps:
            continue
        check = int(1.5 * count)
        for share in (gap / 4, gap / 40):
            scaling = floored(sweeps.scaling, every, share)
            root = scaling.rsqrt()
            each = torch.linalg.eigvalsh(root[:, None] * parts * root).abs().amax(1) * (1 + 1e-13 * n)
            norm = float(each.max())
            if norm * float(scaling.sum()) < upper:
                upper, best, norms = norm * float(scaling.sum()), norm * scaling, each / norm
        if upper <= (1 + gap) * sweeps.lower:
            break
    vector[alive] = best * scale
    return JointBracket(sweeps.lower * scale, upper * scale, vector, tuple(norms.tolist()))


def _stacked(parts: Tensor, z: Tensor) -> Tensor:
    """[H_1 Z_1, ..., H_T Z_T] for matrices (T, n, n) and columns (n, T k)."""
    t, n, _ = parts.shape
    blocks = z.reshape(n, t, -1).transpose(0, 1)
    return (parts @ blocks).transpose(0, 1).reshape(n, -1)
