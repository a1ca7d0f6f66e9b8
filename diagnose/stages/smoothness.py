"""The stage of the smoothness vector: its bracket at the start, after a rotation, and of the whole data."""

from __future__ import annotations

from typing import Any

import estimators
from diagnose.limits import LEAST_WHOLE_DATA, whole_data_products
from diagnose.stages.across import completed
from diagnose.stages.bench import HUGE_NETWORK, Bench, Update, stream
from diagnose.stages.estimate import BRACKET, Estimate, PlanRow, row
from diagnose.stages.rows import fields, in_own_metric, joined, point_row
from diagnose.stages.thresholds import at_start
from estimators.numbers.rare_rows import unseen_share
from estimators.results import ALL_ROWS, NONE_MISSED, Progress, Smoothness
from estimators.smoothness_vector.rotated import rotated_density
from estimators.task.function import DENSE_LIMIT
from estimators.task.memory_limit import FEWEST
from estimators.task.problem import Problem
from reports.record.diagnosis import Diagnosis, absent

READ, VECTORS = 90, 180
"""Products for a bracket that ends once its reading is certain, 60 to 180; and vectors that a bracket holds."""
FEWEST_SAMPLES = 4
"""Two halves of two samples each: fewer show no scatter."""


def smoothness(bench: Bench, _: Diagnosis) -> Update:
    if (reason := bench.without_curvature("smoothness")) is not None:
        return Update({"smoothness": absent(Smoothness, reason)})
    seed = stream(bench.resolved.seed, "smoothness")
    runs = bench.lanczos_run()
    part = estimators.smoothness(
        bench.curvature,
        gap=bench.resolved.gap,
        thresholds=at_start(bench.resolved),
        max_products=bench.limits.products,
        run=None if runs is None else runs.norm,
        seed=seed,
        progress=bench.progress,
    )
    start = point_row("start", 0, bench.curvature, part)
    start = joined(start, in_own_metric(bench.curvature, "start", {}, seed=seed, progress=bench.progress))
    turned, reason = _rotated_density(bench, part)
    found: dict[str, Any] = {"points": [start], "density_rotated": turned}
    found["whole_data"] = whole_data(
        bench.curvature,
        part,
        bench.opened.rows,
        products=LEAST_WHOLE_DATA if bench.curvature.forms_hessian else whole_data_products(bench.limits),
        affordable=bench.curvature.d <= HUGE_NETWORK,
        cut="" if bench.limits.whole_data else bench.cut,
        seed=stream(bench.resolved.seed, "crossfit"),
        progress=bench.progress,
    )
    if part.hessian_11 is None and bench.curvature.d <= HUGE_NETWORK and bench.limits.one_norm:
        seed = stream(bench.resolved.seed, "one-norm")
        norm = estimators.hessian_one_norm(
            bench.curvature, probes=bench.limits.one_norm, seed=seed, progress=bench.progress
        )
        found |= {"hessian_11": norm.value, "hessian_11_interval": norm.interval}
    why = {"density_rotated": reason}
    if "hessian_11" not in found and part.hessian_11 is None:
        costly = f"not measured above {HUGE_NETWORK:,} parameters: `estimators.hessian_one_norm` does it"
        reason = costly if bench.curvature.d > HUGE_NETWORK else bench.cut
        why |= dict.fromkeys(("hessian_11", "hessian_11_interval"), reason)
    part = completed(part, found, why)
    return Update(
        {"smoothness": part}, {"smoothness": part.vectors}, part.warnings, amount=f"{part.products:,} products"
    )


def plan(of: Estimate) -> PlanRow | None:
    resolved, limits, shape = of.work.resolved, of.work.limits, of.shape
    if shape.without_curvature:
        return None
    amount = of.bracket(READ if resolved.gap is None else BRACKET)
    if limits.whole_data and resolved.curvature_samples < shape.rows and shape.d <= HUGE_NETWORK:
        amount += of.products(whole_data_products(limits))
    if not shape.formed and shape.d <= HUGE_NETWORK:
        amount += of.products(limits.one_norm)
    return row("smoothness", amount, of.memory(VECTORS, FEWEST))


def _rotated_density(bench: Bench, part: Smoothness) -> tuple[float | None, str]:
    """R_L after a random rotation, or None and the reason."""
    if bench.resolved.rotate:
        return None, "everything here is measured after a random rotation"
    if not bench.curvature.forms_hessian:
        return None, f"above {DENSE_LIMIT:,} parameters `--rotate` measures it"
    if not part.sharpness:
        return None, "the Hessian is zero"
    return rotated_density(bench.curvature, stream(bench.resolved.seed, "rotation")), ""


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
    found |= {"mean": crossed.crossfit_mean, **fields(crossed, ("interval", "inflation", "products"))}
    return found
