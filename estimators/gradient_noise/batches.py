"""Noise of minibatch gradients at several batch sizes, measured, beside sigma / sqrt(M)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.task.problem import Problem

REPEATS = 64
"""Batches of each size where the gradients of single samples are at hand."""
FEW_REPEATS = 4
"""Batches of each size where each costs passes; fewer where the budget ends."""
CHEAPEST = 8
"""Samples that two batches of four cost."""
NUMBERS = 1 << 22
"""Batch gradients in memory at once hold at most this many numbers."""

Rows = list[Mapping[str, float]]


def batch_sizes(samples: int) -> list[int]:
    """1, 4, 16, ... up to the number of samples."""
    return [4**k for k in range(samples.bit_length()) if 4**k <= samples]


def from_rows(rows: Tensor, seed: int) -> Rows:
    """The noise of batches drawn with replacement from the samples whose gradients are the rows, (n, d).

    sigma_M,j = (E (g_B,j - g_j)^2)^(1/2) over batches B of M, g the mean of the rows; ``l1`` and ``l2`` are its norms
    from 64 batches, ``l1_predicted`` and ``l2_predicted`` those of sigma / sqrt(M). A root of a mean over R batches
    is too small, by about 1/(4 R) for large M; that of Gaussian noise is taken off ``l1``. Costs no pass.
    """
    n, d = rows.shape
    deviations = rows - rows.mean(0, dtype=torch.float64).to(rows.dtype)
    sigma = deviations.square().mean(0, dtype=torch.float64).sqrt()
    generator = torch.Generator(rows.device).manual_seed(seed)
    width = max(1, NUMBERS // d)
    table: Rows = []
    for size in batch_sizes(n):
        squares = torch.zeros(d, dtype=torch.float64, device=rows.device)
        for first in range(0, REPEATS, width):
            batches = min(width, REPEATS - first)
            drawn = torch.randint(n, (batches, size), generator=generator, device=rows.device)
            counts = rows.new_zeros(batches, n)
            counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=rows.dtype))
            squares += (counts / size @ deviations).square_().sum(0)
        table.append(_row(size, REPEATS, squares, float(sigma.sum()), float(sigma.norm())))
    return table


def from_passes(problem: Problem, gradient: Tensor, l1: float, l2: float, passes: float, seed: int) -> Rows:
    """The same where each batch is a gradient of its own, for at most ``passes`` passes over the samples together.

    Sizes 4, 16, ... as far as two batches of each fit; up to four of each.

    Args:
        problem: the task, on the samples that batches are drawn from.
        gradient: their mean gradient, (d,).
        l1, l2: norms of sigma over the samples, divisor n.
        passes: the budget.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    left = passes * problem.n
    table: Rows = []
    for size in batch_sizes(problem.n)[1:]:
        repeats = min(FEW_REPEATS, int(left / size))
        if repeats < 2:
            break
        squares = torch.zeros_like(gradient)
        for _ in range(repeats):
            drawn = torch.randint(problem.n, (size,), generator=generator).to(problem.device)
            batch = problem.subset(drawn)
            squares += (batch.flatten(batch.gradient()).double() - gradient).square_()
            problem.passes.add(size / problem.n)
        left -= repeats * size
        table.append(_row(size, repeats, squares, l1, l2))
    return table


def _row(size: int, repeats: int, squares: Tensor, l1: float, l2: float) -> Mapping[str, float]:
    """From the sum over batches of squared deviations, (d,)."""
    mean = squares / repeats
    # E of the root of a mean of `repeats` squares of Gaussian numbers.
    shrunk = math.sqrt(2 / repeats) * math.exp(math.lgamma((repeats + 1) / 2) - math.lgamma(repeats / 2))
    return {
        "batch_size": size,
        "l1": float(mean.sqrt().sum()) / shrunk,
        "l2": float(mean.sum().sqrt()),
        "l1_predicted": l1 / math.sqrt(size),
        "l2_predicted": l2 / math.sqrt(size),
        "batches": repeats,
    }
