"""Where the reading of a bracket changes: the values that it has to be told from before it may end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnose.settings import Resolved
from diagnose.verdict.assumptions import MOVES
from diagnose.verdict.changes import change
from diagnose.verdict.disagreement import MOVED
from estimators.results import Smoothness
from estimators.smoothness_vector.stopping import Threshold, at
from reports.record.diagnosis import SMOOTHNESS_SIDES


def at_start(resolved: Resolved) -> tuple[Threshold, ...]:
    """The sides of R_L; none where a gap was asked for, which means it."""
    return at(*SMOOTHNESS_SIDES) if resolved.gap is None else ()


def at_later_point(resolved: Resolved, start: Smoothness) -> tuple[Threshold, ...]:
    """R_L of the start and the factors of it, and of its Lambda, that the verdict has words for."""
    if resolved.gap is not None or start.density_interval is None or start.l1_lower is None or start.l1_upper is None:
        return ()
    low, high = start.density_interval
    turned = [Threshold(factor * low, factor * high) for factor in (1.0, MOVED, 1 / MOVED)]
    moved = [Threshold(factor * start.l1_lower, factor * start.l1_upper, "l1") for factor in (MOVES, 1 / MOVES)]
    return (*turned, *moved) if low > 0 and start.l1_lower > 0 else ()


def unclear(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the start (the first row) is known too loosely to say by what factor a later point differs from it."""
    start, *later = rows
    for key, factor in (("density", MOVED), ("l1", MOVES)):
        for row in later:
            between = change(start, row, key)
            if between is not None and any(between[0] < limit <= between[1] for limit in (factor, 1 / factor)):
                return True
    return False
