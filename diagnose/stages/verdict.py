"""The stage of the verdict."""

from __future__ import annotations

from diagnose.stages.bench import Bench, Update
from diagnose.stages.estimate import Amount, Estimate, PlanRow, row
from diagnose.verdict.advice import Raced
from diagnose.verdict.rule import decide
from reports.record.diagnosis import NOT_YET, Diagnosis, Prediction, absent

REPORT = 2.0
"""Seconds for the verdict, the files and the page."""


def verdict(bench: Bench, known: Diagnosis) -> Update:
    """Prediction and verdict: pure functions of what was measured."""
    prediction = absent(Prediction, NOT_YET)
    r, rows = bench.resolved, known.task.training_rows or bench.problem.n
    raced = Raced(
        batch_size=r.batch_size,
        schedule=r.schedule,
        box=r.box,
        rotated=r.rotate,
        rows=rows,
        deterministic=r.batch_size >= rows,
    )
    part, findings = decide(
        known.noise,
        known.smoothness,
        known.spectrum,
        known.generalized_smoothness,
        known.bounds,
        known.training,
        prediction,
        raced,
    )
    return Update({"prediction": prediction, "verdict": part}, findings=findings)


def plan(_: Estimate) -> PlanRow:
    return row("verdict", Amount(seconds=REPORT), 0)
