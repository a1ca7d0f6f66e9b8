"""The rotated problem is the same function in other coordinates, and its axes mean nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from estimators import Problem, hessian_diagonal, noise, smoothness, spectrum
from estimators.smoothness_vector.rotated import rotated_density
from estimators.task.products import dense_hessian
from estimators.task.rotation import BLOCK, NAME, Rotation, haar, rotated
from tests import oracles
from tests.markers import marked
from tests.problems import BY_NAME, CASES, SMALL, Case, quadratic

LIKE = torch.zeros(1, dtype=torch.float64)


def matrix(d: int, seed: int = 0) -> Tensor:
    """Q, formed."""
    return Rotation(d, seed, LIKE).forward(torch.eye(d, dtype=torch.float64)).T


@pytest.mark.parametrize("d", [1, 2, 10, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_it_is_orthogonal_and_its_inverse_undoes_it(d: int) -> None:
    q = matrix(d)
    torch.testing.assert_close(q @ q.T, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-12)
    x = torch.randn(3, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rotation = Rotation(d, 0, LIKE)
    torch.testing.assert_close(rotation.inverse(rotation.forward(x)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.inverse(x), x @ q, rtol=0, atol=1e-12)
    torch.testing.assert_close(vmap(rotation.forward)(x), rotation.forward(x), rtol=0, atol=1e-12)
    assert torch.equal(rotation.forward(x), Rotation(d, 0, LIKE).forward(x))
    if d > 1:
        assert not torch.allclose(rotation.forward(x), Rotation(d, 1, LIKE).forward(x))


def test_small_rotations_have_the_haar_measure() -> None:
    """Entries of a random orthogonal matrix have mean 0, variance 1/n and fourth moment 3/(n (n + 2))."""
    g = torch.Generator().manual_seed(0)
    many = torch.stack([haar(3, g) for _ in range(4000)])
    assert float(many.mean(0)[0].abs().max()) < 4 / math.sqrt(3 * 4000)
    torch.testing.assert_close(many.square().mean(0), torch.full((3, 3), 1 / 3).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(many.pow(4).mean(0), torch.full((3, 3), 3 / 15).double(), rtol=0, atol=0.025)
    assert float((torch.linalg.det(many) > 0).double().mean()) == pytest.approx(0.5, abs=0.035)


def test_two_rounds_mix_beyond_a_block() -> None:
    """Every old coordinate is spread over about as many new ones as there are, none holds much of it."""
    d = 8 * BLOCK
    q = matrix(d)
    spread = 1 / q.pow(4).sum(0)  # participation ratio of a column: d/3 for a Gaussian one
    assert float(spread.min()) > d / 8
    assert float(q.abs().max()) < 0.5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_same_function(case: Case) -> None:
    problem = case.problem()
    other = rotated(problem, 3)
    q = matrix(problem.d, 3)
    assert other.names == (NAME,)
    assert other.loss() == pytest.approx(problem.loss(), rel=1e-10)
    torch.testing.assert_close(other.gradient()[NAME], q.T @ problem.flatten(problem.gradient()), rtol=0, atol=1e-10)
    wanted = noise(problem)
    rows = torch.from_numpy(oracles.per_sample_gradients(case.parts())) @ q
    found = noise(other)
    torch.testing.assert_close(found.vectors[NAME], rows.std(0, correction=0), rtol=0, atol=1e-9)
    assert found.l2 == pytest.approx(wanted.l2, rel=1e-8, abs=1e-12)
    assert found.token_deciles is None


@pytest.mark.parametrize("case", marked("sweep", SMALL, [BY_NAME["mlp"], BY_NAME["rotated"]]), ids=str)
def test_curvature_is_that_of_the_rotated_matrix(case: Case) -> None:
    problem = case.problem()
    other = rotated(problem, 5)
    q = matrix(problem.d, 5)
    wanted = q.T @ dense_hessian(problem) @ q
    torch.testing.assert_close(dense_hessian(other), wanted, rtol=0, atol=1e-9 * float(wanted.abs().max() + 1))
    found = smoothness(other)
    assert found.global_l1 is None
    assert found.sharpness == pytest.approx(smoothness(problem).sharpness, rel=1e-8, abs=1e-12)
    exact = oracles.smallest_diagonal(wanted.numpy())
    assert found.l1_lower is not None
    assert found.l1_upper is not None
    assert found.l1_lower <= exact * (1 + 1e-4) + 1e-9
    assert found.l1_upper >= exact * (1 - 1e-4) - 1e-9
    assert hessian_diagonal(other).trace == pytest.approx(float(wanted.trace()), rel=1e-8, abs=1e-10)
    assert spectrum(other).largest == pytest.approx(spectrum(problem).largest, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("law", ["spike", "inverse", "equal"])
def test_alignment_is_gone_after_a_rotation(law: str) -> None:
    """R_L of a diagonal matrix is mean|h| / max|h|; a random rotation leaves 2/pi (one eigenvalue) to 1."""
    d = 150
    j = torch.arange(1, d + 1, dtype=torch.float64)
    values = {"spike": (j == 1).double(), "inverse": 1 / j, "equal": torch.ones(d, dtype=torch.float64)}[law]
    problem = Problem(*quadratic(torch.diag(values)))
    aligned, turned = smoothness(problem).density, smoothness(rotated(problem, 0)).density
    assert rotated_density(problem, 0) == pytest.approx(turned, rel=0.02)
    assert aligned is not None
    assert turned is not None
    assert aligned == pytest.approx(float(values.mean()), rel=0.02)
    assert 0.55 < turned <= 1 + 1e-9
    assert turned == pytest.approx({"spike": 0.63, "inverse": 0.66, "equal": 1.0}[law], abs=0.05)


def test_other_points_and_subsets_stay_rotated() -> None:
    problem = CASES[0].problem()
    other = rotated(problem, 1)
    there = {NAME: other.parameters[NAME] + 0.1}
    assert other.unrotated is not None
    assert other.at(there).loss() == pytest.approx(problem.at(other.unrotated(there)).loss(), rel=1e-10)
    index = torch.arange(2)
    assert other.subset(index).loss() == pytest.approx(problem.subset(index).loss(), rel=1e-10)
