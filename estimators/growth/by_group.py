"""L1 by group of points, and whether it moves with what the groups differ in. Pure arithmetic on measured points.

A true L1 is one of the loss: it moves with no step size and no batch size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from estimators.growth.envelope import RANGE
from estimators.growth.fits import FEWEST_RESAMPLED, Levels, fit_levels, intervals, summary
from estimators.numbers.resampling import members
from estimators.results import Finding

STAGE = "generalized_smoothness"
FEWEST = 6
SLOPES = {"isotropic_l1": "isotropic L₁", "l1_median": "median L₁"}


def by_group(clouds: Levels, groups: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """A fit to all points of each group: isotropic_l1 and l1_median, each with its interval.

    Beside them stand group, points, gradient_norms (smallest, largest) and gradient_range. Null with the reason where
    the group has fewer than 6 points or its gradient norms span less than a decade; intervals from 8 points on.
    """
    rows = []
    for label, index in members(groups).items():
        own = clouds.rows(index)
        pairs = fit_levels(own)
        reach = float(pairs.isotropic.ranges[0])
        lengths = own.isotropic.x[:, 0]
        norms = (float(lengths.min()), float(lengths.max()))
        row: dict[str, Any] = {"group": label, "points": len(index), "gradient_norms": norms, "gradient_range": reach}
        values = dict.fromkeys(f"{key}{end}" for key in SLOPES for end in ("", "_interval"))
        why: dict[str, str] = {}
        if len(index) < FEWEST:
            why = dict.fromkeys(values, f"{len(index)} points, a fit needs at least {FEWEST}")
        elif reach < RANGE:
            narrow = f"gradient norms span a factor of {reach:.3g}, a slope needs {RANGE:g}"
            why = dict.fromkeys(values, narrow)
        else:
            found = summary(pairs.coordinates, pairs.isotropic)
            row |= {key: getattr(found, key) for key in SLOPES}
            if len(index) >= FEWEST_RESAMPLED:
                around = intervals(own, [label] * len(index), found, seed)
                row |= {f"{key}_interval": getattr(around, key) for key in SLOPES}
            else:
                few = f"{len(index)} points, replicates of fewer than {FEWEST_RESAMPLED} say little"
                why = dict.fromkeys((f"{key}_interval" for key in SLOPES), few)
        row = {**row, **{key: row.get(key) for key in values}}
        if reach == float("inf"):
            row["gradient_range"] = None
            why["gradient_range"] = "the gradient vanishes at one of the points"
        rows.append({**row, "why": why} if why else row)
    return rows


def l1_moves(rows: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """A finding for each slope of which two groups have intervals that do not meet: the two that lie furthest apart.

    Only groups whose gradient norms share a decade are held against each other: the slope of a line above a curve
    depends on where the curve was seen.
    """
    findings = []
    for key, name in SLOPES.items():
        known = [row for row in rows if row[f"{key}_interval"] is not None]
        apart = [
            (low, high)
            for one, other in combinations(known, 2)
            if _shared(one["gradient_norms"], other["gradient_norms"]) >= RANGE
            for low, high in [sorted((one, other), key=lambda row: row[key])]
            if low[f"{key}_interval"][1] < high[f"{key}_interval"][0]
        ]
        if not apart:
            continue
        low, high = max(apart, key=lambda pair: pair[1][key] - pair[0][key])
        findings.append(
            Finding(
                code="l1-moves",
                severity="warning",
                stage=STAGE,
                found=f"{name} is {_told(low, key)} in group {low['group']} and {_told(high, key)} in {high['group']}",
                meaning="a true L₁ moves with no step size and no batch size: one pair for all points bounds them, "
                "but its slope is not a property of the loss alone",
                action="quote the slope with the points it was fitted to; take more points to see whether the "
                "difference stays",
            )
        )
    return tuple(findings)


def _shared(one: Sequence[float], other: Sequence[float]) -> float:
    """The factor that two ranges of gradient norms have in common; below 1 where they do not meet."""
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return high / low if low > 0 else float("inf")


def _told(row: Mapping[str, Any], key: str) -> str:
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3g} ({low:.3g} to {high:.3g})"
