"""The stage of the Hessian diagonal."""

from __future__ import annotations

from dataclasses import replace

import estimators
from diagnose.stages.bench import Bench, Update, stream, tensors
from diagnose.stages.estimate import NOTHING, Estimate, PlanRow, row
from estimators.diagonal.estimate import by_layers
from estimators.results import HessianDiagonal
from estimators.task.memory_limit import FEWEST, WIDE
from reports.record.diagnosis import Diagnosis, absent


def hessian_diagonal(bench: Bench, known: Diagnosis) -> Update:
    if (reason := bench.without_curvature("hessian_diagonal")) is not None:
        bench.kept.clear()
        return Update({"hessian_diagonal": absent(HessianDiagonal, reason)})
    # Absent where a number of it was not finite: then nothing cuts the bounds of the diagonal.
    vector = known.vectors.get("smoothness")
    bound = None if vector is None else replace(known.smoothness, vectors=tensors(vector, bench.problem))
    runs = bench.lanczos_run()
    part = estimators.hessian_diagonal(
        bench.curvature,
        probes=bench.resolved.probes,
        smoothness=bound,
        krylov=None if runs is None else runs.whole,
        shrink=True,
        seed=stream(bench.resolved.seed, "diagonal"),
        progress=bench.progress,
    )
    bench.kept.clear()
    kinds = {
        "hessian_diagonal": part.vectors,
        "hessian_diagonal_lower": part.lower,
        "hessian_diagonal_upper": part.upper,
    }
    return Update(
        {"hessian_diagonal": part}, kinds, part.warnings, amount=f"{part.probes} products" if part.probes else "exact"
    )


def plan(of: Estimate) -> PlanRow | None:
    probes, shape, amount = of.work.resolved.probes, of.shape, NOTHING
    if shape.without_curvature:
        return None
    if not shape.formed:
        amount = of.passes(shape.layered) if by_layers(shape.layered, probes) else of.products(probes)
    return row("hessian_diagonal", amount, of.memory(WIDE, FEWEST))
