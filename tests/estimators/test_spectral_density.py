"""The density of eigenvalues against exact spectra, its moments against traces, its spread against repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import estimators.spectral_density as module
from estimators import InputError, Problem
from estimators.lanczos import extremes
from estimators.spectral_density import eigenvalue_density, quadratures
from tests import oracles
from tests.problems import BY_NAME, SMALL, Case, quadratic
from tests.statistics import assert_covers

D = 80


@cache
def _values() -> Tensor:
    """A bulk near 0 on both sides, a second group and two outliers."""
    generator = torch.Generator().manual_seed(0)
    bulk = 0.5 * torch.randn(D - 22, generator=generator, dtype=torch.float64)
    group = 4 + 0.2 * torch.randn(20, generator=generator, dtype=torch.float64)
    return torch.cat([bulk, group, torch.tensor([9.0, 10.0]).double()])


def _rules(seed: int, probes: int, steps: int) -> list[module.Rule]:
    """A diagonal matrix, which a uniform start cannot tell from a rotated one."""
    values = _values()
    generator = torch.Generator().manual_seed(seed)
    return quadratures(lambda block: values[:, None] * block, D, probes, steps, generator, values)


def _exact(values: NDArray[Any], points: Sequence[float] | oracles.Array, width: float) -> oracles.Array:
    grid = np.asarray(points, dtype=np.float64)
    bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return np.asarray(bumps.mean(1))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_where_the_hessian_is_formed(case: Case) -> None:
    values = np.linalg.eigvalsh(oracles.hessian(case.parts()))
    found = eigenvalue_density(case.problem())
    assert found.exact
    wanted = _exact(values, found.grid, found.width)
    np.testing.assert_allclose(np.array(found.density), wanted, atol=1e-6 * max(found.density))
    assert set(found.spread) == {0.0}
    assert found.mean == pytest.approx(values.mean())
    assert found.mean_square == pytest.approx((values**2).mean())
    assert found.mean_interval == (found.mean, found.mean)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
    assert found.why == {"probes": "the Hessian was formed"}


def test_a_rule_has_the_moments_of_its_start() -> None:
    """Gauss: sum w theta^k = q'A^k q for k up to 2 steps - 1."""
    values = _values()
    (rule,) = _rules(3, probes=1, steps=6)
    q = torch.randn(D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = (q / q.norm()).square()
    for power in range(12):
        assert (rule[1] * rule[0] ** power).sum() == pytest.approx(float((weights * values**power).sum()), rel=1e-9)
    assert (rule[1] * rule[0] ** 12).sum() != pytest.approx(float((weights * values**12).sum()), rel=1e-9)


def test_the_intervals_of_the_moments_cover_and_the_mean_density_is_the_exact_one() -> None:
    values, repeats = _values().numpy(), 60
    grid = np.linspace(-3, 12, 200)
    wanted = _exact(values, grid, 0.3)
    hits, inside, curves = [0, 0], 0, []
    for seed in range(repeats):
        rules = _rules(seed, probes=8, steps=20)
        for power in (1, 2):
            low, high = module._moment(rules, power)[1]
            hits[power - 1] += low <= (values**power).mean() <= high
        each = np.stack([module._smoothed(nodes, weights, grid, 0.3) for nodes, weights in rules])
        curves.append(each.mean(0))
        middle = int(np.argmin(np.abs(grid - 4)))
        error = each[:, middle].std(ddof=1) / math.sqrt(8)
        inside += abs(curves[-1][middle] - wanted[middle]) <= 2.365 * error
    for number in (*hits, inside):
        assert_covers(number, repeats, 0.95)
    noise = np.std(curves, 0).max() / math.sqrt(repeats)
    np.testing.assert_allclose(np.mean(curves, 0), wanted, atol=5 * noise)


@pytest.mark.parametrize("name", ["mlp", "cnn-batchnorm", "unseen-token", "singular"])
def test_by_products_of_a_problem(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    case = BY_NAME[name]
    values = np.linalg.eigvalsh(oracles.hessian(case.parts()))
    problem = case.problem()
    said: list[float] = []
    found = eigenvalue_density(problem, probes=20, steps=30, progress=lambda stage, done, total: said.append(done))
    assert not found.exact
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
    off = np.abs(np.array(found.density) - _exact(values, found.grid, found.width))
    assert (off <= 6 * np.array(found.spread) + 1e-3 * max(found.density)).all()
    assert found.mean == pytest.approx(values.mean(), abs=float(np.diff(found.mean_interval)[0]))
    assert found.cost.passes == pytest.approx(1 + 2 * found.products)
    assert len(found.nodes) == len(found.weights) == found.probes == 20
    assert said == sorted(said)
    assert eigenvalue_density(problem, probes=20, steps=30).density == found.density
    assert eigenvalue_density(problem, probes=20, steps=30, seed=1).density != found.density


def test_without_a_basis_the_rules_say_the_same() -> None:
    """In float32 over 60 steps eigenvalues come again, with weights that add up to what one node had."""
    values = _values().float()

    def rules(local: bool) -> list[module.Rule]:
        generator = torch.Generator().manual_seed(0)
        return quadratures(lambda block: values[:, None] * block, D, 8, 60, generator, values, local=local)

    one, two = rules(False), rules(True)
    grid = np.linspace(-3, 12, 200)
    for (nodes, weights), (others, shares) in zip(one, two, strict=True):
        assert (others > 9.9).sum() > (nodes > 9.9).sum()
        for power in range(5):
            assert (shares * others**power).sum() == pytest.approx((weights * nodes**power).sum(), rel=1e-4)
        curve, other = (module._smoothed(*rule, grid, 0.1) for rule in ((nodes, weights), (others, shares)))
        np.testing.assert_allclose(other, curve, atol=0.01 * curve.max())


def test_a_run_given_is_one_of_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    problem = BY_NAME["mlp"].problem()
    run = extremes(problem, seed=5).whole
    alone = eigenvalue_density(problem, probes=3, steps=10)
    found = eigenvalue_density(problem, probes=4, steps=10, run=run)
    assert (found.products, alone.products) == (30, 30)
    np.testing.assert_allclose(found.nodes[0], run.values, atol=1e-12 * run.norm)
    assert found.nodes[1:] == alone.nodes
    assert found.weights[1:] == alone.weights
    # tr H / d by the start's own measure: the first coefficient of Lanczos is q'Hq.
    assert np.dot(found.nodes[0], found.weights[0]) == pytest.approx(run.alphas[0])


def test_scaling_moves_the_grid_alone() -> None:
    matrix = torch.diag(torch.linspace(-1, 2, 10)).double()
    one, ten = (eigenvalue_density(Problem(*quadratic(c * matrix))) for c in (1.0, 10.0))
    np.testing.assert_allclose(np.array(ten.grid), 10 * np.array(one.grid))
    np.testing.assert_allclose(10 * np.array(ten.density), np.array(one.density), atol=1e-12)


@pytest.mark.parametrize("size", [0.0, -3.0])
def test_a_single_eigenvalue(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(*quadratic(size * torch.eye(10).double()))
    for limit in (2000, 0):
        monkeypatch.setattr(module, "DENSE_LIMIT", limit)
        found = eigenvalue_density(problem, steps=5)
        assert found.grid[int(np.argmax(found.density))] == pytest.approx(size, abs=found.width)
        assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
        assert found.mean == pytest.approx(size)


def test_a_narrow_kernel_still_has_points_on_it() -> None:
    found = eigenvalue_density(BY_NAME["mlp"].problem(), width=0.001)
    assert np.diff(found.grid).max() < found.width / 2
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_used_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    for arguments, word in (({"probes": 1}, "spread"), ({"steps": 1}, "density"), ({"width": 0.0}, "width")):
        with pytest.raises(InputError, match=word):
            eigenvalue_density(problem, **arguments)
