"""The stage of gradient noise."""

from __future__ import annotations

import estimators
from diagnose.limits import EXTRA_PASSES
from diagnose.stages.bench import Bench, Update, stream
from diagnose.stages.estimate import Amount, Estimate, PlanRow, row
from estimators.gradient_noise.draw import FEW_GROUPS, KEPT, MOST
from reports.record.diagnosis import Diagnosis

VECTORS = 14
"""Vectors in float64 that moments take beside those of groups."""


def noise(bench: Bench, _: Diagnosis) -> Update:
    part = estimators.noise(
        bench.problem,
        rows=bench.opened.rows,
        extra_passes=EXTRA_PASSES,
        seed=stream(bench.resolved.seed, "noise"),
        progress=bench.progress,
    )
    return Update({"noise": part}, {"noise": part.vectors}, part.warnings, amount=f"{bench.problem.n:,} samples")


def plan(of: Estimate) -> PlanRow:
    resolved, shape = of.work.resolved, of.shape
    extra = EXTRA_PASSES if shape.d * resolved.samples > KEPT else 0.0
    groups = 0 if resolved.samples == shape.rows else 2 * FEW_GROUPS * min(shape.d, MOST)
    seconds = (of.pace.noise + extra * of.pace.gradient) * (resolved.samples / shape.samples)
    return row("noise", Amount(1 + extra, seconds), of.limited(8 * (VECTORS * shape.d + groups)))
