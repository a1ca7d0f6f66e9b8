"""Sums over coordinates of the noise of a draw, with each of K groups of its samples left out in turn.

Shapes: K groups, d coordinates, T tensors, F folds of groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from estimators.numbers.moments import Moments
from estimators.numbers.rare_rows import unseen_share
from estimators.numbers.thinning import Weights

BLOCK = 1 << 19
"""Numbers of one (K, coordinates) block that are worked on at once."""
FOLDS = 10
"""Groups are merged into so many folds for the cross-fitted bound."""
BINS_PER_OCTAVE, OCTAVES = 2, 80
"""Bins of sigma^2: coordinates of one bin have sigma within 19%; what lies 2^80 below the top shares the last."""
ROUNDING = 1e-6
"""A sum of squares that is left of a whole one at less than this share is rounding of float32."""


@dataclass(frozen=True)
class Groups:
    """Moments of K disjoint groups of samples: counts (K,) float64, means and squares (K, d) of any float type."""

    counts: Tensor
    means: Tensor
    squares: Tensor

    @staticmethod
    def of(moments: Sequence[Moments], dtype: torch.dtype = torch.float64) -> Groups:
        first = moments[0].mean
        counts = torch.tensor([part.count for part in moments], dtype=torch.float64, device=first.device)
        means, squares = (torch.empty(len(moments), len(first), dtype=dtype, device=first.device) for _ in range(2))
        for k, part in enumerate(moments):
            means[k], squares[k] = part.mean, part.squares
        return Groups(counts, means, squares)

    @staticmethod
    def of_rows(rows: Tensor) -> Groups:
        """Each sample a group, from their gradients, (n, d)."""
        counts = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        return Groups(counts, rows, torch.zeros((), dtype=rows.dtype, device=rows.device).expand_as(rows))


@dataclass(frozen=True)
class GroupSums:
    """sigma is the root of the unbiased variance of the ``rows`` (their divisor: rows). "out": one group left out."""

    n: int
    rows: int
    d: int
    counts: Tensor
    top: float
    """The largest variance of a coordinate, divisor n - 1."""
    l1_by_tensor: Tensor
    l1_by_tensor_out: Tensor
    energy: float
    """||sigma||_2^2."""
    energy_out: Tensor
    influence: Tensor
    """(K,) mean over a group's samples of sum_j (g_j - mean_j)^2 / (2 sigma_j)."""
    energy_by_group: Tensor
    """(K,) mean over a group's samples of ||g - mean||_2^2."""
    gradient_l1: float
    gradient_l1_out: Tensor
    gradient_square: float
    gradient_square_out: Tensor
    gradient_signed: Tensor
    """(K,) a group's mean gradient times the signs of the others'."""
    hidden: float
    """What the coordinates without noise in the draw could add to ||sigma||_1: see :func:`_hidden`."""
    hidden_l2: float

    @property
    def l1(self) -> float:
        return float(self.l1_by_tensor.sum())

    @property
    def l1_out(self) -> Tensor:
        return self.l1_by_tensor_out.sum(1)


@dataclass(frozen=True)
class _Block:
    """Some coordinates of one tensor, float64: deviations of the group means from the mean, squares, the mean."""

    tensor: int
    span: slice
    deviations: Tensor
    squares: Tensor
    mean: Tensor
    raw: Tensor


