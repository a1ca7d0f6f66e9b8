"""Why theory and race may disagree here, from what was measured."""

from __future__ import annotations

import math

from diagnose.schema import Bounds
from diagnose.verdict.theory import Theory
from estimators.results import Noise, Smoothness
from reports.numbers import number, ratio

MOVED = 2.0
"""Curvature along the runs that grew or fell by this factor is not that of the start."""
HEAVY = 3.0
"""A median tail index below this goes with variances that a few samples hold."""


def likely_reasons(theory: Theory, noise: Noise, smoothness: Smoothness, ratios: Bounds) -> list[str]:
    """What the bounds leave out that was seen here, the most telling first; empty where nothing was."""
    found = []
    if theory.box != theory.path and "unknown" not in (theory.box, theory.path) and ratios.d_inf and ratios.d_2:
        apart = ratio(ratios.d_2 / ratios.d_inf)
        found.append(f"the side hangs on the reading of the distances (on the runs D₂ is {apart} D∞)")
    if (factor := curvature_moved(smoothness)) is not None:
        found.append(
            f"curvature changed by a factor of {number(factor, 2)} along the runs, and the bounds take the start's"
        )
    if "heavy" in noise.why.get("l1", "") or (noise.tail_index or {}).get("median", math.inf) < HEAVY:
        found.append("the noise is heavy-tailed, and the bounds assume a variance that describes it")
    rotated = smoothness.density_rotated
    if rotated is not None and smoothness.density is not None and smoothness.density >= rotated:
        found.append("curvature is no better aligned with the coordinates than after a random rotation")
    return found


def curvature_moved(smoothness: Smoothness) -> float | None:
    """Largest over smallest max|eig H| at the points along the runs; None below MOVED or with one point."""
    known = [float(point["sharpness"]) for point in smoothness.points or () if point.get("sharpness")]
    if len(known) < 2 or max(known) < MOVED * min(known):
        return None
    return max(known) / min(known)
