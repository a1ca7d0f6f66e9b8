"""What the stages of a run will take: the plans that they state, one after another."""

from __future__ import annotations

from collections.abc import Sequence

from diagnose.limits import Work
from diagnose.stages.estimate import Estimate, Pace, PlanRow, Shape
from diagnose.stages.order import PLANS


def planned(work: Work, shape: Shape, pace: Pace) -> list[PlanRow]:
    """A row for each stage but those that are left out.

    Passes of the bracket and the race are those of a typical run: the bracket stops when its reading is certain, or its
    gap reached, a grid may grow, and with ``--seeds auto`` the race ends at the first look that decides it.
    """
    skipped = {*work.limits.left_out, *(part.replace("-", "_") for part in work.resolved.skip)}
    if "training" in skipped:
        skipped.add("generalized_smoothness")
    estimate = Estimate(work, shape, pace)
    rows = [plan(estimate) for stage, plan in PLANS.items() if stage not in skipped]
    return [row for row in rows if row is not None]


def seconds_of(rows: Sequence[PlanRow]) -> float:
    """Of all stages, the race ending at its first look."""
    return sum(row.seconds for row in rows)