def group_sums(
    groups: Groups, rows: int, sizes: Sequence[int], live: Tensor | None = None, weights: Weights | None = None
) -> GroupSums:
    """One sweep over the coordinates; memory of a few blocks beside the groups. ``weights`` of a tensor's sums where
    the groups hold some of the coordinates."""
    counts = groups.counts
    weights = weights or Weights.none(sizes, counts.device)
    k, tensors, n = len(counts), len(sizes), int(counts.sum())
    c, kept = counts[:, None], (n - counts)[:, None]
    like: dict[str, Any] = {"dtype": torch.float64, "device": counts.device}
    l1, l1_out = torch.zeros(tensors, **like), torch.zeros(k, tensors, **like)
    energy, energy_out = torch.zeros(tensors, **like), torch.zeros(k, **like)
    by_tensor, influence = torch.zeros(k, tensors, **like), torch.zeros(k, **like)
    dead = torch.zeros(tensors, **like)
    plain, square = torch.zeros((), **like), torch.zeros((), **like)
    plain_out, square_out, signed = (torch.zeros(k, **like) for _ in range(3))
    top = 0.0
    for block in _blocks(groups, sizes, live):
        t = block.tensor
        own = block.squares + c * block.deviations.square()
        whole = own.sum(0)
        sigma = (whole / (n - 1)).sqrt()
        variance_out = _left_out(block, whole, c, kept, n) / (kept - 1)
        of_sigma, of_variance = weights.sigma[t], weights.variance[t]
        l1[t] += of_sigma * sigma.sum()
        l1_out[:, t] += of_sigma * variance_out.sqrt().sum(1)
        energy[t] += of_variance * whole.sum() / (n - 1)
        energy_out += of_variance * variance_out.sum(1)
        by_tensor[:, t] += of_variance * own.sum(1) / counts
        influence += of_sigma * (own / (2 * sigma).clamp_min(1e-300)).sum(1) / counts
        dead[t] += weights.count[t] * (whole == 0).sum()
        others = block.mean - block.raw * (c / kept)
        of_gradient, of_square = weights.gradient[t], weights.square[t]
        plain += of_gradient * block.mean.abs().sum()
        square += of_square * block.mean.square().sum()
        plain_out += of_gradient * others.abs().sum(1)
        square_out += of_square * others.square().sum(1)
        signed += of_gradient * (others.sign() * (block.mean + block.raw)).sum(1)
        top = max(top, float(whole.max()) / (n - 1)) if whole.numel() else top
    root = math.sqrt(1 - 1 / rows)
    hidden, hidden_l2 = _hidden(dead, by_tensor, n, rows)
    return GroupSums(
        n=n,
        rows=rows,
        d=weights.d,
        counts=counts,
        top=top,
        l1_by_tensor=l1 * root,
        l1_by_tensor_out=l1_out * root,
        energy=float(energy.sum()) * root**2,
        energy_out=energy_out * root**2,
        influence=influence * root,
        energy_by_group=by_tensor.sum(1),
        gradient_l1=float(plain),
        gradient_l1_out=plain_out,
        gradient_square=float(square),
        gradient_square_out=square_out,
        gradient_signed=signed,
        hidden=hidden,
        hidden_l2=hidden_l2,
    )


def cross_fitted(
    groups: Groups,
    sums: GroupSums,
    sizes: Sequence[int],
    live: Tensor | None = None,
    weights: Weights | None = None,
) -> tuple[float, float]:
    """A value that ||sigma||_1 of the data set stays below on average, and its standard error.

    Coordinates are binned by their variance without a fold, and the fold's own samples measure the mean variance of
    each bin, free of the choice. With m coordinates of mean variance v in a bin, sum sigma_j <= m sqrt(v). Tokens
    that are rarely or never seen fall into low bins together, and what the fold finds there shows how much such
    coordinates hide (as Good & Turing's singletons do). Rows drawn enter by their own variance.
    """
    counts, fold_of = _folds(groups.counts)
    weights = weights or Weights.none(sizes, counts.device)
    folds, n = len(counts), float(sums.n)
    c, kept = counts[:, None], (n - counts)[:, None]
    bins = BINS_PER_OCTAVE * OCTAVES + 8
    width = bins + len(sizes)
    placed = torch.empty(folds, groups.means.shape[1], dtype=torch.int16, device=counts.device)
    like: dict[str, Any] = {"dtype": torch.float64, "device": counts.device}
    found, weight = torch.zeros(folds, width, **like), torch.zeros(folds, width, **like)
    offset = torch.arange(folds, device=counts.device)[:, None] * width
    for block in _folded(groups, sizes, live, counts, fold_of):
        whole = (block.squares + c * block.deviations.square()).sum(0)
        outside = _left_out(block, whole, c, kept, n) / (kept - 1)
        level = (BINS_PER_OCTAVE * (outside / sums.top).log2()).floor().clamp(-bins + 8, 7) + bins - 8
        where = torch.where(outside > 0, level, bins + block.tensor).long()
        placed[:, block.span] = where.to(torch.int16)
        # Deviations from the mean of the others, whose own error adds 1/kept.
        held = (block.squares + c * (n / kept).square() * block.deviations.square()) / (1 + 1 / kept)
        index = (where + offset).flatten()
        many = weights.count[block.tensor]
        found += many * torch.bincount(index, held.flatten(), folds * width).view(folds, width)
        weight += many * torch.bincount(index, c.expand_as(held).flatten(), folds * width).view(folds, width)
    total = weight.sum(0).clamp_min(1e-300)
    variance = found.sum(0) / total
    share = n / sums.rows
    bound, slope = torch.zeros((), **like), torch.zeros(width, **like)
    for block in _folded(groups, sizes, live, counts, fold_of):
        own = (block.squares + c * block.deviations.square()).sum(0) / (n - 1)
        where = placed[:, block.span].long()
        mixed = (share * own + (1 - share) * variance[where]).sqrt()
        of_sigma = weights.sigma[block.tensor]
        bound += of_sigma * (c / n * mixed).sum()
        gain = torch.where(mixed > 0, 0.5 * c / n / mixed.clamp_min(1e-300), 0.0)
        slope += of_sigma * torch.bincount(where.flatten(), gain.flatten(), width)
    change = ((found - variance * weight) / total * slope).sum(1)
    error = math.sqrt((1 - share) * folds / (folds - 1) * float(change.square().sum()))
    root = math.sqrt(1 - 1 / sums.rows)
    return float(bound) * root, error * root


