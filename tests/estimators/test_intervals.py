"""Intervals of Student's t: coverage, and the forms that they take for one set and for none of spread."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from estimators.intervals import sum_interval
from tests.statistics import assert_calibrated


def test_sum_interval_is_calibrated() -> None:
    """Sets of unequal size and spread, one of them without any."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        sets = [list(generator.normal(3, 2, 8)), list(generator.normal(-1, 0.5, 20)), [1.0, 1.0, 1.0]]
        _, (low, high), _ = sum_interval(sets, known=4.0)
        hits += low <= 7 <= high
    assert_calibrated(hits, 2000, 0.95)


def test_one_set_has_the_interval_of_its_mean() -> None:
    values = list(np.random.default_rng(1).normal(3, 2, 7))
    mean, interval, error = sum_interval([values])
    assert error == pytest.approx(stats.sem(values))
    assert interval == pytest.approx(stats.t.interval(0.95, 6, loc=np.mean(values), scale=error))
    assert mean == pytest.approx(np.mean(values))


def test_equal_values_leave_a_point() -> None:
    assert sum_interval([[2.0, 2.0], [1.0, 1.0, 1.0]], known=0.5) == (3.5, (3.5, 3.5), 0.0)
