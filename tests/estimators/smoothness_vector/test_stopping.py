"""Brackets that end as soon as they are told from given values: what ends them, and that the reading is true."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from estimators import InputError, Problem, smoothness
from estimators.results import Interval
from estimators.smoothness_vector.stopping import Goal, Threshold, at, marks
from tests import oracles
from tests.markers import marked, seeds
from tests.problems import quadratic, symmetric

D = 60
EXACT: Interval = (10.0, 10.0)
"""d lambda where it is known without error."""


@cache
def matrix(name: str) -> Tensor:
    """Rows over no, one or two decades, and one that the diagonal rules: R_L of 0.6, 0.2, 0.1 and 0.2."""
    decades = {"even": 0.0, "graded": 1.0, "steep": 2.0, "diagonal": 1.0}[name]
    generator = torch.Generator().manual_seed(len(name))
    rows = 10 ** (-decades * torch.rand(D, 1, generator=generator, dtype=torch.float64))
    if name == "diagonal":
        return torch.diag(rows[:, 0]) + 1e-3 * rows * symmetric(D, 5) * rows.T
    return rows * symmetric(D, 5 + len(name)) * rows.T


@cache
def density(name: str) -> float:
    """R_L by a semidefinite solver and all eigenvalues."""
    h = matrix(name)
    return oracles.smallest_diagonal(h.numpy()) / (D * float(torch.linalg.eigvalsh(h).abs().max()))


def ends(values: tuple[Threshold, ...], whole: Interval = EXACT, gap: float = 0.05) -> Goal:
    return Goal(gap, marks(values, whole))


def test_without_thresholds_the_gap_is_the_goal() -> None:
    goal = ends(())
    assert goal.highest(2.0) == pytest.approx(2.1)
    assert goal.slack(2.0) == pytest.approx(0.05)
    assert not goal.cleared(2.0, 2.01)


def test_any_upper_end_below_the_next_threshold_will_do() -> None:
    goal = ends(at(0.1, 0.55))
    assert goal.highest(2.0) == pytest.approx(5.5)
    assert goal.cleared(2.0, 5.49)
    assert not goal.cleared(2.0, 5.5)
    assert goal.highest(0.5) == pytest.approx(1.0)
    assert not goal.cleared(0.5, 2.0)
    assert goal.highest(5.6) == math.inf
    assert goal.slack(5.6) == 1.0
    # Close to a threshold the gap ends it, whichever side the truth is on.
    assert goal.highest(5.4) == pytest.approx(5.4 * 1.05)


def test_what_lambda_leaves_open_counts() -> None:
    goal = ends(at(0.5), (9.0, 11.0))
    assert goal.cleared(1.0, 4.4)
    assert not goal.cleared(1.0, 4.6)
    assert not goal.cleared(5.4, 9.0)
    assert goal.cleared(5.6, 9.0)


def test_a_bracket_within_an_interval_is_not_narrowed_for_it() -> None:
    goal = ends((Threshold(0.3, 0.4),))
    assert goal.cleared(3.1, 3.9)
    assert goal.cleared(2.0, 2.9)
    assert goal.cleared(4.1, 9.0)
    assert not goal.cleared(2.9, 3.5)
    assert not goal.cleared(3.5, 4.1)


def test_a_threshold_of_lambda_itself_knows_no_sharpness() -> None:
    goal = Goal(0.05, marks((Threshold(3.0, 3.0, "l1"),), (9.0, 11.0), scale=2.0))
    assert goal.cleared(1.0, 1.49)
    assert not goal.cleared(1.0, 1.51)
    assert goal.cleared(1.51, 2.5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (-1.0, 1.0), (0.4, 0.3), (0.1, math.inf), (math.nan, 1.0)])
def test_a_threshold_is_an_interval_above_0(low: float, high: float) -> None:
    with pytest.raises(InputError, match="told from"):
        smoothness(Problem(*quadratic(matrix("even"))), thresholds=(Threshold(low, high),))


@pytest.mark.parametrize("factor", marked("sweep", [0.3, 0.7, 0.95, 0.99, 1.01, 1.05, 1.3, 3.0], [0.99, 1.3]))
@pytest.mark.parametrize("name", marked("sweep", ["even", "graded", "steep", "diagonal"], ["even", "steep"]))
@pytest.mark.parametrize("repeats", seeds(3))
def test_a_bracket_that_ended_early_reads_as_the_true_value(name: str, factor: float, repeats: range) -> None:
    cut, truth = factor * density(name), density(name)
    problem = Problem(*quadratic(matrix(name)), forms_hessian=False)
    for seed in repeats:
        found = smoothness(problem, thresholds=at(cut, 4 * truth), seed=seed)
        assert found.density_interval is not None
        assert found.density is not None
        low, high = found.density_interval
        assert low <= truth * (1 + 1e-6)
        assert truth * (1 - 1e-6) <= high
        assert found.l1_lower is not None
        assert found.l1_upper is not None
        if found.ended_by == "thresholds":
            assert found.l1_upper > 1.05 * found.l1_lower
            assert not low <= cut <= high
            assert (found.density < cut) == (truth < cut)
        else:
            assert found.ended_by == "gap"
            assert found.l1_upper <= 1.05 * found.l1_lower * (1 + 1e-9)
        assert (found.gap_wanted, found.sharpness_wanted) == (0.05, 0.005)
        assert found.warnings == ()


def test_far_from_the_thresholds_it_costs_less() -> None:
    rows = torch.logspace(-1, 0, 400, dtype=torch.float64)[:, None]
    problem = Problem(*quadratic(rows * symmetric(400, 9) * rows.T), forms_hessian=False)
    narrow = smoothness(problem)
    assert narrow.density is not None
    wide = smoothness(problem, thresholds=at(narrow.density / 3, 3 * narrow.density))
    assert (narrow.ended_by, wide.ended_by) == ("gap", "thresholds")
    assert narrow.products is not None
    assert wide.products is not None
    assert wide.products < 0.75 * narrow.products


def test_what_is_not_told_when_the_products_run_out_is_said() -> None:
    problem = Problem(*quadratic(matrix("even")), forms_hessian=False)
    found = smoothness(problem, thresholds=at(density("even")), gap=1e-5, max_products=60)
    (warning,) = found.warnings
    assert (found.ended_by, warning.code) == ("products", "bracket-wide")
    assert "R_L between" in warning.meaning


def test_a_formed_hessian_is_bracketed_to_its_gap() -> None:
    found = smoothness(Problem(*quadratic(matrix("even"))), thresholds=at(0.001))
    assert (found.ended_by, found.gap_wanted, found.sharpness_wanted) == ("gap", 0.01, 0.0)
