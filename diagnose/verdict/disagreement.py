"""Why theory and race may disagree: what was measured that the bounds leave out and that works in that direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diagnose.verdict.changes import change, times
from diagnose.verdict.theory import Side
from estimators.results import Interval, Noise, Smoothness
from reports.words.numbers import number

MOVED = 2.0
"""Curvature along the runs that grew or fell by this factor is not that of the start."""
HEAVY = 3.0
"""A median tail index below this goes with variances that a few samples hold."""


def likely_reasons(raced: Side, noise: Noise, smoothness: Smoothness) -> list[str]:
    """What was seen here that would move the race away from what the theory says to its own side; empty where nothing
    was.

    AdaGrad does better than its bound where curvature grows or comes into line with the coordinates along the runs, and
    where single samples throw SGD; worse where curvature falls or leaves the coordinates.

    Args:
        raced: the side of the race: adagrad, sgd or neither (no difference).
        noise: as measured.
        smoothness: with the points along the runs.
    """
    better = raced == "adagrad"
    reasons = [_moved(smoothness.points or (), better), _turned(smoothness.points or (), better)]
    if better and _heavy(noise):
        reasons.append("the noise is heavy-tailed: single samples throw SGD further than a variance tells")
    return [reason for reason in reasons if reason]


def _heavy(noise: Noise) -> bool:
    index = (noise.tail_index or {}).get("median")
    return "heavy" in noise.why.get("l1", "") or (index is not None and index < HEAVY)


def _moved(points: Sequence[Mapping[str, Any]], grew: bool) -> str:
    factor = _furthest(points, "sharpness", grew)
    if factor[0] < MOVED:
        return ""
    way = "grew up to" if grew else "fell by up to"
    return f"curvature {way} {number(factor[0], 2)} times along the runs, and the bounds take the start's"


def _turned(points: Sequence[Mapping[str, Any]], aligned: bool) -> str:
    factor = _furthest(points, "density", not aligned)
    if factor[0] < MOVED:
        return ""
    way = "better" if aligned else "worse"
    return f"along the runs curvature is {way} aligned with the coordinates than at the start (R_L {times(factor)})"


def _furthest(points: Sequence[Mapping[str, Any]], key: str, up: bool) -> Interval:
    """How many times the value grew (or fell) for certain from the first point to the furthest later one, and how many
    times that may be; 1 where unknown."""
    start, *later = points or [{}]
    factors = [change(start, point, key) if up else change(point, start, key) for point in later]
    return max((factor for factor in factors if factor is not None), default=(1.0, 1.0))
