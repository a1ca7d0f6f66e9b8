"""Mean and sum of squared deviations of many vectors, summed so that nothing cancels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.numbers.formats import COARSE

CANCELLED = 1 / 16
"""A variance below this share of the mean square lost more than a digit in their difference: it is summed anew."""


@dataclass(frozen=True)
class Moments:
    """Of ``count`` gradients: their mean and the sum of squared deviations from it, each (d,) float64."""

    count: int
    mean: Tensor
    squares: Tensor

    def merge(self, other: Moments) -> Moments:
        """Both together (Chan, Golub & LeVeque 1983): no difference of large sums, so nothing cancels."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + delta.square() * (self.count * other.count / count))


def moments_of_rows(rows: Tensor) -> Moments:
    """Moments of the rows of an (m, d) matrix. Equal rows give squares of exactly 0."""
    reference = rows[0].double()
    shifted = rows.double() - reference
    mean = shifted.mean(0)
    return Moments(rows.shape[0], reference + mean, (shifted - mean).square_().sum(0))


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which gradients are kept: 16-bit numbers in float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


class Sums:
    """Moments of vectors that come a few at a time, in place in two float64 tensors of their size.

    Rows add to the sums of x - c and (x - c)^2, with c the mean of the first few: near c no difference of large
    sums is taken. Vectors without rows come as moments, and are merged.
    """

    def __init__(self, mean: Tensor, squares: Tensor) -> None:
        self._mean, self._squares = mean, squares
        self._shift: Tensor | None = None
        self._count = 0

    @property
    def takes_moments(self) -> bool:
        """Whether no rows are being summed."""
        return self._shift is None

    def add(self, rows: Tensor) -> None:
        """Rows of an (m, size) matrix, which is overwritten."""
        rows = _wide(rows)
        if self._count and self._shift is None:
            self.merge(moments_of_rows(rows))
            return
        if self._shift is None:
            self._shift = rows.mean(0) if len(rows) > 1 else rows[0].clone()
            self._clear()
        rows -= self._shift
        self._count += len(rows)
        one = len(rows) == 1
        self._mean += rows[0] if one else rows.sum(0)
        rows.square_()
        self._squares += rows[0] if one else rows.sum(0)

    def merge(self, part: Moments) -> None:
        """Vectors whose moments are known, in any precision; not after rows."""
        assert self._shift is None
        if self._count:
            own = Moments(self._count, self._mean, self._squares)
            part = own.merge(Moments(part.count, part.mean.double(), part.squares.double()))
        self._count = part.count
        self._mean.copy_(part.mean)
        self._squares.copy_(part.squares)

    def close(self) -> None:
        """Leaves the moments of everything in the two tensors; 0 where nothing came."""
        if not self._count:
            self._clear()
        elif self._shift is not None:
            self._mean /= self._count
            self._squares.addcmul_(self._mean, self._mean, value=-self._count).clamp_(min=0)
            self._mean += self._shift

    def _clear(self) -> None:
        self._mean.zero_()
        self._squares.zero_()


def moments_of_outer_products(left: Tensor, right: Tensor, numbers: int) -> Moments:
    """Moments of row i of (m, a) times row i of (m, b), (a b,), in their precision and without forming the products.

    sum_i x_i^2 = (left^2)' right^2. Entries whose deviations are small beside their mean are summed a second time
    from the products themselves, ``numbers`` at once.
    """
    left, right = _wide(left), _wide(right)
    m = left.shape[0]
    mean = (left.mT @ right).div_(m)
    if m == 1:
        return Moments(1, mean.flatten(), torch.zeros_like(mean).flatten())
    squares = (left.square().mT @ right.square()).addcmul_(mean, mean, value=-m)
    margin = torch.addcmul(squares, mean, mean, value=-m * CANCELLED / (1 - CANCELLED))
    if bool(margin.amin() < 0):
        for part in torch.split((margin < 0).nonzero(), max(1, numbers // m)):
            i, j = part.unbind(1)
            squares[i, j] = moments_of_rows(left[:, i] * right[:, j]).squares.to(squares.dtype)
    return Moments(m, mean.flatten(), squares.flatten())


def _wide(tensor: Tensor) -> Tensor:
    """Sums of 16-bit numbers are taken in float32."""
    return tensor.float() if tensor.dtype in COARSE else tensor
