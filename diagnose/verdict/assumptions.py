"""What the theory assumes (arXiv 2406.15244), and whether it was seen to hold here: number, n and a sentence each."""

from __future__ import annotations

import math
from typing import Literal

from diagnose.verdict.changes import range_of, times
from estimators.numbers.tail_error import relative_error
from estimators.results import FAILS_MOSTLY, GeneralizedSmoothness, Interval, Noise, Smoothness, Spectrum
from reports.record.diagnosis import Assumption
from reports.words.numbers import number, percent

Status = Literal["supported", "not supported", "not testable here"]
MOVES = 2.0
"""Curvature that moves by less than this factor along the runs is described by one vector L."""
FINITE = 2.0
"""Tails of an index above this have a variance."""
FAILS_RARELY = 0.2
"""A fit that fails at no more than this share of the left-out points is supported."""


def assumptions(
    noise: Noise, smoothness: Smoothness, spectrum: Spectrum, generalized: GeneralizedSmoothness
) -> list[Assumption]:
    """One row each for smoothness, noise and generalized smoothness; for convexity where something can be said."""
    rows = [_smoothness(smoothness), _noise(noise), _generalized(generalized), _convexity(smoothness, spectrum)]
    return [row for row in rows if row is not None]


def _smoothness(part: Smoothness) -> Assumption:
    """Assumption 3.3: one L with -diag(L) <= H <= diag(L) everywhere."""
    points = part.points or ()
    moved = {key: range_of(points, key) for key in ("l1", "sharpness")}
    known = {key: pair for key, pair in moved.items() if pair is not None}
    # What moves most for certain, or could.
    factor, n = max(known.values(), default=(None, len(points)))
    most = max((pair[0][1] for pair in known.values()), default=0.0)
    interval: Interval | None = None
    if part.global_l1 is not None:
        status: Status = "supported"
        says = f"holds for all w by construction, with ‖L‖₁ = {number(part.global_l1)} (linear model, convex loss)"
    elif factor is None:
        status = "not testable here"
        why = part.why.get("l1_upper", "curvature was not measured") if part.l1_upper is None else ""
        says = why or "curvature is certified at the start alone, and the assumption is about every w"
    elif factor[0] < MOVES <= most:
        status = "not testable here"
        says = f"the brackets do not tell whether curvature moves by {MOVES:g} along the runs"
    else:
        status = "supported" if most < MOVES else "not supported"
        says = (
            "certified at these points, and one L describes them"
            if most < MOVES
            else "certified at these points, but an L that holds at all of them is far from tight at some"
        )
    if known:
        by = {"l1": "‖L‖₁", "sharpness": "λ"}
        said = " and ".join(f"{by[key]} by {times(pair[0])}" for key, pair in known.items())
        says = f"{says}; along the runs {said}"
    if factor is not None and factor[0] < factor[1]:
        interval = factor
    return Assumption(
        assumption="smoothness by coordinate (3.3)",
        status=status,
        measure="largest over smallest ‖L‖₁ or λ along the runs",
        value=None if factor is None else factor[1],
        interval=interval,
        n=n,
        says=says,
    )


def _noise(part: Noise) -> Assumption:
    """Noise of bounded variance, by Hill's tail index of the samples' gradients."""
    index = part.tail_index or {}
    median, n = index.get("median"), index.get("samples")
    interval: Interval | None = None
    status: Status = "not testable here"
    if "heavy" in part.why.get("l1", ""):
        says = "the tails are too heavy for this draw to tell the variance of all rows"
    elif median is None or n is None:
        says = part.why.get("tail_index", "no tail index was measured")
    else:
        error = median * relative_error(int(n))
        interval = max(0.0, median - error), median + error
        if interval[0] > FINITE:
            status, says = "supported", "above 2 beyond its error: the variance exists"
        elif interval[1] < FINITE:
            status, says = "not supported", "below 2 beyond its error: a few samples hold what the variance measures"
        else:
            says = f"the error of {number(int(n))} samples holds 2, from which on a variance exists"
    return Assumption(
        assumption="noise of bounded variance",
        status=status,
        measure="tail index, median over coordinates",
        value=median,
        interval=interval,
        n=None if n is None else int(n),
        says=says,
    )


def _generalized(part: GeneralizedSmoothness) -> Assumption:
    """Assumption 5.1: |H(w)| <= diag(L0 + L1 |grad f(w)|) everywhere."""
    points = part.points or ()
    left_out = sum(not point["fitted"] for point in points if "fitted" in point)
    value, n, interval = None, len(points), None
    status: Status = "not testable here"
    if part.coverage is None or not left_out:
        says = part.why.get("coverage", "no pair was fitted")
    else:
        value, n, failed = 1 - part.coverage, left_out, round((1 - part.coverage) * left_out)
        interval = share_interval(failed, left_out)
        says = f"fitted to the other points of the runs, the pair fails at {failed} of {number(left_out)} left out"
        if value > FAILS_MOSTLY:
            status = "not supported"
        elif value <= FAILS_RARELY:
            status = "supported"
        else:
            says += f": {percent(value)} is neither rare nor the rule"
    return Assumption(
        assumption="smoothness that grows with the gradient (5.1)",
        status=status,
        measure="share of left-out points at which the fitted pair fails",
        value=value,
        interval=interval,
        n=n,
        says=says,
    )


def share_interval(count: int, n: int) -> Interval:
    """95% interval of a share by Clopper and Pearson (1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(count, n - count + 1, 0.025)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, 0.975)) if count < n else 1.0
    return low, high


def _convexity(smoothness: Smoothness, spectrum: Spectrum) -> Assumption | None:
    """By construction, or contradicted by a negative eigenvalue; nothing where neither is known."""
    smallest, rounding = spectrum.smallest, spectrum.rounding or 0.0
    if smoothness.global_l1 is not None:
        status: Status = "supported"
        value, n, says = None, None, "holds for all w by construction (linear model, convex loss)"
    elif smallest is not None and math.isfinite(smallest) and smallest < -rounding:
        status, value, n = "not supported", smallest, 1
        says = "a negative eigenvalue beyond rounding at the start: of the bounds those without convexity apply"
    else:
        return None
    return Assumption(
        assumption="convexity",
        status=status,
        measure="smallest eigenvalue of the Hessian at the start",
        value=value,
        interval=None,
        n=n,
        says=says,
    )
