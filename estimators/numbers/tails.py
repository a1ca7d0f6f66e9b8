"""Tails of per-sample gradients: a tail index for each coordinate, and whether a draw's variance has settled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.numbers.tail_error import LEAST, tops

PARTS = 4
"""A draw is held against quarters of itself."""


def hill(rows: Tensor) -> Tensor:
    """Tail index of each coordinate by Hill (1975), (c,) float64; NaN where fewer than two tops of samples deviate.

    With x the absolute deviations from a coordinate's mean in descending order and k = max(5, n // 8):
    1 / mean_{i <= k} log(x_i / x_{k+1}). P(|x| > t) ~ t^-index: moments above the index are infinite. The estimate
    sees the largest eighth alone, so that light tails read finite too: about 4.3 for Gaussian gradients, 2.9 for
    Laplace, 2.4 for Student's t with 3 degrees of freedom. It has a relative error of about 1/sqrt(k).

    Args:
        rows: gradients of n samples at c coordinates, (n, c).
    """
    n = rows.shape[0]
    top = tops(n)
    if n < 2 * top:
        return rows.new_full((rows.shape[1],), math.nan, dtype=torch.float64)
    deviations = (rows.double() - rows.double().mean(0)).abs().sort(0, descending=True).values
    excess = (deviations[:top] / deviations[top]).log().mean(0)
    known = (deviations[2 * top - 1] > 0) & (excess > 0)
    return torch.where(known, 1 / excess, math.nan)


def settling(rows: Tensor) -> float | None:
    """How the largest sample's share of a coordinate's variance falls with the number of samples; None if unknown.

    s(n) = max_i x_i^2 / sum_i x_i^2, averaged over coordinates with their standard deviations as weights, behaves
    like n^-e: e near 0.7 for Gaussian gradients, 1 - 2/a for tails of index 2 < a < 4 and 0 where the variance is
    infinite. Measured as log(s(n/4) / s(n)) / log 4, s(n/4) from the four quarters (every fourth sample each).
    Coordinates that are 0 in most samples (tokens, silent units) are left out: their share is that of a count.
    """
    if rows.shape[0] < 4 * PARTS:
        return None
    rows = rows.double()
    weight = rows.std(0, correction=0)
    whole = _largest_share(rows)
    quarters = torch.stack([_largest_share(rows[part::PARTS]) for part in range(PARTS)])
    part = quarters.nanmean(0)
    busy = (rows == 0).double().mean(0) <= 0.5
    known = busy & (weight > 0) & ~part.isnan()
    if not bool(known.any()):
        return None
    ratio = float((part * weight)[known].sum() / (whole * weight)[known].sum())
    return math.log(ratio) / math.log(PARTS)


def _largest_share(rows: Tensor) -> Tensor:
    """max_i x_i^2 / sum_i x_i^2 of the deviations, (c,); NaN where nothing deviates."""
    squares = (rows - rows.mean(0)).square_()
    return squares.amax(0) / squares.sum(0)


def pareto_shape(values: Tensor) -> tuple[float, int] | None:
    """Shape of a generalised Pareto distribution fitted to the largest values, and how many; None below five.

    Values (n,) >= 0; the largest min(n/5, 3 sqrt(n)) enter, by Zhang & Stephens (Technometrics 2009) as for Pareto
    smoothed importance sampling (Vehtari et al. 2024). 0 for exponential tails, negative for bounded ones, 1/a for
    a tail of index a.
    """
    n = values.numel()
    top = int(min(n / 5, 3 * math.sqrt(n)))
    if top < LEAST:
        return None
    ordered = values.double().sort().values
    excess = ordered[-top:] - ordered[-top - 1]
    if float(excess[-1]) <= 0:
        return None
    excess = excess / excess[-1]
    grid = 30 + int(math.sqrt(top))
    steps = torch.arange(1, grid + 1, dtype=torch.float64, device=values.device)
    quartile = float(excess[int(top / 4 + 0.5) - 1].clamp_min(1e-12))
    theta = 1 + (1 - (grid / (steps - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.log1p(-theta[:, None] * excess).mean(1)
    likelihood = top * ((-theta / shapes).log() - shapes - 1)
    known = likelihood.isfinite()
    if not bool(known.any()):
        return None
    best = float((torch.softmax(likelihood[known], 0) * theta[known]).sum())
    return float(torch.log1p(-best * excess).mean()), top
