"""How many samples a tail index rests on, and how far off it is for that. Needs no torch."""

from __future__ import annotations

import math

TOP = 8
"""The Hill estimator looks at the largest 1 in 8 of a coordinate's samples, and at no fewer than LEAST."""
LEAST = 5


def tops(samples: int) -> int:
    """How many of the samples are looked at."""
    return max(LEAST, samples // TOP)


def relative_error(samples: int) -> float:
    """Standard error of the index over the index: one over the root of the samples looked at (Hill 1975)."""
    return 1 / math.sqrt(tops(samples))
