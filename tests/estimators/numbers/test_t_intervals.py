"""Intervals of means: coverage, and the forms that they take for one set and for none of spread."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from estimators.numbers.t_intervals import form_quantile, forms_term, student_term, sum_interval
from tests.statistics import assert_calibrated, assert_covers


def test_the_interval_of_a_sum_covers() -> None:
    """Sets of unequal size and spread, one of them without any."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        sets = [list(generator.normal(3, 2, 8)), list(generator.normal(-1, 0.5, 20)), [1.0, 1.0, 1.0]]
        _, (low, high), _ = sum_interval([student_term(values) for values in sets], known=4.0)
        hits += low <= 7 <= high
    assert_calibrated(hits, 2000, 0.95)


def test_one_set_has_the_interval_of_its_mean() -> None:
    values = list(np.random.default_rng(1).normal(3, 2, 7))
    mean, interval, error = sum_interval([student_term(values)])
    assert error == pytest.approx(stats.sem(values))
    assert interval == pytest.approx(stats.t.interval(0.95, 6, loc=np.mean(values), scale=error))
    assert mean == pytest.approx(np.mean(values))


def test_equal_values_leave_a_point() -> None:
    sets = [[2.0, 2.0], [1.0, 1.0, 1.0]]
    assert sum_interval([student_term(values) for values in sets], known=0.5) == (3.5, (3.5, 3.5), 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 16, 64])
def test_forms_of_one_eigenvalue_are_covered_as_often_as_said(count: int) -> None:
    """By the scatter that the matrix has, from the same forms: lambda z^2, and (lambda z)^2 for its square."""
    generator = np.random.default_rng(count)
    hits = several = 0
    for _ in range(4000):
        z = generator.normal(size=count) ** 2
        term = forms_term(list(3 * z), 2 * float(np.mean(9 * z)))
        hits += abs(term.value - 3) <= term.factor * term.error
        # Of both signs, and one of them larger.
        values = np.array([3.0, -2.0, 1.0])
        squares = generator.normal(size=(count, 3)) ** 2
        term = forms_term(list(squares @ values), 2 * float(np.mean(squares @ values**2)))
        several += abs(term.value - 2) <= term.factor * term.error
    assert_covers(hits, 4000, 0.95)
    assert_covers(several, 4000, 0.95)
    if count <= 16:
        assert_calibrated(hits, 4000, 0.95)


def test_the_quantile_of_forms_falls_to_the_normal_one() -> None:
    found = [form_quantile(count) for count in (1, 2, 3, 4, 16, 64, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[2:5] == pytest.approx([3.16, 2.76, 2.01], abs=0.01)
    assert found[-1] == pytest.approx(1.96, abs=1e-3)
