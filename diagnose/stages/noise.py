"""The stage of gradient noise."""

from __future__ import annotations

import estimators
from diagnose.limits import EXTRA_PASSES
from diagnose.stages.bench import Bench, Update, stream
from reports.record.diagnosis import Diagnosis


def noise(bench: Bench, _: Diagnosis) -> Update:
    part = estimators.noise(
        bench.problem,
        rows=bench.opened.rows,
        extra_passes=EXTRA_PASSES,
        seed=stream(bench.resolved.seed, "noise"),
        progress=bench.progress,
    )
    return Update({"noise": part}, {"noise": part.vectors}, part.warnings, amount=f"{bench.problem.n:,} samples")
