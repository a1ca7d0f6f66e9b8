"""The bracket on Lambda(H) from products and from the matrix, against closed forms and a semidefinite solver."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators.curvature.scaled_lanczos import certify
from estimators.errors import InputError
from estimators.smoothness_vector.bracket import COLUMNS, FEWEST_PRODUCTS, Bracket, bracket, check_limits, floored
from estimators.smoothness_vector.formed import dense_bracket
from estimators.smoothness_vector.sweeps import Sweeps
from estimators.task.products import Curvature
from tests import oracles
from tests.markers import seeds
from tests.problems import orthogonal, symmetric
from tests.statistics import assert_covers, fewest

D = 40


def _signs() -> Tensor:
    return symmetric(D, 20)[:, 0].sign()


def _rank_one() -> Tensor:
    a = symmetric(D, 21)[:, :1]
    return a @ a.T


def _swap() -> Tensor:
    """Blocks [[0, 1], [1, 0]]: a zero diagonal and no definite direction."""
    return torch.kron(torch.eye(D // 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).double()


def _zero_rows() -> Tensor:
    matrix = symmetric(D, 22)
    matrix[[3, 9, 11]] = 0
    matrix[:, [3, 9, 11]] = 0
    return matrix


def _decaying() -> Tensor:
    q = orthogonal(D, 23)
    matrix = q @ torch.diag(torch.logspace(-4, 1, D).double()) @ q.T
    return (matrix + matrix.T) / 2


def _graded() -> Tensor:
    """Scales from 1e-6 to 1 on the diagonal and weak coupling."""
    root = torch.logspace(-3, 0, D).double()
    return root[:, None] * (torch.eye(D).double() + 1e-2 * symmetric(D, 24)) * root


MATRICES: dict[str, Callable[[], Tensor]] = {
    "diagonal": lambda: torch.diag(symmetric(D, 25).diagonal()),
    "rank-one": _rank_one,
    "signs": lambda: torch.outer(_signs(), _signs()),
    "minus-signs": lambda: -torch.outer(_signs(), _signs()),
    "swap": _swap,
    "goe": lambda: symmetric(D, 26),
    "goe-2": lambda: symmetric(D, 27),
    "zero-rows": _zero_rows,
    "decaying": _decaying,
    "graded": _graded,
    "one-by-one": lambda: torch.tensor([[-2.0]]).double(),
    "zero": lambda: torch.zeros(5, 5).double(),
}
KNOWN: dict[str, Callable[[Tensor], float]] = {
    "diagonal": lambda m: float(m.diagonal().abs().sum()),
    "rank-one": lambda m: float(m.diagonal().sqrt().sum() ** 2),
    "signs": lambda m: float(len(m) ** 2),
    "minus-signs": lambda m: float(len(m) ** 2),
    "swap": lambda m: float(len(m)),
    "one-by-one": lambda _: 2.0,
    "zero": lambda _: 0.0,
}


@cache
def smallest(name: str) -> float:
    """Lambda: the closed form where there is one, else the solver's."""
    matrix = MATRICES[name]()
    return KNOWN[name](matrix) if name in KNOWN else oracles.smallest_diagonal(matrix.numpy())


def by_products(matrix: Tensor, seed: int, gap: float = 0.02, products: int = 400, delta: float = 1e-3) -> Bracket:
    counted = Curvature(lambda block: matrix @ block, len(matrix))
    found = bracket(counted, torch.Generator().manual_seed(seed), matrix, gap, products, delta)
    assert found.products == counted.products
    return found


def excess(matrix: Tensor, vector: Tensor) -> float:
    """max|eig L^-1/2 H L^-1/2| - 1 over the rows where L > 0; H must vanish on the others."""
    alive = (vector > 0).numpy()
    h, limit = matrix.double().numpy(), vector.double().numpy()[alive]
    assert np.abs(h[~alive]).max(initial=0) == 0
    if not alive.any():
        return -1.0
    part = h[np.ix_(alive, alive)] / np.sqrt(np.outer(limit, limit))
    return float(np.abs(np.linalg.eigvalsh(part)).max()) - 1


def check(found: Bracket, matrix: Tensor, wanted: float, gap: float, rounding: float) -> None:
    assert found.lower <= wanted * (1 + rounding) + 1e-12
    assert found.upper >= wanted * (1 - rounding)
    assert found.lower <= found.upper * (1 + 1e-12)
    assert found.upper <= found.lower * (1 + gap) * (1 + 1e-9)
    assert float(found.vector.double().sum()) == pytest.approx(found.upper)
    assert bool((found.vector[matrix.abs().sum(1) == 0] == 0).all())
    assert excess(matrix, found.vector) <= 1e-12


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ("diagonal", "zero")])
def test_the_solver_agrees_with_the_closed_forms(name: str) -> None:
    assert oracles.smallest_diagonal(MATRICES[name]().numpy()) == pytest.approx(KNOWN[name](MATRICES[name]()), rel=1e-5)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("repeats", seeds(3))
