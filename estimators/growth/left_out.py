"""The fitted pairs at the points that were left out of the fit: do they hold there, and how closely?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.curvature.lanczos import DELTA
from estimators.curvature.scaled_lanczos import certify
from estimators.growth.points import Measured
from estimators.results import FAILS_MOSTLY, Finding
from estimators.smoothness_vector.at_a_point import norms
from estimators.smoothness_vector.bracket import floored
from estimators.task.products import curvature, passing

FLAT = "the Hessian vanishes at a held-out point"


@dataclass(frozen=True)
class HeldOut:
    """Of one assumption: ``coverage``, the share of held-out points at which its bound holds, and ``tightness``, the
    mean over them of the bound over what it bounds; None where that is 0 somewhere."""

    coverage: float
    tightness: float | None


def coordinate_wise(points: Sequence[Measured], l0: Tensor, l1: Tensor, seed: int) -> HeldOut:
    """D = L0 + L1 |g|, (d,): held where |H| <= diag(D) is certified; sum D against the feasible sum L there."""
    bounds = [l0 + l1 * point.gradient.abs() for point in points]
    held = [_feasible(point, bound, seed) for point, bound in zip(points, bounds, strict=True)]
    return _summary(held, [float(b.sum()) for b in bounds], [float(point.bound.sum()) for point in points])


def isotropic(points: Sequence[Measured], l0: float, l1: float) -> HeldOut:
    """l0 + l1 ||g||_2 against the upper end of ||H||."""
    bounds = [l0 + l1 * norms(point.gradient)[1] for point in points]
    held = [point.norm <= bound * (1 + 1e-9) for point, bound in zip(points, bounds, strict=True)]
    return _summary(held, bounds, [point.norm for point in points])


def tighter(one: HeldOut, other: HeldOut, gap: float) -> dict[str, Any]:
    """{assumption, factor}: whose tightness is nearer to 1, the coordinate-wise ``one``'s or the isotropic
    ``other``'s, and by which factor; "neither" where that is within the brackets' ``gap``. Null where they hold at
    different shares of the points, or nowhere."""
    body: dict[str, Any] = {"assumption": None, "factor": None}
    reason = None
    if one.coverage != other.coverage:
        reason = (
            f"the bounds hold at {one.coverage:.0%} (coordinate-wise) and {other.coverage:.0%} (isotropic) of the "
            "held-out points: one that fails more often may be tighter for nothing"
        )
    elif one.coverage == 0:
        reason = "neither bound holds at a held-out point"
    if reason or one.tightness is None or other.tightness is None:
        return {**body, "why": dict.fromkeys(body, reason or FLAT)}
    factor = other.tightness / one.tightness
    closer = "coordinate-wise" if factor >= 1 else "isotropic"
    factor = max(factor, 1 / factor)
    return {"assumption": closer if factor > 1 + gap else "neither", "factor": factor}


def fit_fails(coverage: float, points: int) -> tuple[Finding, ...]:
    """fit-fails: the pair misses most of the points that it was not fitted to."""
    if 1 - coverage <= FAILS_MOSTLY:
        return ()
    return (
        Finding(
            code="fit-fails",
            severity="warning",
            stage="generalized_smoothness",
            found=f"the fitted pair (L₀, L₁) fails at {points - round(coverage * points)} of {points} points that were "
            "left out of the fit",
            meaning="it describes the points that it was fitted to, and not the curvature between them",
            action="read L₀ and L₁ as those of the fitted points alone",
        ),
    )


def _summary(held: Sequence[bool], bounds: Sequence[float], values: Sequence[float]) -> HeldOut:
    tightness = float(np.mean(np.array(bounds) / np.array(values))) if min(values) > 0 else None
    return HeldOut(sum(held) / len(held), tightness)


def _feasible(point: Measured, scaling: Tensor, seed: int) -> bool:
    """Whether |H| <= diag(scaling) is certified at the point."""
    active = scaling > 0
    with passing(point.problem), curvature(point.problem) as operator:
        if operator.matrix is not None:
            if float(operator.matrix[~active].abs().sum()) > 0:
                return False
            root = torch.where(active, scaling, torch.ones_like(scaling)).rsqrt() * active
            return float(torch.linalg.eigvalsh(root[:, None] * operator.matrix * root).abs().max()) <= 1 + 1e-9
        # A tiny floor keeps rows that the fit left at 0 in the test without changing the others.
        run = certify(
            operator,
            floored(scaling, torch.ones_like(active), 1e-9),
            torch.ones_like(active),
            torch.Generator().manual_seed(seed),
            point.problem.like,
            steps=60,
            delta=DELTA,
            stop=lambda run: run.norm > 1 or run.norm_bound <= 1,
        )
    return run.norm_bound <= 1
