"""The pairs (L0, L1) of Assumption 5.1 (arXiv 2406.15244): |nabla^2 f(w)| <= diag(L0 + L1 |nabla f(w)|).

Fitted to certified pointwise curvature, never to secants: gradients of two points say nothing about L1,
since descent removes sharp directions first, so that secants of a quadratic correlate with its gradient.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from estimators.anisotropic import DENSE_GAP, GAP, MAX_PRODUCTS, norms, smoothness
from estimators.lanczos import DELTA
from estimators.max_cut import certify, floored
from estimators.problem import Parameters, Problem
from estimators.products import DENSE_LIMIT, dense_hessian, hessian
from estimators.results import Cost, GeneralizedSmoothness, Progress, Smoothness, absent

STAGE = "generalized_smoothness"
FEWEST = 6
RANGE = 10.0
"""A pair is identified only where gradient norms span this factor."""
CONTROL_STARTS = 3


@dataclass(frozen=True)
class Measured:
    """One point: gradient and certified curvature."""

    problem: Problem
    gradient: Tensor
    smoothness: Smoothness

    @property
    def bound(self) -> Tensor:
        """The feasible L, shape (d,)."""
        return self.problem.flatten(self.smoothness.vectors).double()

    @property
    def norm(self) -> float:
        """Upper end of ||H||."""
        assert self.smoothness.sharpness_interval is not None
        return self.smoothness.sharpness_interval[1]


@dataclass(frozen=True)
class Pairs:
    """Fitted pairs: the isotropic one, and L0 (d,) with one L1 for each tensor."""

    l0: float
    l1: float | None
    vector: Tensor
    slopes: list[float]
    helps: list[bool]
    ranges: list[float]


def generalized_smoothness(
    problem: Problem,
    trajectory: Sequence[Mapping[str, Tensor]],
    *,
    gap: float | None = None,
    max_products: int = MAX_PRODUCTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> GeneralizedSmoothness:
    """Feasible pairs from the points of a trajectory; one L1 for each tensor, one isotropic pair.

    At each point the gradient, ||H|| and a feasible L_t with its certified bracket are measured. Every other
    point is fitted, the rest is held out. Isotropic: the line of least mean height above all fitted
    (||grad||_2, ||H||). Tensor b: the same for (||grad_b||_1, sum_b L_t), which gives L1_b; then
    L0_j = max_t (L_tj - L1_b |g_tj|)+, so that the pair is feasible at every fitted point by construction.
    A slope counts only where gradient norms span a decade and the line lies below the constant bound by more
    than twice the bracket's width: else L1 = 0. ``coverage``: share of held-out points at which
    ||D^(-1/2) H D^(-1/2)|| <= 1 is certified for D = L0 + L1 |g|. ``vectors`` is ``l1``.

    ``points`` is filled even where no fit is possible. Cost: one bracket a point, and three more for the control.
    """
    began, before = time.perf_counter(), problem.passes.total
    goal = gap if gap is not None else (DENSE_GAP if problem.d <= DENSE_LIMIT else GAP)
    total = len(trajectory) + (CONTROL_STARTS if len(trajectory) >= FEWEST else 0)

    def report(done: int) -> None:
        if progress:
            progress(STAGE, done, total)

    points: list[Measured] = []
    for number, parameters in enumerate(trajectory):
        points.append(measure(problem.at(parameters), gap, max_products, seed + number))
        report(number + 1)
    rows: list[dict[str, Any]] = [_row(point, fitted=number % 2 == 0) for number, point in enumerate(points)]
    reason = _unfit(points)
    if reason:
        nothing = absent(GeneralizedSmoothness, reason)
        why = {key: text for key, text in nothing.why.items() if key != "points"}
        return GeneralizedSmoothness(
            **{**dict.fromkeys(nothing.why), "points": rows},  # type: ignore[arg-type]
            why=why,
            cost=Cost(problem.passes.total - before, time.perf_counter() - began),
        )
    fitted, held_out = points[::2], points[1::2]
    pairs = fit(problem, fitted, goal)
    control = fit(problem, frozen(problem, points, fitted, gap, max_products, seed, report), goal)
    slopes = torch.repeat_interleave(torch.tensor(pairs.slopes, dtype=torch.float64), torch.tensor(problem.sizes))
    covered = [_feasible(point, pairs.vector + slopes * point.gradient.abs(), seed) for point in held_out]
    line = [point.norm <= (pairs.l0 + (pairs.l1 or 0.0) * norms(point.gradient)[1]) * (1 + 1e-9) for point in held_out]
    l0, l1 = problem.unflatten(pairs.vector.to(problem.dtype)), problem.unflatten(slopes.to(problem.dtype))
    isotropic: dict[str, Any] = {"l0": pairs.l0, "l1": pairs.l1, "coverage": sum(line) / len(line)}
    if pairs.l1 is None:
        isotropic["why"] = {"l1": f"gradient norms of the fitted points span less than a factor of {RANGE:g}"}
    return GeneralizedSmoothness(
        l0_l1=float(pairs.vector.sum()),
        l1_median=float(slopes.median()),
        helps_fraction=sum(s for s, h in zip(problem.sizes, pairs.helps, strict=True) if h) / problem.d,
        coverage=sum(covered) / len(covered),
        isotropic=isotropic,
        control=_control(problem, control),
        points=rows,
        tensors=_by_tensor(problem, pairs, l0),
        vectors=l1,
        l0=l0,
        l1=l1,
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


def _by_tensor(problem: Problem, pairs: Pairs, l0: Parameters) -> list[dict[str, Any]]:
    rows = []
    for name, size, slope, reach in zip(problem.names, problem.sizes, pairs.slopes, pairs.ranges, strict=True):
        row: dict[str, Any] = {
            "name": name,
            "parameters": size,
            "l0_l1": float(l0[name].double().sum()),
            "l1": slope,
            "gradient_range": reach if np.isfinite(reach) else None,
        }
        if row["gradient_range"] is None:
            row["why"] = {"gradient_range": "the gradient vanishes at one of the points"}
        rows.append(row)
    return rows


def _control(problem: Problem, pairs: Pairs) -> dict[str, Any]:
    found: dict[str, Any] = {
        "l1_median": float(np.median(np.repeat(pairs.slopes, problem.sizes))),
        "isotropic_l1": pairs.l1,
    }
    if pairs.l1 is None:
        found["why"] = {"isotropic_l1": f"gradients of the frozen quadratic span less than a factor of {RANGE:g}"}
    return found


def measure(problem: Problem, gap: float | None, max_products: int, seed: int) -> Measured:
    """Gradient and bracket at the problem's point."""
    gradient = problem.flatten(problem.gradient()).double()
    return Measured(problem, gradient, smoothness(problem, gap=gap, max_products=max_products, seed=seed))


