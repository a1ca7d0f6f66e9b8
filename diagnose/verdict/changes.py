"""By which factor curvature differs between points whose values are known to lie between two ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from estimators.results import Interval
from reports.words.numbers import number

Point = Mapping[str, Any]


def ends(point: Point, key: str) -> Interval | None:
    """The interval of a point's density (R_L), l1 (Lambda) or sharpness (lambda); None where it is not known, or 0.

    A value without an interval stands for itself.
    """
    if key == "l1":
        low, high = point.get("l1_lower"), point.get("l1_upper")
    else:
        low, high = point.get(f"{key}_interval") or (point.get(key), point.get(key))
    if high is None or not high:
        return None
    return float(high if low is None else low), float(high)


def change(first: Point, second: Point, key: str) -> Interval | None:
    """The factor from the first point's value to the second's, at least and at most."""
    before, after = ends(first, key), ends(second, key)
    if before is None or after is None or not before[0]:
        return None
    return after[0] / before[1], after[1] / before[0]


def range_of(points: Sequence[Point], key: str) -> tuple[Interval, int] | None:
    """Largest over smallest value, at least and at most, and how many points have one; None below two."""
    values = [pair for pair in (ends(point, key) for point in points) if pair is not None and pair[0]]
    if len(values) < 2:
        return None
    low, high = zip(*values, strict=True)
    return (max(max(low) / min(high), 1.0), max(high) / min(low)), len(values)


def times(factor: Interval, digits: int = 2) -> str:
    """A factor in words: "1.5×", or "1.4× to 1.7×" where it is not known that closely."""
    low, high = (number(end, digits) for end in factor)
    return f"{low}×" if low == high else f"{low}× to {high}×"
