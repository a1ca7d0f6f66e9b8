"""95% intervals of Student's t for means of a few independent values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.stats import t as student

from estimators.results import Interval

LEVEL = 0.95


def quantile(freedom: float) -> float:
    """Half the width of an interval in standard errors: the quantile of t at 0.5 + LEVEL/2."""
    return float(student.ppf(0.5 + LEVEL / 2, freedom))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two independent values or more: their standard deviation (divisor k - 1) over sqrt(k)."""
    return float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(len(values))


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
