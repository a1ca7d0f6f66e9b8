"""The pairs (L0, L1) of Assumption 5.1 (arXiv 2406.15244): |nabla^2 f(w)| <= diag(L0 + L1 |nabla f(w)|).

Fitted to certified pointwise curvature, never to secants: gradients of two points say nothing about L1,
since descent removes sharp directions first, so that secants of a quadratic correlate with its gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.growth.by_group import by_group, l1_moves
from estimators.growth.envelope import RANGE, Array, span
from estimators.growth.fits import (
    FEWEST_RESAMPLED,
    Pairs,
    Summary,
    fit_levels,
    intervals,
    levels,
    permutation_test,
    summary,
)
from estimators.growth.frozen_quadratic import frozen, repeated, spread, starts
from estimators.growth.left_out import FLAT, HeldOut, coordinate_wise, fit_fails, tighter
from estimators.growth.left_out import isotropic as isotropic_held
from estimators.growth.points import Measured, gathered, measure, width
from estimators.numbers.resampling import members
from estimators.results import GeneralizedSmoothness, Interval, Progress, absent, reporting
from estimators.smoothness_vector.at_a_point import DENSE_GAP, GAP, MAX_PRODUCTS, norms, rounded_up
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import passing

STAGE = "generalized_smoothness"
FEWEST = 6


def generalized_smoothness(
    problem: Problem,
    trajectory: Sequence[Mapping[str, Tensor] | Problem],
    *,
    groups: Sequence[str] | None = None,
    gap: float | None = None,
    max_products: int = MAX_PRODUCTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> GeneralizedSmoothness:
    """Feasible pairs from the points of a trajectory: by coordinate, by tensor, for the whole, and isotropic.

    At each point the gradient g_t, ||H_t|| and a feasible L_t with its certified bracket are measured. Every other
    point (of each group) is fitted, the rest is held out. A pair is the line of least mean height above all fitted
    points, L0, L1 >= 0: above (|g_tj|, L_tj) for coordinate j, so that L0 + L1 |g_t| >= L_t and the pair is feasible
    at every fitted point by construction; above (||g_tb||_1, sum_b L_t) for tensor b; (||g_t||_1, sum L_t) for the
    whole; (||g_t||_2, ||H_t||) isotropic. A slope counts only where it is identified: the gradient spans a decade,
    and the line lies below the constant bound by more than twice what the bracket leaves free (``fits.levels``);
    else L1 = 0.

    Intervals: 95%, block bootstrap over contiguous points within groups (``fits.intervals``), from 8 fitted points
    on. ``identified_fraction``: share of coordinates whose own gradient spans a decade. ``permutation_p``: share of
    orders of the gradients, curvature in its own order, in which L1 helps as much (``fits.permutation_test``).
    ``coverage``: share of held-out points at which ||D^(-1/2) H D^(-1/2)|| <= 1 is certified for D = L0 + L1 |g|;
    ``tightness``: mean over them of sum(D) over sum(L_t). ``control`` repeats all fits on the quadratic frozen at the
    first point, where L1 is 0. ``vectors`` is ``l1``.

    A point is a parameter dict, or ``problem.at`` of one: then a Hessian formed here stays with it, at the first points
    and as far as there is room (``memory_limit.py``). At the others it is formed again where it is wanted again.
    ``points`` is filled even where no fit is possible, as with a memory limit that the vectors of all points exceed.
    Cost: one bracket a point, and for the control one more, three where H is formed.
    Where it is not, the sweeps of a point start from the rows of the point before it in its group, those of a group's
    first from the rows of the first point of all; the control's start at random, since it measures what the start
    leaves free.

    Args:
        problem: the task.
        trajectory: the points.
        groups: one label for each point, say its run, learning rate or batch size. Fits by group show whether L1
            moves with them.
        gap: of the brackets, see ``smoothness``.
        max_products: of each bracket.
        seed: of the brackets, replicates and permutations.
        progress: called with ("generalized_smoothness", brackets done, all).

    Raises:
        InputError: labels that do not fit the points; what ``smoothness`` raises.

    Examples:
        >>> import torch
        >>> from estimators import Problem, generalized_smoothness
        >>> def grow(output, targets):  # f = mean of exp(w_j): curvature is the gradient, so L0 = 0 and L1 = 1
        ...     return output.squeeze(1).exp()
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (torch.eye(2), torch.ones(2, 1)), loss=grow)
        >>> points = [{"weight": torch.full((1, 2), 0.5 * step)} for step in range(10)]
        >>> result = generalized_smoothness(problem, points)
        >>> print(f"L1 {result.l1_median:.2f}")
        L1 1.00
    """
    if groups is not None and len(groups) != len(trajectory):
        raise InputError(f"{len(groups)} labels for {len(trajectory)} points", "groups", "give one for each point")
    meter = Meter(problem)
    goal = gap if gap is not None else (DENSE_GAP if problem.forms_hessian else GAP)
    total = len(trajectory) + (repeated(problem) if len(trajectory) >= FEWEST else 0)
    report = reporting(progress, STAGE, total)
    labels = list(groups) if groups is not None else [""] * len(trajectory)
    # One group after another, every other point: each group has its share in both halves.
    order = [int(place) for own in members(labels).values() for place in own]
    fitted, held_out = sorted(order[::2]), sorted(order[1::2])
    no_room = memory_limit.too_many_points(problem, len(trajectory))
    found: dict[int, Measured] = {}
    rows: list[dict[str, Any]] = [{} for _ in labels]
    keeping = memory_limit.formed_points(problem)
    before_it: str | None = None
    start = first = None
    for done, number in enumerate(order, 1):
        where = trajectory[number]
        there = where if isinstance(where, Problem) else problem.at(where)
        start = start if labels[number] == before_it else first
        beside = memory_limit.POINT * len(found) + (0 if first is None or start is first else width(first))
        with contextlib.nullcontext() if number < keeping else passing(there):
            point, start = measure(there, gap, max_products, seed + number, start, beside)
        first = start if done == 1 else first
        rows[number] = _row(point, fitted=number in fitted) | ({"group": labels[number]} if groups is not None else {})
        if no_room is None:
            found[number] = point
        before_it = labels[number]
        del point, there
        report(done)
    start = first = None
    measured = [found[number] for number in sorted(found)]
    reason = no_room or _unfit(measured, fitted)
    if reason:
        nothing = absent(GeneralizedSmoothness, reason)
        why = {key: text for key, text in nothing.why.items() if key != "points"}
        return GeneralizedSmoothness(
            **{**dict.fromkeys(nothing.why), "points": rows},  # type: ignore[arg-type]
            why=why,
            cost=meter.cost(),
        )
    with passing(measured[0].problem):
        beside = memory_limit.POINT * (len(measured) + repeated(problem))
        again = starts(measured[0], gap, max_products, seed, lambda done: report(len(measured) + done), beside)
        control = frozen(measured[0], again, [measured[i] for i in fitted])
    free = spread(measured[0], again)
    everything = levels(gathered(measured), problem.sizes, goal, free)
    clouds = everything.rows(np.array(fitted))
    pairs = fit_levels(clouds)
    still = fit_levels(levels(control, problem.sizes, goal, free))
    l0 = problem.unflatten(_rounded_up(problem, pairs.coordinates.a))
    l1 = problem.unflatten(_rounded_up(problem, pairs.coordinates.b))
    held = [measured[i] for i in held_out]
    numbers = summary(pairs.coordinates, pairs.isotropic)
    by_coordinate = coordinate_wise(held, problem.flatten(l0).double(), problem.flatten(l1).double(), seed)
    by_norm = isotropic_held(held, numbers.isotropic_l0, numbers.isotropic_l1)
    p_share, p_gain = permutation_test(clouds, seed)
    around = intervals(clouds, [labels[i] for i in fitted], numbers, seed) if len(fitted) >= FEWEST_RESAMPLED else None
    few = f"{len(fitted)} fitted points, replicates of fewer than {FEWEST_RESAMPLED} say little"
    slopes = by_group(everything, groups, seed) if groups is not None else None
    why = {} if by_coordinate.tightness is not None else {"tightness": FLAT}
    if around is None:
        why |= dict.fromkeys(("l0_l1_interval", "l1_median_interval"), few)
    if slopes is None:
        why["l1_by_group"] = "the points were given no groups"
    return GeneralizedSmoothness(
        l0_l1=numbers.l0_l1,
        l0_l1_interval=around.l0_l1 if around else None,
        l1_median=numbers.l1_median,
        l1_median_interval=around.l1_median if around else None,
        identified_fraction=float((pairs.coordinates.ranges >= RANGE).mean()),
        helps_fraction=float(pairs.coordinates.helps.mean()),
        permutation_p=p_share,
        coverage=by_coordinate.coverage,
        tightness=by_coordinate.tightness,
        tighter=tighter(by_coordinate, by_norm, goal),
        whole={
            "l0": float(pairs.whole.a[0]),
            "l1": float(pairs.whole.b[0]),
            **_reach(float(pairs.whole.ranges[0])),
        },
        isotropic=_isotropic(numbers, by_norm, p_gain, around, few),
        l1_by_group=slopes,
        control=_control(still),
        points=rows,
        tensors=_by_tensor(problem, pairs),
        why=why,
        vectors=l1,
        l0=l0,
        l1=l1,
        warnings=(*l1_moves(slopes or []), *fit_fails(by_coordinate.coverage, len(held))),
        cost=meter.cost(),
    )


def _isotropic(
    numbers: Summary[float], held: HeldOut, p: float, around: Summary[Interval] | None, few: str
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "l0": numbers.isotropic_l0,
        "l0_interval": around.isotropic_l0 if around else None,
        "l1": numbers.isotropic_l1,
        "l1_interval": around.isotropic_l1 if around else None,
        "permutation_p": p,
        "coverage": held.coverage,
        "tightness": held.tightness,
    }
    why = {} if around else dict.fromkeys(("l0_interval", "l1_interval"), few)
    if held.tightness is None:
        why["tightness"] = FLAT
    return {**body, "why": why} if why else body


def _reach(ratio: float) -> dict[str, Any]:
    if np.isfinite(ratio):
        return {"gradient_range": ratio}
    return {"gradient_range": None, "why": {"gradient_range": "the gradient vanishes at one of the points"}}


def _by_tensor(problem: Problem, pairs: Pairs) -> list[dict[str, Any]]:
    rows = []
    stop = 0
    for k, (name, size) in enumerate(zip(problem.names, problem.sizes, strict=True)):
        own, stop = slice(stop, stop + size), stop + size
        rows.append(
            {
                "name": name,
                "parameters": size,
                "l0_l1": float(pairs.coordinates.a[own].sum()),
                "l1_median": float(np.median(pairs.coordinates.b[own])),
                "helps_fraction": float(pairs.coordinates.helps[own].mean()),
                "l0": float(pairs.tensors.a[k]),
                "l1": float(pairs.tensors.b[k]),
                **_reach(float(pairs.tensors.ranges[k])),
            }
        )
    return rows


def _control(pairs: Pairs) -> dict[str, Any]:
    spanned = pairs.isotropic.ranges[0] >= RANGE
    found: dict[str, Any] = {
        "l1_median": float(np.median(pairs.coordinates.b)),
        "helps_fraction": float(pairs.coordinates.helps.mean()),
        "tensors_l1": float(pairs.tensors.b.max()),
        "whole_l1": float(pairs.whole.b[0]),
        "isotropic_l1": float(pairs.isotropic.b[0]) if spanned else None,
    }
    if not spanned:
        found["why"] = {"isotropic_l1": f"gradients of the frozen quadratic span less than a factor of {RANGE:g}"}
    return found


def _rounded_up(problem: Problem, values: Array) -> Tensor:
    return rounded_up(torch.from_numpy(values), problem.dtype).to(problem.device)


def _unfit(points: Sequence[Measured], fitted: Sequence[int]) -> str | None:
    if len(points) < FEWEST:
        return f"{len(points)} points along the runs, a fit with held-out points needs at least {FEWEST}"
    if not all(bool(torch.isfinite(p.gradient).all()) for p in points):
        return "a gradient along the runs is not finite"
    lengths = np.array([[norms(points[i].gradient)[1]] for i in fitted])
    if span(lengths)[0] < RANGE:
        return (
            f"gradient norms of the fitted points run from {lengths.min():.3g} to {lengths.max():.3g}: "
            f"less than the factor of {RANGE:g} that tells L0 from L1"
        )
    return None


def _row(point: Measured, fitted: bool) -> dict[str, Any]:
    l1, l2 = norms(point.gradient)
    s = point.smoothness
    row: dict[str, Any] = {
        "fitted": fitted,
        "gradient_l1": l1,
        "gradient_l2": l2,
        "sharpness": s.sharpness,
        "l1_lower": s.l1_lower,
        "l1_upper": s.l1_upper,
        "gap_wanted": s.gap_wanted,
        "ended_by": s.ended_by,
        "density": s.density,
        "density_interval": s.density_interval,
    }
    zero = {key: s.why[key] for key in ("density", "density_interval") if key in s.why}
    return {**row, "why": zero} if zero else row
