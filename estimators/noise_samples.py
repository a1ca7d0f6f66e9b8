"""The gradients that a measurement of noise starts from: their moments, by group where the samples are a draw."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators import per_sample
from estimators.errors import InputError
from estimators.group_sums import Groups
from estimators.moments import Moments, moments_of_rows
from estimators.noise_intervals import FEWEST
from estimators.per_sample import gradient_moments
from estimators.problem import Problem
from estimators.results import Finding, Progress

KEPT = 1 << 24
"""The gradients of single samples are kept where they are at most this many numbers (64 MB in float32)."""
GROUPS, FEW_GROUPS = 64, 10
GROUP_NUMBERS = 1 << 23
"""Otherwise a draw is measured in 64 groups, fewer where their moments would be more numbers, down to 10."""
LARGEST = 20_000_000
"""Above so many coordinates a draw has no interval: the moments of ten groups would be 20 vectors."""
TAIL_COORDINATES, TAIL_SAMPLES, FEWEST_TAIL = 1000, 64, 16
"""Coordinates whose tails are looked at; samples for it where their gradients are not kept, and the fewest."""


@dataclass(frozen=True)
class Drawn:
    """Moments of all samples; of groups of them where there are intervals to find; their gradients where kept."""

    moments: Moments
    groups: Groups | None
    rows: Tensor | None
    findings: tuple[Finding, ...]


def gradients(problem: Problem, rows: int, seed: int, progress: Progress | None) -> Drawn:
    """One pass over the samples, and one more where their gradients are kept.

    Raises:
        InputError: the gradient of a sample is not finite.
    """
    n, d = problem.n, problem.d
    fits = n > 1 and n * d <= KEPT
    by_group = FEWEST <= n < rows and d <= LARGEST
    if fits or not by_group:
        moments, findings = gradient_moments(problem, progress)
        kept = _rows(problem, moments) if fits else None
        if kept is not None or not by_group:
            groups = Groups.of_rows(kept) if by_group and kept is not None else None
            return Drawn(moments, groups, kept, findings)
    number = min(n, GROUPS, max(FEW_GROUPS, GROUP_NUMBERS // (2 * d)))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(problem.device)
    shuffled = problem.subset(order)
    try:
        parts, findings = gradient_moments(shuffled, progress, groups=number)
        finite = all(bool(torch.isfinite(part.mean).all()) for part in parts)
    except InputError:
        finite = False
    if not finite:
        gradient_moments(problem)  # names the sample by its place in the data
        raise InputError("the gradients of the samples overflow", type(problem.model).__name__, "use float64")
    problem.passes.add(shuffled.passes.total)
    narrow = torch.float32 if 2 * number * d > GROUP_NUMBERS else torch.float64
    return Drawn(functools.reduce(Moments.merge, parts), Groups.of(parts, narrow), None, findings)


def _rows(problem: Problem, moments: Moments) -> Tensor | None:
    """The samples' gradients, (n, d), held against their moments; None where vmap fails or disagrees."""
    width = max(1, min(problem._chunk, per_sample.ROW_NUMBERS // problem.d))
    pieces = []
    try:
        with problem.measuring():
            for start in range(0, problem.n, width):
                pieces.append(per_sample._vmap_rows(problem, problem.take(slice(start, start + width))))
                problem.passes.add(len(pieces[-1]) / problem.n)
    except Exception:
        # Whatever a model raises under vmap: its moments are known without.
        return None
    rows = torch.cat(pieces).to(stored_dtype(problem.dtype))
    found = moments_of_rows(rows)
    rough = 4096 * torch.finfo(problem.precision).eps * float(moments.mean.abs().max() + spread(moments).max())
    agrees = bool(((found.mean - moments.mean).abs() <= rough).all())
    return rows if agrees and bool(((spread(found) - spread(moments)).abs() <= rough).all()) else None


def spread(moments: Moments) -> Tensor:
    return (moments.squares / moments.count).sqrt()


def tail_gradients(problem: Problem, drawn: Drawn, budget: float, seed: int) -> Tensor | None:
    """Gradients of some samples at some coordinates, (m, c); None where that would cost more than the budget."""
    generator = torch.Generator().manual_seed(seed)
    if problem.d > TAIL_COORDINATES:
        at = torch.randint(problem.d, (TAIL_COORDINATES,), generator=generator).to(problem.device)
    else:
        at = torch.arange(problem.d, device=problem.device)
    if drawn.rows is not None:
        return drawn.rows[:, at]
    samples = min(problem.n, TAIL_SAMPLES, int(budget * problem.n + 1e-9))
    if samples < FEWEST_TAIL:
        return None
    found = []
    for sample in torch.randperm(problem.n, generator=generator)[:samples].tolist():
        alone = problem.subset(torch.tensor([sample], device=problem.device))
        found.append(alone.flatten(alone.gradient())[at])
        problem.passes.add(1 / problem.n)
    return torch.stack(found)


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
