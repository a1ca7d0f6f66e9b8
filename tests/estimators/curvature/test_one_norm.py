"""The (1,1)-norm against explicit matrices: bias, coverage, and what the probes alone would have said."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import estimators.curvature.one_norm as module
from estimators import InputError
from estimators.curvature.one_norm import FEWEST_PROBES, Sampled, hessian_one_norm, one_norm_by_products
from tests import oracles
from tests.markers import marked
from tests.problems import BY_NAME, SMALL, Case, orthogonal, symmetric
from tests.statistics import assert_covers, fewest

D = 60
REPEATS = 400


def _rank_one() -> Tensor:
    a = symmetric(D, 1)[:, :1]
    return a @ a.T


def _decaying() -> Tensor:
    q = orthogonal(D, 3)
    return q @ torch.diag(torch.logspace(-4, 1, D).double()) @ q.T


def _graded() -> Tensor:
    root = torch.logspace(-3, 0, D).double()
    return root[:, None] * symmetric(D, 5) * root


def _of_signs() -> Tensor:
    s = symmetric(D, 1)[:, :1].sign()
    return s @ s.T


def _two_ranks() -> Tensor:
    a, b = symmetric(D, 1)[:, :1], symmetric(D, 7)[:, :1]
    return a @ a.T + 0.1 * b @ b.T


def _blocks(small: float) -> Tensor:
    """Two of rank one that share no row: what the rows of one say, those of the other need not."""
    a = symmetric(D // 2, 1)[:, :1]
    matrix = torch.zeros(D, D).double()
    matrix[: D // 2, : D // 2], matrix[D // 2 :, D // 2 :] = a @ a.T, small * a.flip(0) @ a.flip(0).T
    return matrix


def _one_row() -> Tensor:
    matrix = 0.01 * _rank_one()
    matrix[3, 3] += 10 * float(matrix.abs().sum() / D)
    return matrix


MATRICES: dict[str, Callable[[], Tensor]] = {
    "rank-one": _rank_one,
    "near rank one": lambda: _rank_one() + 0.01 * symmetric(D, 2),
    "near rank one, 0.1": lambda: _rank_one() + 0.1 * symmetric(D, 2),
    "rank one and a diagonal": lambda: _rank_one() + torch.diag(symmetric(D, 4).diagonal()),
    "near signs": lambda: _of_signs() + 0.05 * symmetric(D, 2),
    "two ranks": _two_ranks,
    "blocks": lambda: _blocks(1.0),
    "blocks, one small": lambda: _blocks(0.01),
    "one row apart": _one_row,
    "diagonal": lambda: torch.diag(symmetric(D, 4).diagonal()),
    "goe": lambda: symmetric(D, 2),
    "decaying": _decaying,
    "graded": _graded,
}


def sampled(matrix: Tensor, seed: int, probes: int = 50, keep: bool = True) -> Sampled:
    generator = torch.Generator().manual_seed(seed)
    return one_norm_by_products(lambda block: matrix @ block, len(matrix), probes, generator, matrix, keep=keep)


def _cases() -> list[Any]:
    """All matrices with the fewest probes; with 50 the ordinary ones are slow to repeat."""
    names = [name for name in MATRICES if name != "rank-one"]
    quick = [*((name, FEWEST_PROBES) for name in names), ("near rank one", 50)]
    slow = [(name, 50) for name in names if name != "near rank one"]
    fast = [(name, FEWEST_PROBES) for name in ("near rank one", "blocks, one small", "goe")]
    return [*marked("coverage", quick, fast), *marked("slow", slow, [])]


@pytest.mark.parametrize(("name", "probes"), _cases())
def test_the_interval_covers_and_the_value_is_unbiased(name: str, probes: int) -> None:
    matrix = MATRICES[name]()
    wanted = float(matrix.abs().sum())
    found = [sampled(matrix, seed, probes) for seed in range(REPEATS)]
    assert_covers(sum(f.interval[0] <= wanted <= f.interval[1] for f in found), REPEATS, 0.95)
    for values in ([f.value for f in found], [f.probes_alone for f in found]):
        assert np.mean(values) == pytest.approx(wanted, abs=4 * float(np.std(values)) / math.sqrt(REPEATS))
    assert np.std([f.value for f in found]) <= 3.5 / probes * wanted


@pytest.mark.parametrize("name", ["blocks", "one row apart", "diagonal"])
def test_without_room_for_the_probes_the_interval_is_wide_and_covers(name: str) -> None:
    matrix = MATRICES[name]()
    wanted = float(matrix.abs().sum())
    wide = [sampled(matrix, seed, FEWEST_PROBES, keep=False).interval for seed in range(REPEATS)]
    assert_covers(sum(low <= wanted <= high for low, high in wide), REPEATS, 0.95)
    assert np.mean([high / low for low, high in wide]) > 1.8


def test_rows_share_the_probes() -> None:
    """The control: an error computed as if the rows of a full matrix were independent would not cover."""
    matrix = MATRICES["goe"]()
    sums = matrix.abs().sum(1)
    wanted, m = float(sums.sum()), 25
    independent = math.pi / (2 * math.sqrt(m)) * float(sums.norm())
    alone = [sampled(matrix, seed).probes_alone for seed in range(REPEATS)]
    hits = sum(abs(value - wanted) <= 1.96 * independent for value in alone)
    assert hits < fewest(REPEATS, 0.95)
    assert np.std(alone) > 4 * independent


def test_one_row_is_enough_for_rank_one() -> None:
    matrix = MATRICES["rank-one"]()
    found = sampled(matrix, 0)
    assert found.value == pytest.approx(float(matrix.abs().sum()), rel=1e-9)
    assert found.interval == pytest.approx((found.value, found.value), rel=1e-9)
    assert abs(found.probes_alone / found.value - 1) > 1e-3
    assert np.diff(sampled(matrix, 0, keep=False).interval) > 0.1 * found.value


@pytest.mark.coverage
def test_rows_of_one_group_say_nothing_of_another() -> None:
    """The control: by the rows that were drawn alone the interval misses, as they often have one and the same ratio."""
    for name, most in (("two ranks", 0.92), ("blocks, one small", 0.5)):
        matrix = MATRICES[name]()
        wanted = float(matrix.abs().sum())
        hits = 0
        for seed in range(REPEATS):
            found = sampled(matrix, seed, 20)
            generator = torch.Generator().manual_seed(seed)
            probes = torch.cat([module._cauchy(D, 5, generator, matrix) for _ in range(2)], 1)
            scales = (matrix @ probes).abs().log().mean(1).exp() * math.cos(math.pi / 20) ** 10
            drawn = torch.rand(10, generator=generator, dtype=torch.float64) * scales.sum()
            rows = torch.searchsorted(scales.cumsum(0), drawn, right=True)
            ratios = matrix[rows].abs().sum(1) / scales[rows]
            assert float(scales.sum() * ratios.mean()) == pytest.approx(found.value)
            margin = math.exp(2.69 * float(ratios.std() / ratios.mean()) / math.sqrt(10))
            hits += found.value / margin <= wanted <= found.value * margin
        assert hits < most * REPEATS


@pytest.mark.parametrize("name", ["goe", "rank-one", "diagonal"])
def test_scaling_permutations_signs_and_seeds(name: str) -> None:
    matrix, plain = MATRICES[name](), sampled(MATRICES[name](), 0)
    assert sampled(matrix, 0).value == plain.value
    assert sampled(4 * matrix, 0).value == pytest.approx(4 * plain.value, rel=1e-12)
    assert sampled(-matrix, 0).interval == plain.interval
    assert sampled(matrix, 1).probes_alone != plain.probes_alone
    assert sampled(1e-30 * matrix.float(), 0).value == pytest.approx(1e-30 * plain.value, rel=1e-4)


def test_zero_rows_have_no_share() -> None:
    matrix = symmetric(D, 6)
    matrix[[3, 9]] = 0
    matrix[:, [3, 9]] = 0
    found = sampled(matrix, 0)
    assert bool((found.row_sums == 0).eq(matrix.abs().sum(1) == 0).all())
    nothing = sampled(torch.zeros(D, D).double(), 0)
    assert (nothing.value, nothing.interval, nothing.probes_spread) == (0.0, (0.0, 0.0), None)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_where_the_hessian_is_formed(case: Case) -> None:
    matrix = np.abs(oracles.hessian(case.parts()))
    problem = case.problem()
    found = hessian_one_norm(problem)
    assert found.exact
    assert found.value == pytest.approx(matrix.sum())
    assert found.interval == (found.value, found.value)
    np.testing.assert_allclose(problem.flatten(found.vectors), matrix.sum(1), atol=1e-10 * matrix.max())
    assert set(found.why) == {"probes_alone", "probes_spread"}


@pytest.mark.parametrize("name", ["mlp", "cnn-batchnorm", "unseen-token"])
def test_by_products_of_a_problem(name: str) -> None:
    case = BY_NAME[name]
    wanted = np.abs(oracles.hessian(case.parts())).sum()
    problem = case.problem(forms_hessian=False)
    said: list[float] = []
    found = hessian_one_norm(problem, probes=60, progress=lambda stage, done, total: said.append(done))
    assert found.value == pytest.approx(wanted, rel=0.15)
    assert not found.exact
    assert found.products <= 60
    assert found.cost.passes == pytest.approx(1 + 2 * found.products)
    assert said == sorted(said)
    assert problem.flatten(found.vectors).sum() == pytest.approx(found.probes_alone)
    assert found.probes_spread is not None


def test_too_few_probes_are_refused() -> None:
    with pytest.raises(InputError, match="probes"):
        hessian_one_norm(BY_NAME["mlp"].problem(), probes=FEWEST_PROBES - 1)
