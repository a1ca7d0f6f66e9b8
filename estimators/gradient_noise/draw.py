"""The gradients that a measurement of noise starts from: their moments, by group where the samples are a draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.gradient_noise.draw_intervals import FEWEST
from estimators.gradient_noise.group_sums import Groups
from estimators.numbers.moments import Moments
from estimators.numbers.thinning import Thinned, thinned
from estimators.per_sample.engines import loop_row
from estimators.per_sample.gradients import gradient_moments, gradient_rows, grouped_moments
from estimators.results import Finding, Progress
from estimators.task import memory_limit
from estimators.task.problem import Problem

KEPT = 1 << 24
"""The gradients of single samples are kept where they are at most this many numbers (64 MB in float32)."""
GROUPS, FEW_GROUPS = 64, 10
GROUP_NUMBERS = 1 << 23
"""Otherwise a draw is measured in 64 groups, fewer where their moments would be more numbers, down to 10."""
MOST = 10_000_000
"""Moments of groups are kept at so many coordinates at most: those of ten groups are 20 vectors."""
TAIL_COORDINATES, TAIL_SAMPLES, FEWEST_TAIL = 1000, 64, 16
"""Coordinates whose tails are looked at; samples for it where their gradients are not kept, and the fewest."""


@dataclass(frozen=True)
class Drawn:
    """Moments of all samples; of groups of them where there are intervals to find, at some coordinates where these are
    too many (``part``); their gradients where kept."""

    moments: Moments
    groups: Groups | None
    rows: Tensor | None
    findings: tuple[Finding, ...]
    part: Thinned | None = None


def gradients(problem: Problem, rows: int, seed: int, progress: Progress | None) -> Drawn:
    """One pass over the samples.

    Raises:
        InputError: the gradient of a sample is not finite.
    """
    n, d = problem.n, problem.d
    room = memory_limit.vectors(problem) if problem.memory_bytes is not None else math.inf
    drawn = FEWEST <= n < rows
    part = thinned(problem.sizes, MOST, seed) if drawn and d > MOST else None
    kept_at = d if part is None else len(part.at)
    # Moments are float64, and held once more while they are merged; so are rows while their moments are taken.
    fit = room * d / kept_at // 10
    number = int(min(n, GROUPS, max(FEW_GROUPS, GROUP_NUMBERS // (2 * kept_at)), fit))
    by_group = drawn and number >= min(n, FEW_GROUPS)
    if n > 1 and n * d <= KEPT and 8 * n <= room:
        kept, moments, findings = gradient_rows(problem, progress)
        return Drawn(moments, Groups.of_rows(kept) if by_group else None, kept, findings)
    if not by_group:
        moments, findings = gradient_moments(problem, progress)
        return Drawn(moments, None, None, findings)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(problem.device)
    shuffled = problem.subset(order)
    at = None if part is None else part.at.to(problem.device)
    try:
        moments, groups, findings = grouped_moments(shuffled, number, at, progress)
    except InputError:
        gradient_moments(problem)  # names the sample by its place in the data
        raise
    problem.passes.add(shuffled.passes.total)
    narrow = torch.float32 if 2 * number * kept_at > GROUP_NUMBERS else torch.float64
    return Drawn(moments, Groups.of(groups, narrow), None, findings, part)


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
    with problem.measuring():
        for sample in torch.randperm(problem.n, generator=generator)[:samples].tolist():
            found.append(loop_row(problem, sample)[at])
            problem.passes.add(1 / problem.n)
    return torch.stack(found)
