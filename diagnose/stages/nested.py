"""Objects inside the parts of result.json: Lambda of the whole data, the density of eigenvalues, curvature in the
metric of an update rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import estimators
from diagnose.limits import DENSITY_STARTS, DENSITY_STEPS
from diagnose.training.update_rules import State
from estimators.curvature.lanczos import Ritz
from estimators.numbers.rare_rows import unseen_share
from estimators.results import ALL_ROWS, NONE_MISSED, Progress, Smoothness
from estimators.task.problem import Problem
from estimators.task.products import passing

FEWEST_SAMPLES = 4
"""Two halves of two samples each: fewer show no scatter."""
THINNED = 2
"""Every second point of the density's grid is stored: 1.9 on each width of the kernel."""
IDENTITY = "sgd moves by the gradient itself: its P is I, and the value is `sharpness`"
OVERFLOWN = "the squares of AdaGrad's gradients add up to more than the number format holds"
NO_GRADIENT = "no gradient has been accumulated at the start"


def numbers(row: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Some fields of a result as an object of result.json, with the reasons of its nulls."""
    why = {key: reason for key, reason in row.why.items() if key in keys}
    return {key: getattr(row, key) for key in keys} | ({"why": why} if why else {})


def whole_data(
    problem: Problem,
    bracket: Smoothness,
    rows: int,
    *,
    products: int,
    affordable: bool,
    cut: str = "",
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """The 95% interval for Lambda of all ``rows`` of the data; the bracket itself where all were measured.
    ``rare_rows`` is the share of the rows below which the draw may have missed them all.

    Args:
        problem: the curvature samples.
        bracket: theirs, paid already.
        products: for Lambda of the data at least; half of the bracket's where that is more.
        affordable: False where the model is too large for more products.
        cut: why it is left out; empty: it is not.
    """
    found: dict[str, Any] = {"interval": None, "mean": None, "inflation": None, "samples": problem.n, "rows": rows}
    found |= {"products": 0, "rare_rows": unseen_share(problem.n, rows)}
    if problem.n >= rows:
        assert bracket.l1_lower is not None
        assert bracket.l1_upper is not None
        found["interval"] = (bracket.l1_lower, bracket.l1_upper)
        return {**found, "why": {**dict.fromkeys(("mean", "inflation"), ALL_ROWS), "rare_rows": NONE_MISSED}}
    reason = ""
    if problem.n < FEWEST_SAMPLES:
        reason = f"{problem.n} samples are too few: Lambda of all {rows:,} rows takes {FEWEST_SAMPLES} or more"
    elif cut:
        reason = cut
    elif not affordable:
        reason = "not measured for so large a model: `estimators.crossfit_smoothness` does it"
    if reason:
        return {**found, "why": dict.fromkeys(("interval", "mean", "inflation"), reason)}
    crossed = estimators.crossfit_smoothness(
        problem,
        rows=rows,
        smoothness=bracket,
        max_products=max((bracket.products or 0) // 2, products),
        seed=seed,
        progress=progress,
    )
    found |= {"mean": crossed.crossfit_mean, **numbers(crossed, ("interval", "inflation", "products"))}
    return found


def eigenvalue_density(
    problem: Problem, run: Ritz | None, *, starts: int = DENSITY_STARTS, seed: int, progress: Progress
) -> dict[str, Any]:
    """The smoothed density of H's eigenvalues with its 95% band; the spectrum's own run is the first."""
    found = estimators.eigenvalue_density(
        problem, probes=starts, steps=DENSITY_STEPS, run=run, seed=seed, progress=progress
    )
    keys = ("width", "resolution", "outliers", "mean", "mean_interval", "mean_square", "mean_square_interval")
    curves = {key: list(getattr(found, key)[::THINNED]) for key in ("grid", "density", "spread", "lower", "upper")}
    made: dict[str, Any] = {"starts": found.probes}
    row = numbers(found, keys)
    if found.exact:
        row["why"] = {**row["why"], "starts": found.why["probes"]}
    return {**curves, **made, **row}


def in_own_metric(problem: Problem, method: str, state: State, *, seed: int, progress: Progress) -> Mapping[str, Any]:
    """max|eig P^-1/2 H P^-1/2| with AdaGrad's P = diag(sqrt(v)) at a point of its run, for ``smoothness.points``."""
    keys = ("preconditioned", "preconditioned_interval")
    if method != "adagrad":
        return {**dict.fromkeys(keys), "why": dict.fromkeys(keys, IDENTITY if method == "sgd" else NO_GRADIENT)}
    scale = {name: v.sqrt() for name, v in state["v"].items()}
    if not all(bool(part.isfinite().all()) for part in scale.values()):
        return {**dict.fromkeys(keys), "why": dict.fromkeys(keys, OVERFLOWN)}
    with passing(problem):
        found = estimators.preconditioned_sharpness(problem, scale, seed=seed, progress=progress)
    return dict(zip(keys, (found.value, found.interval), strict=True))
