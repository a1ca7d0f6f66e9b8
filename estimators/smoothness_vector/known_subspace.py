"""Vectors with their products, and an operator seen from an orthonormal basis whose products are known.

Vectors are columns in the operator's dtype; Gram matrices are products over chunks of rows, summed in float64.
Shapes: d coordinates, p vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.curvature.lanczos import Ritz

DEPENDENT = 1e-5
"""Eigenvalue of a Gram matrix, as a share of the largest one, below which a direction counts as dependent."""
ROWS = 1 << 14


@dataclass(frozen=True)
class Known:
    """Vectors S, shape (d, p), with their products H S."""

    vectors: Tensor
    images: Tensor

    def and_(self, *others: Known) -> Known:
        """The columns of all of them."""
        every = (self, *others)
        return Known(torch.cat([k.vectors for k in every], 1), torch.cat([k.images for k in every], 1))

    def combined(self, weights: Tensor) -> Known:
        """S C and H S C for C of shape (p, q)."""
        weights = weights.to(self.vectors)
        return Known(self.vectors @ weights, self.images @ weights)

    def columns(self, kept: Tensor) -> Known:
        """Some of the columns, by a mask of shape (p,)."""
        return Known(self.vectors[:, kept], self.images[:, kept])

    def lengths(self) -> Tensor:
        """Norms of S in float64, shape (p,)."""
        lengths: Tensor = self.vectors.double().norm(dim=0)
        return lengths

    @property
    def count(self) -> int:
        return self.vectors.shape[1]


def from_lanczos(run: Ritz, count: int) -> Known:
    """The leading Ritz vectors of a Lanczos run that kept its basis, with their products."""
    assert run.basis is not None
    assert run.residual is not None
    inside = torch.from_numpy(run.tridiagonal())
    values, rotation = torch.linalg.eigh(inside)
    weights = rotation[:, values.abs().argsort(descending=True)[:count]]
    to = run.basis
    images = to.T @ (inside @ weights).to(to) + run.residual[:, None] * weights[-1].to(to)
    return Known(to.T @ weights.to(to), images)


def gram(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """a' diag(weights) b in float64: products over chunks of rows in the vectors' dtype, added up in float64."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for i in range(0, a.shape[0], ROWS):
        right = b[i : i + ROWS]
        if weights is not None:
            right = weights[i : i + ROWS, None] * right
        total += (a[i : i + ROWS].T @ right).double()
    return total


def symmetric(matrix: Tensor) -> Tensor:
    half: Tensor = (matrix + matrix.T) / 2
    return half


def orthonormalising(vectors: Tensor) -> Tensor:
    """C in float64 with orthonormal vectors @ C; dependent directions are left out."""
    values, rotation = torch.linalg.eigh(symmetric(gram(vectors, vectors)))
    kept = values > DEPENDENT * values[-1].clamp_min(1e-300)
    weights: Tensor = rotation[:, kept] / values[kept].sqrt()
    return weights


def whitening(metric: Tensor) -> Tensor:
    """C with C' G C = I for a Gram matrix G, scaled to a unit diagonal first; dependent directions are left out.

    C C' is the inverse of G on the directions that are left.
    """
    root = metric.diagonal().clamp_min(1e-300).rsqrt()
    values, rotation = torch.linalg.eigh(root[:, None] * metric * root)
    kept = values > DEPENDENT * values[-1]
    weights: Tensor = root[:, None] * rotation[:, kept] / values[kept].sqrt()
    return weights


class Compression:
    """M seen from an orthonormal basis B: T = B'MB and the coupling R = MB - B T. M B = R + B T."""

    def __init__(self, basis: Tensor, images: Tensor) -> None:
        """From B, shape (d, p), and M B."""
        self.basis = basis
        self.inside = symmetric(gram(basis, images))
        self.coupling = images - basis @ self.inside.to(basis)
        self.coupling = self.coupling - basis @ gram(basis, self.coupling).to(basis)
        self.squared = symmetric(gram(self.coupling, self.coupling))

    def append(self, new: Tensor, inside: Tensor, coupling: Tensor) -> None:
        """More basis vectors W, orthonormal to B, with W'MW and (I - WW' - BB') M W."""
        cross = gram(new, self.coupling)
        self.coupling = self.coupling - new @ cross.to(new)
        mixed = gram(self.coupling, coupling)
        self.squared = bordered(self.squared - cross.T @ cross, mixed, symmetric(gram(coupling, coupling)))
        self.inside = bordered(self.inside, cross.T, inside)
        self.coupling = torch.cat([self.coupling, coupling], 1)
        self.basis = torch.cat([self.basis, new], 1)

    @property
    def norm(self) -> float:
        """Largest absolute Ritz value: a lower bound of max|eig M|."""
        return largest(self.inside)

    def bound(self, above: float, below: float) -> tuple[float, Tensor, Tensor]:
        """At least max|eig M| where +-M is at most (above, below) beyond the basis.

        Returns:
            the bound, the eigenvalues of both block matrices, shape (4p,), and the parts of their eigenvectors
            that lie in the basis, shape (p, 4p).
        """
        p = self.inside.shape[0]
        if p == 0:
            empty = self.inside.new_zeros(0)
            return max(above, below), empty, empty.reshape(0, 0)
        values, rotation = torch.linalg.eigh(symmetric(self.squared))
        root = (rotation * values.clamp_min(0).sqrt()) @ rotation.T
        unit = torch.eye(p, dtype=root.dtype, device=root.device)
        parts = []
        for sign, beyond in ((1, above), (-1, below)):
            block = torch.cat([torch.cat([sign * self.inside, root], 1), torch.cat([root, beyond * unit], 1)])
            parts.append(torch.linalg.eigh(block))
        joined = torch.cat([part.eigenvalues for part in parts])
        directions = torch.cat([part.eigenvectors[:p] for part in parts], 1)
        return max(float(joined.max()), above, below), joined, directions

    def towards(self, weights: Tensor, threshold: float) -> Tensor:
        """Orthonormal vectors beyond the basis that span R times the weights (p, q), shape (d, at most q)."""
        new: Tensor = self.coupling @ weights.to(self.coupling)
        length = new.double().norm(dim=0)
        new = new[:, length > threshold] / length[length > threshold].to(new)
        if not new.shape[1]:
            return new
        for _ in range(2):
            new = new - self.basis @ gram(self.basis, new).to(new)
            new = new @ orthonormalising(new).to(new)
        return new

    def leading(self, count: int) -> Known:
        """The Ritz vectors of the largest absolute Ritz values, with their products M X."""
        values, vectors = torch.linalg.eigh(self.inside)
        weights = vectors[:, values.abs().argsort(descending=True)[:count]]
        ritz = weights.to(self.basis)
        return Known(self.basis @ ritz, self.coupling @ ritz + self.basis @ (self.inside @ weights).to(self.basis))


def bordered(corner: Tensor, side: Tensor, end: Tensor) -> Tensor:
    return torch.cat([torch.cat([corner, side], 1), torch.cat([side.T, end], 1)])


def largest(matrix: Tensor) -> float:
    """max|eig| of a symmetric matrix; 0 for an empty one."""
    return float(torch.linalg.eigvalsh(matrix).abs().max()) if matrix.shape[0] else 0.0