def frozen(
    problem: Problem,
    points: Sequence[Measured],
    fitted: Sequence[Measured],
    gap: float | None,
    max_products: int,
    seed: int,
    report: Any,
) -> list[Measured]:
    """The fitted points on the quadratic frozen at the first point, where L1 is 0 by construction.

    Gradients g_0 + H_0 (w_t - w_0) along the same path; the curvature H_0 measured anew from other random
    starts, so that the control carries the same measurement error.
    """
    first = points[0]
    again = []
    for number in range(CONTROL_STARTS):
        again.append(smoothness(first.problem, gap=gap, max_products=max_products, seed=seed + 7919 * (number + 1)))
        report(len(points) + number + 1)
    origin = problem.flatten(first.problem.parameters)
    with hessian(first.problem) as product:
        return [
            Measured(
                first.problem,
                first.gradient + product((problem.flatten(p.problem.parameters) - origin)[:, None])[:, 0].double(),
                again[number % CONTROL_STARTS],
            )
            for number, p in enumerate(fitted)
        ]


def fit(problem: Problem, points: Sequence[Measured], gap: float) -> Pairs:
    """Isotropic pair and the pair by tensor from measured points; see :func:`generalized_smoothness`."""
    heights = np.array([p.norm for p in points])
    lengths = np.array([norms(p.gradient)[1] for p in points])
    identified = span(lengths) >= RANGE
    width = max(_width(p.smoothness.sharpness_interval) for p in points)
    l0, l1, _ = (
        envelope(lengths, heights, max(width, gap * heights.max()))
        if identified
        else (float(heights.max()), 0.0, False)
    )
    slopes, helps, ranges, parts = [], [], [], []
    # The bracket fixes the sum of L alone: a tensor's own part may be off by the whole width (its floor grows
    # with the curvature of the others).
    width = max(_width((p.smoothness.l1_lower, p.smoothness.l1_upper)) for p in points)
    bounds = [torch.split(p.bound, problem.sizes) for p in points]
    gradients = [torch.split(p.gradient.abs(), problem.sizes) for p in points]
    for tensor in range(len(problem.names)):
        own = np.array([float(g[tensor].sum()) for g in gradients])
        height = np.array([float(b[tensor].sum()) for b in bounds])
        slack = max(width, gap * height.max())
        _, slope, useful = envelope(own, height, slack) if span(own) >= RANGE else (0.0, 0.0, False)
        rest = [(b[tensor] - slope * g[tensor]).clamp_min(0) for b, g in zip(bounds, gradients, strict=True)]
        slopes.append(slope)
        helps.append(useful)
        ranges.append(span(own))
        parts.append(torch.stack(rest).max(0).values)
    return Pairs(l0, l1 if identified else None, torch.cat(parts), slopes, helps, ranges)


