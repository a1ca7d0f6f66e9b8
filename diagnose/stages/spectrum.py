"""The stage of the spectrum: its ends, the density of eigenvalues, curvature along the updates, kinks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import estimators
from diagnose.limits import DENSITY_STARTS, DENSITY_STEPS
from diagnose.stages.across import completed
from diagnose.stages.bench import HUGE_NETWORK, Bench, Update, stream, tensors
from diagnose.stages.estimate import LAMBDA, NOTHING, Estimate, PlanRow, row
from diagnose.stages.rows import fields
from estimators.curvature.kinks import STEPS as KINK_STEPS
from estimators.curvature.lanczos import MAX_STEPS, Ritz, extremes
from estimators.results import Progress, Spectrum
from estimators.task.memory_limit import STEP
from estimators.task.problem import Problem
from reports.record.diagnosis import Diagnosis, absent

THINNED = 2
"""Every second point of the density's grid is stored: 1.9 on each width of the kernel."""
ENDS = 10
"""Further products until both ends of the spectrum are known."""


def spectrum(bench: Bench, known: Diagnosis) -> Update:
    if (reason := bench.without_curvature("spectrum")) is not None:
        return Update({"spectrum": absent(Spectrum, reason)})
    seed = stream(bench.resolved.seed, "spectrum")
    runs = bench.lanczos_run()
    if runs is None and not bench.curvature.forms_hessian:
        runs = extremes(bench.curvature, seed=seed, progress=bench.progress, late=bench.late)
    run = None if runs is None else runs.whole
    part = estimators.spectrum(bench.curvature, run=run, seed=seed, progress=bench.progress)
    amount = "dense" if part.confidence == 1 else f"{part.steps} Lanczos steps"
    found, why, findings = dict[str, Any](), dict[str, str](), list(part.warnings)
    if bench.late is not None and run is not None and run.steps < MAX_STEPS:
        longer = "use a larger `--budget`: this one left no time for more steps"
        findings = [replace(finding, action=longer) for finding in findings]
    starts = bench.limits.density_starts
    if bench.curvature.d <= HUGE_NETWORK and starts:
        seed = stream(bench.resolved.seed, "density")
        found["eigenvalue_density"] = eigenvalue_density(
            bench.curvature, run, starts=starts, seed=seed, progress=bench.progress
        )
    elif not starts:
        why["eigenvalue_density"] = bench.cut
    else:
        costly = f"not measured above {HUGE_NETWORK:,} parameters: `estimators.eigenvalue_density` does it"
        why["eigenvalue_density"] = costly
    if not bench.limits.directions:
        why["directional"] = bench.cut
    elif known.vectors.get("noise"):
        sigma = tensors(known.vectors["noise"], bench.curvature)
        rules = estimators.update_sharpness(bench.curvature, sigma, batch_size=bench.resolved.batch_size).directions
        found["directional"] = {rule: fields(along, ("sharpness", "decrease")) for rule, along in rules.items()}
    else:
        why["directional"] = "the noise is not known, and AdaGrad's update follows it"
    if bench.opened.family == "linear":
        why["kinks"] = "linear models with a smooth loss have none"
    elif not bench.limits.directions:
        why["kinks"] = bench.cut
    else:
        kinks = estimators.finite_step_curvature(bench.curvature, directions=1, seed=seed, progress=bench.progress)
        found["kinks"] = [fields(step, ("direction", "h", "curvature", "finite")) for step in kinks.rows]
        findings += kinks.warnings
    return Update({"spectrum": completed(part, found, why)}, findings=findings, amount=amount)


def plan(of: Estimate) -> PlanRow | None:
    limits, shape, amount = of.work.limits, of.shape, NOTHING
    if shape.without_curvature:
        return None
    if not shape.formed:
        amount += of.products(ENDS if shape.shared else LAMBDA + ENDS)
        if shape.d <= HUGE_NETWORK and limits.density_starts:
            amount += of.products((limits.density_starts - 1) * DENSITY_STEPS)
    if limits.directions:
        amount += of.passes(1) if shape.formed else of.products(3) + of.passes(1)
        amount += NOTHING if shape.linear else of.products(2) + of.passes(4 * len(KINK_STEPS))
    return row("spectrum", amount, of.memory(MAX_STEPS + STEP, STEP))


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
    sums = fields(found, keys)
    if found.exact:
        sums["why"] = {**sums["why"], "starts": found.why["probes"]}
    return {**curves, **made, **sums}
