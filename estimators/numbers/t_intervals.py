"""Intervals for means of a few independent values: Student's t, and for traces by quadratic forms. Needs no torch.

Quantiles are scipy.special's: those of scipy.stats are the same functions behind a third of a second of imports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import gammaincinv, ndtri, stdtrit

from estimators.results import Interval

LEVEL = 0.95


def quantile(freedom: float, level: float = LEVEL) -> float:
    """Half the width of an interval in standard errors: the quantile of t at 0.5 + level/2."""
    return float(stdtrit(freedom, 0.5 + level / 2))


@cache
def form_quantile(count: int, level: float = LEVEL) -> float:
    """Half the width of an interval for tr M from ``count`` forms u'Mu with E[uu'] = I, in their standard errors.

    These are sqrt(2||M||_F^2 / count), with ||M||_F^2 from the mean of |Mu|^2.
    One eigenvalue that outweighs all others asks for the widest: with x = chi^2_count/count the mean of the forms is
    lambda x and that of |Mu|^2 lambda^2 x, and |x - 1| <= c sqrt(2x/count) fails where x is low and nowhere else. Here
    c makes this as rare as said; it falls to the normal quantile: 3.2 for 3 forms, 2.8 for 4, 2.0 from 16 on. The
    scatter of the forms themselves, with Student's t, would miss 11 to 25%: where all are low they lie close, too.
    """
    low = 2 * float(gammaincinv(count / 2, 1 - level)) / count
    return max((1 - low) * math.sqrt(count / (2 * low)), float(ndtri(0.5 + level / 2)))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two independent values or more: their standard deviation (divisor k - 1) over sqrt(k)."""
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1)) / math.sqrt(len(values))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """t interval of the mean of two independent values or more; one point where all are equal."""
    if min(values) == max(values):
        return values[0], values[0]
    mean, half = float(np.mean(values)), quantile(len(values) - 1, level) * standard_error(values)
    return mean - half, mean + half


@dataclass(frozen=True)
class Term:
    """An estimate with its standard error; its 95% interval reaches ``factor`` errors either way."""

    value: float
    error: float
    factor: float


def sum_interval(terms: Sequence[Term], known: float = 0.0) -> tuple[float, Interval, float]:
    """``known`` and the sum of independent terms, its 95% interval, its standard error.

    Half the width is the root of the sum of the terms' own squared ones (Howe, JASA 1974).
    """
    value = known + sum(term.value for term in terms)
    half = math.hypot(*(term.factor * term.error for term in terms))
    return value, (value - half, value + half), math.hypot(*(term.error for term in terms))


def student_term(values: Sequence[float]) -> Term:
    """The mean of two independent values or more, by their scatter."""
    return Term(float(np.mean(values)), standard_error(values), quantile(len(values) - 1))


def forms_term(values: Sequence[float], variance: float) -> Term:
    """The mean of quadratic forms, by the variance of one of them that their matrix has."""
    count = len(values)
    return Term(float(np.mean(values)), math.sqrt(variance / count), form_quantile(count))