def _width(ends: tuple[float | None, float | None] | None) -> float:
    assert ends is not None
    assert ends[0] is not None
    assert ends[1] is not None
    return ends[1] - ends[0]


def envelope(lengths: np.ndarray, heights: np.ndarray, slack: float) -> tuple[float, float, bool]:
    """The line a + b x >= y through no point's inside, a, b >= 0, of least mean height; whether b > 0 earns it.

    A linear program. b counts only where the mean height falls by more than 2 slack below the constant max(y):
    less can come from the width of the brackets. ``slack`` has the unit of the heights.
    """
    top = float(heights.max())
    mean = float(lengths.mean())
    scale = max(mean, 1e-300)
    solution = linprog(
        [1.0, 1.0], A_ub=-np.column_stack([np.ones_like(lengths), lengths / scale]), b_ub=-heights / max(top, 1e-300)
    )
    if not solution.success or top == 0:
        return top, 0.0, False
    a, b = float(solution.x[0]) * top, float(solution.x[1]) * top / scale
    # The solver's tolerance may leave a point a little above the line.
    a += max(0.0, float((heights - a - b * lengths).max()))
    if b <= 0 or a + b * mean > top - 2 * slack:
        return top, 0.0, False
    return a, b, True


def span(values: np.ndarray) -> float:
    """Largest over smallest; 1 where all vanish, infinity where only some do."""
    low, high = float(values.min()), float(values.max())
    return high / low if low > 0 else (float("inf") if high > 0 else 1.0)


def _unfit(points: Sequence[Measured]) -> str | None:
    if len(points) < FEWEST:
        return f"{len(points)} points along the runs, a fit with held-out points needs at least {FEWEST}"
    if not all(bool(torch.isfinite(p.gradient).all()) for p in points):
        return "a gradient along the runs is not finite"
    lengths = np.array([norms(p.gradient)[1] for p in points[::2]])
    if span(lengths) < RANGE:
        return (
            f"gradient norms of the fitted points run from {lengths.min():.3g} to {lengths.max():.3g}: "
            f"less than the factor of {RANGE:g} that tells L0 from L1"
        )
    return None


def _feasible(point: Measured, scaling: Tensor, seed: int) -> bool:
    """Whether |H| <= diag(scaling) is certified at the point."""
    active = scaling > 0
    problem = point.problem
    if problem.d <= DENSE_LIMIT:
        matrix = dense_hessian(problem)
        if float(matrix[~active].abs().sum()) > 0:
            return False
        root = torch.where(active, scaling, torch.ones_like(scaling)).rsqrt() * active
        return float(torch.linalg.eigvalsh(root[:, None] * matrix * root).abs().max()) <= 1 + 1e-9
    like = next(iter(problem.parameters.values()))
    generator = torch.Generator().manual_seed(seed)
    # A tiny floor keeps rows that the fit left at 0 in the test without changing the others.
    floor = floored(scaling, torch.ones_like(active), 1e-9)
    with hessian(problem) as product:
        run = certify(
            product,
            floor,
            torch.ones_like(active),
            generator,
            like,
            steps=60,
            delta=DELTA,
            stop=lambda run: run.norm > 1 or run.norm_bound <= 1,
        )
    return run.norm_bound <= 1


def _row(point: Measured, fitted: bool) -> dict[str, Any]:
    l1, l2 = norms(point.gradient)
    s = point.smoothness
    return {
        "fitted": fitted,
        "gradient_l1": l1,
        "gradient_l2": l2,
        "sharpness": s.sharpness,
        "l1_lower": s.l1_lower,
        "l1_upper": s.l1_upper,
        "density": s.density,
    }