def test_dense(name: str, repeats: range) -> None:
    matrix = MATRICES[name]()
    for seed in repeats:
        found = dense_bracket(matrix, torch.Generator().manual_seed(seed), 0.01)
        check(found, matrix, smallest(name), 0.01, 1e-6)
        assert found.products == len(matrix)
        torch.testing.assert_close(found.first_row_norms, matrix.norm(dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("repeats", seeds(8, 2))
def test_by_products(name: str, dtype: torch.dtype, repeats: range) -> None:
    matrix = MATRICES[name]().to(dtype)
    for seed in repeats:
        check(by_products(matrix, seed), matrix, smallest(name), 0.02, 1e-6)


@pytest.mark.parametrize("name", ["goe", "rank-one", "zero-rows", "swap"])
@pytest.mark.parametrize("products", [FEWEST_PRODUCTS, 40, 100])
@pytest.mark.parametrize("repeats", seeds(8, 2))
def test_few_products_give_a_wide_bracket_that_holds(name: str, products: int, repeats: range) -> None:
    matrix = MATRICES[name]()
    for seed in repeats:
        found = by_products(matrix, seed, gap=1e-3, products=products)
        assert found.lower <= smallest(name) * (1 + 1e-6)
        assert found.upper >= smallest(name) * (1 - 1e-6)
        assert found.products <= products
        assert excess(matrix, found.vector) <= 1e-12


def test_violations_are_as_rare_as_claimed() -> None:
    """With delta = 0.3 and few Lanczos steps, L fails to dominate H at most 3 times in 10."""
    delta, repeats = 0.3, 400
    feasible = ritz_feasible = 0
    matrix = symmetric(150, 28)
    for seed in range(repeats):
        generator = torch.Generator().manual_seed(seed)
        scaling = floored(matrix.norm(dim=1), torch.ones(150, dtype=torch.bool), 0.1)
        run = certify(
            lambda block: matrix @ block, scaling, scaling > 0, generator, matrix, 10, delta, stop=lambda _: False
        )
        feasible += excess(matrix, run.norm_bound * scaling) <= 1e-9
        ritz_feasible += excess(matrix, run.norm * scaling) <= 1e-9
    assert_covers(feasible, repeats, 1 - delta)
    assert ritz_feasible < fewest(repeats, 1 - delta)  # the control: a Ritz value certifies nothing


def test_what_cannot_be_asked_for_is_refused() -> None:
    check_limits(None, 16, fewest=16)
    check_limits(1e-6, FEWEST_PRODUCTS)
    for gap in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="a gap of"):
            check_limits(gap, 400)
    with pytest.raises(InputError, match=f"{FEWEST_PRODUCTS - 1} products give no bracket"):
        check_limits(0.05, FEWEST_PRODUCTS - 1)


# -- invariants ------------------------------------------------------------------------------------


def _overlap(one: Bracket, other: Bracket, c: float = 1.0) -> None:
    """Two brackets on Lambda and on c Lambda can both hold."""
    assert c * one.lower <= other.upper * (1 + 1e-9)
    assert other.lower <= c * one.upper * (1 + 1e-9)


@pytest.mark.parametrize("name", ["goe", "zero-rows", "decaying", "graded", "swap"])
def test_scaling_signs_and_permutations_carry_over(name: str) -> None:
    matrix, plain = MATRICES[name](), by_products(MATRICES[name](), 0, gap=0.01)
    order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(1))
    signs = symmetric(len(matrix), 29)[:, 0].sign()
    changed = {
        1.0: (matrix[order][:, order], signs[:, None] * matrix * signs, -matrix),
        1e-7: (1e-7 * matrix,),
        3e8: (3e8 * matrix,),
    }
    for c, matrices in changed.items():
        for other in matrices:
            found = by_products(other, 0, gap=0.01, products=2000)
            _overlap(plain, found, c)
            check(found, other, c * smallest(name), 0.01, 1e-6)


@pytest.mark.parametrize("name", ["goe", "rank-one", "decaying"])
def test_scaling_by_a_power_of_two_keeps_every_bit(name: str) -> None:
    one, four = by_products(MATRICES[name](), 0), by_products(4 * MATRICES[name](), 0)
    assert (4 * one.lower, 4 * one.upper, one.products) == (four.lower, four.upper, four.products)
    assert torch.equal(4 * one.vector, four.vector)


@pytest.mark.parametrize("name", MATRICES)
def test_every_sweep_is_a_lower_bound_that_never_falls(name: str) -> None:
    matrix = MATRICES[name]()
    sweeps = Sweeps(lambda block: matrix @ block, len(matrix), 8, torch.Generator().manual_seed(0), matrix)
    bounds = []
    for _ in range(40):
        sweeps.sweep()
        bounds.append(sweeps.lower)
        lengths = sweeps.z.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert bounds == sorted(bounds)
    assert bounds[-1] <= smallest(name) * (1 + 1e-6)


def test_the_zero_matrix_needs_one_sweep() -> None:
    found = by_products(MATRICES["zero"](), 0)
    assert (found.lower, found.upper, found.products) == (0, 0, COLUMNS)