# -- blocks ----------------------------------------------------------------------------------------


def _blocks(groups: Groups, sizes: Sequence[int], live: Tensor | None) -> Iterator[_Block]:
    k, n = len(groups.counts), float(groups.counts.sum())
    width = max(1, BLOCK // k)
    start = 0
    for tensor, size in enumerate(sizes):
        for first in range(start, start + size, width):
            span = slice(first, min(first + width, start + size))
            means, squares = groups.means[:, span].double(), groups.squares[:, span].double()
            mean = (groups.counts / n) @ means
            raw = means - mean
            deviations = raw
            if live is not None:
                deviations, squares = raw * live[span], squares * live[span]
            yield _Block(tensor, span, deviations, squares, mean, raw)
        start += size


def _left_out(block: _Block, whole: Tensor, counts: Tensor, kept: Tensor, n: float) -> Tensor:
    """Sums of squared deviations without each group, (K, coordinates)."""
    rest = whole - block.squares - counts * n / kept * block.deviations.square()
    return torch.where(rest <= ROUNDING * whole, 0.0, rest)


def _folds(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of the folds, (F,), and the groups of each as a matrix of zeros and ones, (F, K)."""
    k = len(counts)
    folds = min(FOLDS, k)
    member = torch.zeros(folds, k, dtype=counts.dtype, device=counts.device)
    member[torch.arange(k) % folds, torch.arange(k)] = 1
    return member @ counts, member


def _folded(
    groups: Groups, sizes: Sequence[int], live: Tensor | None, counts: Tensor, member: Tensor
) -> Iterator[_Block]:
    """The same blocks with groups merged into folds; deviations are small, so their sums don't cancel."""
    if len(counts) == len(groups.counts):
        yield from _blocks(groups, sizes, live)
        return
    c = groups.counts[:, None]
    for block in _blocks(groups, sizes, live):
        deviations = member @ (c * block.deviations) / counts[:, None]
        within = member @ (block.squares + c * block.deviations.square())
        squares = (within - counts[:, None] * deviations.square()).clamp_min(0)
        yield _Block(block.tensor, block.span, deviations, squares, block.mean, deviations)


def _hidden(dead: Tensor, energies: Tensor, n: int, rows: int) -> tuple[float, float]:
    """What coordinates without noise in the draw could add to ||sigma||_1 and ||sigma||_2.

    What no sample shows happens, with probability 0.975, in a share p of the rows below that of
    :func:`rare_rows.unseen_share`. If such a row moves a tensor's silent coordinates by at most twice what a sample
    moves all of the tensor, their variances add up to e p, e four times the largest energy of a group, and their sigmas
    to at most sqrt(silent e p).
    """
    share = unseen_share(n, rows)
    if share is None:
        return 0.0, 0.0
    energy = 4 * share * energies.amax(0)
    return float((dead * energy).sqrt().sum()), math.sqrt(float(torch.where(dead > 0, energy, 0.0).sum()))
