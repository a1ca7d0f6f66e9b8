"""What a part of the result holds of another stage's measurement, put there by the functions of this file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from estimators.results import Smoothness
from reports.record.diagnosis import Diagnosis

Part = TypeVar("Part", bound=Any)
NOT_REACHED = "the run has not reached this stage"
BRACKET = ("l1_lower", "l1_upper", "density", "density_interval", "gap_wanted", "ended_by")
"""What a row of ``smoothness.points`` says of its bracket; that of the start is narrowed where later points need it."""


def completed(part: Part, values: Mapping[str, Any], why: Mapping[str, str] | None = None) -> Part:
    """The part with these values too; each reason stands as long as its value is null."""
    filled: Part = replace(part, **values)
    reasons = {**part.why, **(why or {})}
    return replace(filled, why={key: text for key, text in reasons.items() if getattr(filled, key) is None})


def derived(known: Diagnosis) -> Diagnosis:
    """The diagnosis with what follows from other parts: ``task.seeds`` from the race's last look, and where no Hessian
    was formed ``smoothness.diagonal_sum`` from the Hessian diagonal."""
    looks, task, part = known.training.looks, known.task, known.smoothness
    why = {key: text for key, text in task.why.items() if key != "seeds"}
    if not looks:
        why["seeds"] = "nothing was trained" if "training" in known.stages else NOT_REACHED
    known = replace(known, task=replace(task, seeds=looks[-1]["orders"] if looks else None, why=why))
    if part.points is None or part.sharpness_wanted == 0:  # left out, or that of a formed Hessian
        return known
    diagonal = known.hessian_diagonal
    why = {key: text for key, text in part.why.items() if key != "diagonal_sum"}
    if diagonal.abs_sum is None:
        why["diagonal_sum"] = diagonal.why.get("abs_sum", "")
    return replace(known, smoothness=replace(part, diagonal_sum=diagonal.abs_sum, why=why))


def along(part: Smoothness, rows: Sequence[Mapping[str, Any]], start: Mapping[str, Any] | None = None) -> Smoothness:
    """The smoothness with rows of points along the runs in place of those that it has, behind that of the start.

    Args:
        part: smoothness, its ``points`` beginning with the start.
        rows: of later points.
        start: a narrower bracket at the start; that of the part where there is none.
    """
    if part.points is None:
        return part
    held = start or {key: getattr(part, key) for key in BRACKET}
    first = {**part.points[0], **{key: held[key] for key in BRACKET}}
    return replace(part, points=[first, *rows])
