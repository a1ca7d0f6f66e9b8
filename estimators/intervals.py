"""Intervals of Student's t for means of a few independent values. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from estimators.results import Interval

LEVEL = 0.95


def quantile(freedom: float, level: float = LEVEL) -> float:
    """Half the width of an interval in standard errors: the quantile of t at 0.5 + level/2."""
    return float(student.ppf(0.5 + level / 2, freedom))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two independent values or more: their standard deviation (divisor k - 1) over sqrt(k)."""
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1)) / math.sqrt(len(values))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """t interval of the mean of two independent values or more; one point where all are equal."""
    if min(values) == max(values):
        return values[0], values[0]
    mean, half = float(np.mean(values)), quantile(len(values) - 1, level) * standard_error(values)
    return mean - half, mean + half


def sum_interval(sets: Sequence[Sequence[float]], known: float = 0.0) -> tuple[float, Interval, float]:
    """``known`` and the sum of the means of sets of independent values, its 95% t interval, its standard error.

    Degrees of freedom: k - 1 for one set of k values; for several those of Welch (Biometrika 1947) and Satterthwaite.
    """
    mean, variance, weight = known, 0.0, 0.0
    for values in sets:
        own = standard_error(values) ** 2
        mean += sum(values) / len(values)
        variance += own
        weight += own * own / (len(values) - 1)
    freedom = variance * variance / weight if weight > 0 else 1.0
    error = math.sqrt(variance)
    half = quantile(freedom) * error
    return mean, (mean - half, mean + half), error
