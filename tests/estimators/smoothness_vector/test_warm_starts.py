"""Brackets that start from the rows of a point nearby: as valid as others, with fewer products, never trapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import estimators.growth.generalized
import estimators.growth.left_out
import estimators.growth.points
import estimators.smoothness_vector.at_a_point
from estimators import InputError, Problem, generalized_smoothness, smoothness
from estimators.results import Smoothness, stored
from estimators.smoothness_vector.at_a_point import _apart, _rows
from estimators.smoothness_vector.bracket import Bracket, bracket
from estimators.smoothness_vector.formed import dense_bracket
from estimators.smoothness_vector.sweeps import FRESH, Sweeps, within
from estimators.task.products import Curvature
from tests import oracles
from tests.problems import quadratic, symmetric
from tests.statistics import fewest

D = 120


def measured(matrix: Tensor, seed: int, start: Tensor | None = None, gap: float = 0.02) -> Bracket:
    counted = Curvature(lambda block: matrix @ block, len(matrix))
    return bracket(counted, torch.Generator().manual_seed(seed), matrix, gap, 600, 1e-3, start=start)


def columns(kind: str) -> Tensor:
    """Rows that are no good, (D, q)."""
    one = torch.zeros(D, 12).double()
    if kind == "rank one":
        one[:, 0] = 1
    elif kind == "another matrix":
        rows = measured(symmetric(D, 90), 7).rows
        assert rows is not None
        return rows
    elif kind == "float32":
        one = one.float()
        one[:, 0] = 1
    elif kind == "one column":
        return torch.ones(D, 1).double()
    elif kind == "more columns":
        return torch.randn(D, 30, generator=torch.Generator().manual_seed(3)).double()
    elif kind == "half zero":
        one[: D // 2, 1] = 1
    return one


KINDS = ("rank one", "zero", "half zero", "another matrix", "float32", "one column", "more columns")


@pytest.mark.parametrize("kind", KINDS)
def test_no_start_traps_the_sweeps_or_breaks_the_bracket(kind: str) -> None:
    """Nor does it cost much more than none, on the mean of six seeds: rows of an unrelated matrix a quarter."""
    matrix = symmetric(D, 4)
    exact = dense_bracket(matrix, torch.Generator().manual_seed(0), 1e-3)
    cold = warm = 0
    for seed in range(6):
        cold += measured(matrix, seed).products
        found = measured(matrix, seed, columns(kind))
        warm += found.products
        assert found.upper <= 1.02 * found.lower * (1 + 1e-9)
        assert found.lower <= exact.upper
        assert found.upper >= exact.lower
        bound = found.vector
        assert float(torch.linalg.eigvalsh(matrix / torch.outer(bound, bound).sqrt()).abs().max()) <= 1 + 1e-12
    assert warm <= (1.4 if kind == "another matrix" else 1.25) * cold


def test_without_fresh_rows_a_start_of_rank_one_stays_there() -> None:
    """What the random vectors are for: the rows of H Z lie in the span of those of Z."""
    matrix = symmetric(D, 4)
    ends = []
    for fresh in (0.0, FRESH):
        generator, start = torch.Generator().manual_seed(0), columns("rank one")
        sweeps = Sweeps(lambda block: matrix @ block, D, 12, generator, matrix, start=start, fresh=fresh)
        for _ in range(40):
            sweeps.sweep()
        ends.append(sweeps.lower)
    assert ends[0] < 0.95 * ends[1]


def test_rows_that_were_inactive_before_become_active() -> None:
    matrix = symmetric(D, 5)
    part = matrix.clone()
    part[:30] = part[:, :30] = 0
    rows = measured(part, 0).rows
    assert rows is not None
    rows[:30] = 0
    found = measured(matrix, 1, rows)
    exact = dense_bracket(matrix, torch.Generator().manual_seed(0), 1e-3)
    assert bool((found.vector > 0).all())
    assert exact.lower <= found.upper <= 1.02 * found.lower <= 1.02 * exact.upper


def test_a_point_nearby_takes_fewer_products() -> None:
    """H moves by a tenth."""
    saved = []
    for seed in range(4):
        matrix = symmetric(D, 6)
        moved = matrix + 0.1 * symmetric(D, 60 + seed)
        rows = measured(matrix, seed).rows
        cold, warm = measured(moved, seed + 100), measured(moved, seed + 100, rows)
        assert warm.upper <= 1.02 * warm.lower * (1 + 1e-9)
        saved.append(1 - warm.products / cold.products)
    assert np.mean(saved) > 0.1


@pytest.mark.coverage
def test_upper_bounds_fail_as_rarely_as_without_a_start() -> None:
    """With delta = 0.4 for all certificates together, on a matrix that the start has fitted already."""
    matrix = symmetric(40, 8)
    exact = oracles.smallest_diagonal(matrix.numpy())
    held, trials = 0, 200
    for seed in range(trials):
        counted = Curvature(lambda block: matrix @ block, 40)
        rows = bracket(counted, torch.Generator().manual_seed(seed), matrix, 0.1, 200, 0.4).rows
        found = bracket(counted, torch.Generator().manual_seed(10_000 + seed), matrix, 0.1, 200, 0.4, start=rows)
        bound = found.vector
        norm = float(torch.linalg.eigvalsh(matrix / torch.outer(bound, bound).sqrt()).abs().max())
        held += norm <= 1 + 1e-12
        assert found.lower <= exact * (1 + 1e-6)
    assert held >= fewest(trials, 0.6)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_other_numbers_of_columns_keep_what_they_can(count: int) -> None:
    rows = torch.randn(D, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = within(rows, count)
    assert found.shape == (D, count)
    values = torch.linalg.svdvals(rows)[:count]
    torch.testing.assert_close(torch.linalg.svdvals(found)[: len(values)], values)


# -- smoothness ------------------------------------------------------------------------------------


def test_a_result_starts_the_next_one() -> None:
    matrix = symmetric(D, 9)
    problem = Problem(*quadratic(matrix), forms_hessian=False)
    plain, first = smoothness(problem), smoothness(problem, keep=True)
    assert dict(plain.rows) == {}
    assert stored(plain) == stored(first)
    assert "rows" not in stored(first)
    assert {name: part.shape[0] for name, part in first.rows.items()} == {"left": 4, "right": D - 4}
    second = smoothness(problem, start=first, keep=True)
    assert second.products is not None
    assert plain.products is not None
    assert second.products < plain.products
    assert second.row_norm_sum is None
    assert "random products" in second.why["row_norm_sum"]
    exact = dense_bracket(matrix, torch.Generator().manual_seed(0), 1e-3)
    assert second.l1_lower is not None
    assert second.l1_upper is not None
    assert second.l1_lower <= exact.upper
    assert second.l1_upper >= exact.lower


def test_the_random_numbers_after_a_start_are_others() -> None:
    """Else Lanczos would start from vectors that the rows were made with, where both have one seed."""
    problem = Problem(*quadratic(symmetric(D, 9)), forms_hessian=False)
    one, other = (smoothness(problem, seed=seed, keep=True) for seed in (0, 1))
    seeds = {0, 1, *(_apart(0, _rows(problem, each)) for each in (one, other))}
    assert len(seeds) == 4
    assert smoothness(problem, start=one).l1_upper == smoothness(problem, start=one).l1_upper


def test_a_start_that_does_not_fit_is_refused() -> None:
    problem, smaller = (
        Problem(*quadratic(symmetric(D, 9)), forms_hessian=False),
        Problem(*quadratic(symmetric(30, 9)), forms_hessian=False),
    )
    with pytest.raises(InputError, match="holds no rows"):
        smoothness(problem, start=smoothness(problem))
    with pytest.raises(InputError, match="other parameters"):
        smoothness(problem, start=smoothness(smaller, keep=True))


def test_where_the_hessian_is_formed_there_are_no_rows_and_no_start() -> None:
    problem = Problem(*quadratic(symmetric(30, 9)))
    first = smoothness(problem, keep=True)
    assert dict(first.rows) == {}
    assert stored(smoothness(problem, start=first)) == stored(first)


@pytest.mark.parametrize("groups", [None, ["a", "b"] * 4, ["a"] * 3 + ["b"] * 5])
def test_each_point_starts_from_the_one_before_it_in_its_group(
    groups: Sequence[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group's first point starts from the very first; that one, and its repetition, start at random."""
    calls: list[tuple[float, Smoothness | None, Smoothness]] = []

    def watched(problem: Problem, *, start: Smoothness | None = None, **kind: Any) -> Smoothness:
        result = smoothness(problem, start=start, **kind)
        calls.append((float(problem.parameters["right"][0]), start, result))
        return result

    monkeypatch.setattr(estimators.growth.points, "smoothness", watched)
    problem = Problem(*quadratic(symmetric(40, 2)), forms_hessian=False)
    scales = np.geomspace(0.1, 200, 8)
    points = [{n: torch.full_like(p, float(scale)) for n, p in problem.parameters.items()} for scale in scales]
    result = generalized_smoothness(problem, points, groups=groups)
    labels = list(groups or [""] * 8)
    before = {n: max((m for m in range(n) if labels[m] == labels[n]), default=None) for n in range(8)}
    at = {round(where, 9): result for where, _, result in calls[:8]}
    for where, start, _ in calls[:8]:
        number = int(np.argmin(abs(scales - where)))
        earlier = before[number] if before[number] is not None or not number else 0
        if earlier is None:
            assert start is None
        else:
            assert start is not None
            assert start.rows is at[round(float(scales[earlier]), 9)].rows
    assert [start for _, start, _ in calls[8:]] == [None]
    assert result.points is not None
    for row, point in zip(result.points, points, strict=True):  # in the order of the trajectory
        assert row["gradient_l2"] == pytest.approx(float(problem.flatten(problem.at(point).gradient()).norm()))
