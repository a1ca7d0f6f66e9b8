"""Curvature that sits in kinks: autograd's Hessian beside a finite step, which crosses them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.vectors import SLICE, dot, norm, random_start, unit
from estimators.results import Finding, Progress, Result, reporting
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import hessian

STAGE = "kinks"
GRADIENT = "gradient"
STEPS = (1e-2, 1e-3, 3e-4)
"""Lengths of the step as shares of |w|, the largest first."""
PARTED = 0.05
"""Share of the curvature by which the two must differ to be told apart."""
SHRINKS = 0.3
"""From 0.001 to 0.0003 of |w| the error of a smooth function shrinks to 0.09; that of kinks does not shrink."""
ROUNDING = 8
"""A gradient is trusted to this many units in the last place of its norm."""
BESIDE = 12
"""Vectors beside a block of products: the point, the gradient, the work of a product or of a gradient."""


@dataclass(frozen=True, kw_only=True)
class FiniteStep:
    """Along one unit direction u: ``curvature`` = u'Hu by autograd, ``finite`` = (g(w + hu) - g(w - hu))'u / 2h."""

    direction: str
    h: float
    curvature: float
    finite: float | None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Kinks(Result):
    """``rows`` holds every direction at every h; ``parted`` the row where the two differ most, at the smallest h,
    None where they agree (then there is no warning)."""

    rows: tuple[FiniteStep, ...]
    parted: FiniteStep | None
    samples: int


def finite_step_curvature(
    problem: Problem,
    *,
    directions: int = 3,
    steps: Sequence[float] = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Kinks:
    """u'Hu by autograd beside (g(w + hu) - g(w - hu))'u / 2h, along the gradient and random directions.

    For a piecewise smooth loss (ReLU, max pooling, clipping) autograd's Hessian is that of the piece that w lies in. A
    step crosses kinks, and the jumps of the gradient there are curvature too: over many kinks they add the same on
    average at every h, with more scatter the smaller h is. For a smooth loss the two differ by O(h^2). So the finding
    ``kinks`` says that at the smallest h they are more than 5% apart, beyond the rounding of the gradients, and that
    the difference did not shrink as h^2 does.

    Cost: about 3 passes for each direction, and 2 for each of its steps. Memory: four vectors of size d for each
    direction beside 12 others; where that is too much, directions are measured in several parts, each of which builds
    its graphs anew.

    Args:
        problem: the task at a point.
        directions: random ones, beside the gradient's.
        steps: lengths as shares of |w| (of 1 where w = 0), two or more.
        seed: of the random directions.
        progress: called with ("kinks", gradients done, gradients).

    Raises:
        InputError: fewer than two steps, one that is not above 0, no direction.

    Examples:
        >>> import torch
        >>> from estimators import Problem, finite_step_curvature
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> result = finite_step_curvature(problem)
        >>> max(abs(row.finite - row.curvature) for row in result.rows) < 0.01  # of a smooth loss
        True
        >>> [finding.code for finding in result.warnings]
        []
    """
    if len(steps) < 2 or not all(0 < step < float("inf") for step in steps):
        raise InputError("two steps above 0 are needed to see whether the difference shrinks", "steps")
    if directions < 1:
        raise InputError(f"{directions} directions", "directions", "give 1 or more")
    meter = Meter(problem)
    at = problem.flatten(problem.parameters)
    gradient = problem.flatten(problem.gradient())
    slope, length = norm(gradient), norm(at) or 1.0
    generator = torch.Generator().manual_seed(seed)
    names = [GRADIENT] * (slope > 0) + [f"random {number}" for number in range(1, directions + 1)]
    width = memory_limit.columns(problem, len(names), memory_limit.BLOCK, BESIDE)
    rows, report = list[FiniteStep](), reporting(progress, STAGE, 2 * len(names) * len(steps))
    for start in range(0, len(names), width):
        some = names[start : start + width]
        units = torch.stack(
            [unit(gradient if name == GRADIENT else random_start(problem.d, generator, at)) for name in some]
        )
        for name, u, curvature in zip(some, units, _curvatures(problem, units), strict=True):
            for step in sorted(steps, reverse=True):
                rows.append(_finite_step(problem, at, name, u, step * length, curvature))
                report(2 * len(rows))
    noise = ROUNDING * torch.finfo(problem.precision).eps * slope
    each = [rows[i : i + len(steps)] for i in range(0, len(rows), len(steps))]
    apart = [part[-1] for part in each if _parted(part[-2], part[-1], noise)]
    parted = max(apart, key=_off, default=None)
    return Kinks(
        rows=tuple(rows),
        parted=parted,
        samples=problem.n,
        warnings=(_finding(parted),) if parted else (),
        cost=meter.cost(),
    )


def _curvatures(problem: Problem, units: Tensor) -> list[float]:
    """u'Hu for each of the unit vectors (k, d)."""
    with hessian(problem) as product:
        images = product(units.T)
    return [dot(u, image) for u, image in zip(units, images.unbind(1), strict=True)]


def _finite_step(problem: Problem, at: Tensor, name: str, u: Tensor, h: float, curvature: float) -> FiniteStep:
    """The central difference along u; gradients in the problem's dtype, products with them in float64."""
    change = moved = 0.0
    for sign in (1, -1):
        # What rounding leaves of the step is what was walked.
        there, walked = _stepped(at, u, sign * h)
        moved += sign * walked
        gradient = problem.flatten(problem.at(problem.unflatten(there)).gradient())
        change += sign * dot(gradient, u)
    finite = change / moved if moved > 0 else math.nan
    if not math.isfinite(finite):
        why = {"finite": "the gradient at the end of the step is not finite, or the step is lost in rounding"}
        return FiniteStep(direction=name, h=h, curvature=curvature, finite=None, why=why)
    return FiniteStep(direction=name, h=h, curvature=curvature, finite=finite)


def _stepped(at: Tensor, u: Tensor, h: float) -> tuple[Tensor, float]:
    """at + hu as its number format holds it, and how far that is along u."""
    there, walked = torch.empty_like(at), 0.0
    for x, way, into in zip(*(torch.split(each, SLICE) for each in (at, u, there)), strict=True):
        into.copy_(x.double() + h * way.double())
        walked += float((into.double() - x.double()) @ way.double())
    return there, walked


def _off(row: FiniteStep) -> float:
    return abs((row.finite or 0.0) - row.curvature)


def _parted(longer: FiniteStep, shorter: FiniteStep, noise: float) -> bool:
    """Whether the shorter step's difference is no rounding (``noise`` is that of a gradient) and no O(h^2)."""
    if longer.finite is None or shorter.finite is None:
        return False
    seen = _off(shorter) > PARTED * abs(shorter.curvature) + noise / shorter.h
    return seen and _off(shorter) > SHRINKS * _off(longer)


def _finding(row: FiniteStep) -> Finding:
    where = "the gradient" if row.direction == GRADIENT else "a random direction"
    return Finding(
        code="kinks",
        severity="warning",
        stage=STAGE,
        found=f"along {where} autograd's curvature is {row.curvature:.3g}, and {row.finite:.3g} over a step of "
        f"h = {row.h:.2g}",
        meaning="the network has kinks (ReLU, max pooling, clipping): every curvature here is that of its smooth "
        "pieces, and an optimizer's steps meet the kinks too",
        action="read smoothness and sharpness as those of the pieces; they are no bound on what a step meets",
    )
