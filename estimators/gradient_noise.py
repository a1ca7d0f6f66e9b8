"""Gradient noise: sigma_j^2 = Var_i(d_j l_i(w)), its norms, its density, its scale in samples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.embeddings import token_deciles
from estimators.errors import InputError
from estimators.per_sample import STAGE, Moments, gradient_moments
from estimators.problem import Problem
from estimators.results import Cost, Finding, Noise, Progress

FEW = 30
"""Below this many samples a warning: at 30 Gaussian samples one sigma_j has a relative standard error of
1/sqrt(2 n) = 13% and a bias of -1/(4 n) = -0.8%; heavier tails do worse."""
ROUNDING = 8
"""A standard deviation of at most this many units in the last place of the gradient is rounding, and counts as 0."""
NOT_YET = "not available in this version"


def noise(problem: Problem, *, rows: int | None = None, seed: int = 0, progress: Progress | None = None) -> Noise:
    """Noise of the per-sample gradients over the problem's samples, exact for them.

    sigma_j^2 = (1/n) sum_i (d_j l_i - d_j f)^2, so a batch of M drawn with replacement has variance sigma^2 / M.
    density = ||sigma||_1 / (sqrt(d) ||sigma||_2), between 1/sqrt(d) (one noisy coordinate) and 1 (uniform);
    effective_dimension = (||sigma||_1 / ||sigma||_2)^2; noise_scale_l2 = ||sigma||_2^2 / ||grad f||_2^2 and
    noise_scale_l1 = (||sigma||_1 / ||grad f||_1)^2, in samples (McCandlish et al. 2018).

    Cost: about one forward+backward pass over the samples. Memory: a few vectors of size d.

    Args:
        problem: the task at a point.
        rows: size of the data set that the samples were drawn from, uniformly and without replacement;
            default ``problem.n``, so that the samples are the whole population and every value is exact.
        seed: taken for a uniform interface; nothing is random here.
        progress: called with ("noise", samples done, samples).

    Returns:
        The intervals are those for the data set of ``rows``: [x, x] when all were used, else null. When the samples
        are a draw, l1 and density are those of the sample set and lean low for the data set (the root is concave).

    Raises:
        InputError: ``rows`` below the number of samples, or a gradient that is not finite.
    """
    rows = problem.n if rows is None else rows
    if rows < problem.n:
        raise InputError(f"{rows} rows cannot hold {problem.n} samples", "rows", "give the size of the whole data set")
    started, passes = time.perf_counter(), problem.passes.total
    moments, findings = gradient_moments(problem, progress)
    sigma, exact = _standard_deviation(moments, problem.precision), rows == problem.n
    why = _reasons(moments, sigma, rows, problem.precision)
    values = _values(moments.mean, sigma)
    known = "l1" not in why
    deciles: list[dict[str, Any]] | None = None
    if known:
        deciles, reason = token_deciles(problem, problem.unflatten(sigma))
        why |= {"token_deciles": reason} if deciles is None else {}
    return Noise(
        **{key: None if key in why else value for key, value in values.items()},
        exact=exact,
        samples=problem.n,
        batch_scaling=None,
        tensors=_by_tensor(problem, sigma) if known else None,
        token_deciles=deciles,
        why=why,
        vectors=problem.unflatten(sigma.to(_stored_dtype(problem.dtype))) if known else {},
        warnings=(*_few_samples(problem.n, exact), *findings),
        cost=Cost(problem.passes.total - passes, time.perf_counter() - started),
    )


def _standard_deviation(moments: Moments, dtype: torch.dtype) -> Tensor:
    """sigma, (d,) float64, with 0 where the gradients differ by their own rounding alone.

    Equal samples leave a batched kernel with last bits that differ from row to row; without this cut a task
    without noise would show a density made of rounding.
    """
    sigma = (moments.squares / moments.count).sqrt()
    return torch.where(sigma <= ROUNDING * torch.finfo(dtype).eps * moments.mean.abs(), 0.0, sigma)


def density(sigma: Tensor) -> float | None:
    """||sigma||_1 / (sqrt(d) ||sigma||_2) for a vector of d numbers >= 0; None for the zero vector."""
    l2 = float(sigma.norm())
    return float(sigma.sum()) / (math.sqrt(sigma.numel()) * l2) if l2 > 0 else None


def _values(gradient: Tensor, sigma: Tensor) -> dict[str, Any]:
    """The numbers of a :class:`Noise`; those that :func:`_reasons` names mean nothing and are dropped."""
    l1, l2, d = float(sigma.sum()), float(sigma.norm()), sigma.numel()
    gradient_l1, gradient_l2 = float(gradient.abs().sum()), float(gradient.norm())
    phi = density(sigma)
    return {
        "l1": l1,
        "l2": l2,
        "sqrt_d_l2": math.sqrt(d) * l2,
        "density": phi,
        "density_interval": (phi, phi),
        "l1_interval": (l1, l1),
        "density_live": density(sigma[sigma > 0]),
        "dead_fraction": float((sigma == 0).sum()) / d,
        "effective_dimension": None if phi is None else d * phi**2,
        "noise_scale_l2": (l2 / gradient_l2) ** 2 if gradient_l2 > 0 else None,
        "noise_scale_l1": (l1 / gradient_l1) ** 2 if gradient_l1 > 0 else None,
        "gradient_l1": gradient_l1,
        "gradient_l2": gradient_l2,
    }


def _reasons(moments: Moments, sigma: Tensor, rows: int, dtype: torch.dtype) -> dict[str, str]:
    """Which numbers cannot be told, and why."""
    why = {"batch_scaling": NOT_YET}
    n, exact = moments.count, rows == moments.count
    ratios = ("density", "density_interval", "density_live", "effective_dimension")
    if not exact:
        reason = f"the samples are a draw of {n:,} of {rows:,} rows; intervals for the whole data set are {NOT_YET}"
        why |= dict.fromkeys(("density_interval", "l1_interval"), reason)
    if n == 1 and not exact:
        tables = ("tensors", "token_deciles")
        measured = ("l1", "l2", "sqrt_d_l2", "dead_fraction", "noise_scale_l1", "noise_scale_l2", *tables)
        return why | dict.fromkeys((*measured, *ratios), "one sample of many rows shows no variation")
    if not bool((sigma > 0).any()):
        same = "there is one sample" if n == 1 else f"the gradients of the {n} samples are equal"
        why |= {key: f"no noise: {same}" for key in ratios if key not in why}
    if reason := _unresolved(float(moments.mean.norm()), float(sigma.norm()), 1.0, n, rows, dtype):
        why["noise_scale_l2"] = reason
    # E|N(0, 1)| = sqrt(2/pi): what sampling alone adds to the sum of absolute values.
    if reason := _unresolved(
        float(moments.mean.abs().sum()), float(sigma.sum()), math.sqrt(2 / math.pi), n, rows, dtype
    ):
        why["noise_scale_l1"] = reason
    return why


def _unresolved(gradient: float, noise: float, error: float, n: int, rows: int, dtype: torch.dtype) -> str:
    """Why a gradient's norm cannot stand under a noise scale; empty where it can.

    The mean of n samples drawn from N rows misses the gradient by about error * noise * sqrt((N - n)/((N - 1) n)).
    A norm below twice that is mostly sampling error; one at the rounding of its terms is mostly rounding.
    """
    if gradient <= ROUNDING * torch.finfo(dtype).eps * noise:
        return "not resolved: the gradient vanishes at this point"
    sampling = error * noise * math.sqrt((rows - n) / (max(rows - 1, 1) * n))
    if gradient <= 2 * sampling:
        return f"not resolved: the gradient of {n} samples is within twice its own sampling error"
    return ""


def _by_tensor(problem: Problem, sigma: Tensor) -> list[Mapping[str, Any]]:
    """One row for each parameter: name, parameters, l1, l2, density, dead_fraction."""
    table: list[Mapping[str, Any]] = []
    for name, part in zip(problem.names, torch.split(sigma, problem.sizes), strict=True):
        phi = density(part)
        row: dict[str, Any] = {
            "name": name,
            "parameters": part.numel(),
            "l1": float(part.sum()),
            "l2": float(part.norm()),
            "density": phi,
            "dead_fraction": float((part == 0).sum()) / max(part.numel(), 1),
        }
        if phi is None:
            row["why"] = {"density": "no noise in this tensor"}
        table.append(row)
    return table


def _few_samples(n: int, exact: bool) -> tuple[Finding, ...]:
    if n >= FEW:
        return ()
    spread = f"each standard deviation is off by about {100 / math.sqrt(2 * n):.0f}%, more where tails are heavy"
    return (
        Finding(
            code="too-few-samples",
            severity="warning",
            stage=STAGE,
            found=f"noise measured on {n} sample{'s' if n > 1 else ''}",
            meaning="exact for these rows, but little evidence about further data of the same kind"
            if exact
            else spread,
            action=f"use `--samples {FEW}` or more, if the data holds them",
        ),
    )


def _stored_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
