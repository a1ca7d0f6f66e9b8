"""generalized_smoothness(): no L1 where H is constant, the true one where it is known, null where it cannot be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import estimators.anisotropic
import estimators.generalized as module
from estimators import Problem, generalized_smoothness
from estimators.generalized import envelope, span
from estimators.products import dense_hessian
from estimators.results import GeneralizedSmoothness, stored_keys
from tests import oracles
from tests.problems import BY_NAME, Parts, mlp, orthogonal, quadratic, symmetric, value


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    monkeypatch.setattr(estimators.anisotropic, "DENSE_LIMIT", 0)


@pytest.fixture(params=["dense", "products"])
def route(request: pytest.FixtureRequest) -> str:
    if request.param == "products":
        request.getfixturevalue("by_products")
    return str(request.param)


class Pieces(nn.Module):
    """1/2 w'Hw with w in ten tensors."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.pieces = nn.ParameterList([nn.Parameter(piece.clone()) for piece in start.chunk(10)])

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat(list(self.pieces))
        output: Tensor = 0.5 * (w @ self.matrix @ w) + x
        return output


class CoshAndSquare(nn.Module):
    """sum c_j cosh(u_j) + 1/2 sum v_j^2: h = c cosh(u) <= c + |g| with g = c sinh(u), and h = 1."""

    c: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor([1.0, 0.9, 1.1, 0.8]))
        self.v = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.register_buffer("c", torch.tensor([1.0, 2.0, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = (self.c * torch.cosh(self.u)).sum() + 0.5 * self.v.square().sum() + x
        return output


def _cosh() -> Parts:
    return CoshAndSquare().double(), (torch.zeros(2).double(), torch.zeros(2).double()), value


def _radial(problem: Problem, scales: Any) -> list[dict[str, Tensor]]:
    return [{name: float(s) * p for name, p in problem.parameters.items()} for s in scales]


def _descent(problem: Problem, rate: float, steps: int, every: int) -> list[dict[str, Tensor]]:
    points, here = [], problem
    for step in range(steps):
        if step % every == 0:
            points.append(here.parameters)
        gradient = here.gradient()
        here = here.at({name: p - rate * gradient[name] for name, p in here.parameters.items()})
    return points


def _slopes(result: GeneralizedSmoothness) -> list[float]:
    assert result.tensors is not None
    return [row["l1"] for row in result.tensors]


# -- the control: a constant Hessian ---------------------------------------------------------------


def _constant(kind: str, seed: int, d: int = 50) -> Tensor:
    root = torch.logspace(-2, 1, d).double()
    if kind == "indefinite":
        return symmetric(d, seed)
    if kind == "graded":
        return root[:, None] * symmetric(d, seed) * root
    q = orthogonal(d, seed)
    matrix = q @ torch.diag(torch.logspace(-3, 1, d).double()) @ q.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("kind", ["indefinite", "graded", "rotated"])
def test_a_quadratic_has_no_l1(kind: str, route: str) -> None:
    for seed in range(3):
        matrix = _constant(kind, seed)
        start = torch.randn(50, generator=torch.Generator().manual_seed(seed)).double()
        problem = Problem(Pieces(matrix, start), (torch.zeros(2).double(), torch.zeros(2).double()), value)
        result = generalized_smoothness(problem, _radial(problem, np.logspace(0, -1.5, 10)), seed=seed)
        assert set(_slopes(result)) == {0.0}
        assert result.l1_median == 0
        assert result.helps_fraction == 0
        assert result.isotropic is not None
        assert result.isotropic["l1"] == 0
        assert result.control == {"l1_median": 0, "isotropic_l1": 0}


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("rate", [0.02, 0.08])
def test_descent_on_a_quadratic_shows_no_l1(rate: float) -> None:
    """Descent removes sharp directions first: curvature along the path falls with the gradient, H does not."""
    matrix = _constant("rotated", 1)
    problem = Problem(*quadratic(matrix, n=3, noise=0.01))
    result = generalized_smoothness(problem, _descent(problem, rate, 400, 40))
    assert set(_slopes(result)) == {0.0}
    assert result.isotropic is not None
    assert result.isotropic["l1"] == 0
    # What a fit of secants would have said, for the same path.
    points = [problem.flatten(p) for p in _descent(problem, rate, 400, 40)]
    gradients = [problem.flatten(problem.at(problem.unflatten(p)).gradient()) for p in points]
    secants = [
        float((gradients[i + 1] - gradients[i]).norm() / (points[i + 1] - points[i]).norm())
        for i in range(len(points) - 1)
    ]
    norms = [float(g.norm()) for g in gradients[:-1]]
    assert np.corrcoef(secants, norms)[0, 1] > 0.9


@pytest.mark.usefixtures("by_products")
def test_brackets_that_missed_their_goal_show_no_l1() -> None:
    """With few products L differs by tens of per cent from point to point; that is no slope."""
    d = 150
    found = []
    for seed in range(4):
        q = orthogonal(d, seed)
        matrix = q @ torch.diag(torch.logspace(-3, 1, d).double()) @ q.T
        start = torch.randn(d, generator=torch.Generator().manual_seed(seed)).double()
        problem = Problem(Pieces(matrix, start), (torch.zeros(2).double(), torch.zeros(2).double()), value)
        problem._dense = (matrix + matrix.T) / 2
        points = _radial(problem, np.logspace(0, -2, 12))
        found += _slopes(generalized_smoothness(problem, points, seed=seed, max_products=100))
    assert set(found) == {0.0}


# -- a known L1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "points"), [(4.0, 9), (5.0, 15)])
def test_cosh_has_an_l1(top: float, points: int, route: str) -> None:
    """h <= c + |g| holds everywhere, and far out h/|g| tends to 1: neither reach nor spacing moves L1."""
    problem = Problem(*_cosh())
    result = generalized_smoothness(problem, _radial(problem, np.linspace(0.1, top, points)))
    assert _slopes(result)[0] == pytest.approx(1.0, abs=0.1)
    assert (result.helps_fraction or 0.0) >= 4 / 7 - 1e-9
    if route == "dense":
        assert _slopes(result)[1] == 0
    assert result.coverage == 1
    assert result.isotropic is not None
    assert result.isotropic["l1"] > 0.5
    assert result.isotropic["coverage"] == 1
    assert result.control is not None
    assert result.control["l1_median"] == 0


@pytest.mark.usefixtures("by_products")
def test_the_tensor_of_constant_curvature_gets_no_l1_beside_one_that_has_it() -> None:
    problem = Problem(*_cosh())
    for top, points in ((4.0, 9), (5.0, 15)):
        result = generalized_smoothness(problem, _radial(problem, np.linspace(0.1, top, points)))
        assert _slopes(result)[1] == 0
        assert result.helps_fraction == pytest.approx(4 / 7)


@pytest.mark.parametrize("name", ["cosh", "mlp"])
def test_the_pair_is_feasible_at_every_fitted_point(name: str, route: str) -> None:
    """|H| <= diag(L0 + L1 |g|) by an eigenvalue solver; held-out points give the coverage."""
    problem = Problem(*(_cosh() if name == "cosh" else mlp()))
    trajectory = _radial(problem, np.linspace(0.1, 5, 11))
    if name == "mlp":
        trajectory = _descent(problem, 2.0, 440, 40)
    result = generalized_smoothness(problem, trajectory)
    l0, l1 = problem.flatten(result.l0).numpy(), problem.flatten(result.l1).numpy()
    held = []
    for number, parameters in enumerate(trajectory):
        point = problem.at(parameters)
        scaling = l0 + l1 * np.abs(problem.flatten(point.gradient()).numpy())
        matrix = dense_hessian(point).numpy()
        excess = float(np.abs(np.linalg.eigvalsh(matrix / np.sqrt(np.outer(scaling, scaling)))).max()) - 1
        if number % 2 == 0:
            assert excess <= 1e-9
        else:
            held.append(excess <= 1e-9)
    if route == "dense":
        assert result.coverage == pytest.approx(sum(held) / len(held))
    else:  # certified, so never more than true
        assert (result.coverage or 0.0) <= sum(held) / len(held) + 1e-12


def test_the_numbers_of_a_result() -> None:
    problem = Problem(*_cosh())
    trajectory = _radial(problem, np.linspace(0.1, 4, 8))
    calls: list[tuple[str, float, float]] = []
    result = generalized_smoothness(problem, trajectory, progress=lambda *call: calls.append(call))
    assert result.points is not None
    assert [row["fitted"] for row in result.points] == [True, False] * 4
    for row, parameters in zip(result.points, trajectory, strict=True):
        model, samples, loss = _cosh()
        model.load_state_dict({**model.state_dict(), **parameters})
        matrix = oracles.hessian((model, samples, loss))
        gradient = oracles.gradient((model, samples, loss))
        assert row["sharpness"] == pytest.approx(np.abs(np.linalg.eigvalsh(matrix)).max())
        assert row["gradient_l1"] == pytest.approx(np.abs(gradient).sum())
        assert row["gradient_l2"] == pytest.approx(np.linalg.norm(gradient))
        assert row["l1_lower"] <= np.abs(np.diag(matrix)).sum() * (1 + 1e-9) <= row["l1_upper"] * (1 + 1e-9)
    assert result.l0_l1 == pytest.approx(float(problem.flatten(result.l0).sum()))
    assert result.l1_median == pytest.approx(float(problem.flatten(result.l1).median()))
    assert result.tensors is not None
    assert sum(row["l0_l1"] for row in result.tensors) == pytest.approx(result.l0_l1)
    assert calls[-1][1] == calls[-1][2]
    assert {stage for stage, _, _ in calls} == {"generalized_smoothness"}
    assert all(getattr(result, key) is not None for key in stored_keys(result))


# -- where it cannot be told -----------------------------------------------------------------------


def _null_but_points(result: GeneralizedSmoothness, reason: str, points: int) -> None:
    for key in stored_keys(result):
        if key == "points":
            continue
        assert getattr(result, key) is None
        assert reason in result.why[key]
    assert result.points is not None
    assert len(result.points) == points
    assert "points" not in result.why
    assert dict(result.l0) == {}
    assert dict(result.l1) == {}


def test_a_narrow_range_of_gradients_is_null_with_the_reason() -> None:
    problem = Problem(*_cosh())
    result = generalized_smoothness(problem, _radial(problem, np.linspace(1, 2, 8)))
    _null_but_points(result, "less than the factor of 10", 8)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_points_are_null_with_the_reason(count: int) -> None:
    problem = Problem(*_cosh())
    result = generalized_smoothness(problem, _radial(problem, np.linspace(0.1, 4, count)))
    _null_but_points(result, f"{count} points along the runs", count)


def test_a_tensor_whose_own_gradient_hardly_moves_gets_no_slope() -> None:
    problem = Problem(*_cosh())
    points = [{"u": s * problem.parameters["u"], "v": problem.parameters["v"]} for s in np.linspace(0.1, 4, 9)]
    result = generalized_smoothness(problem, points)
    assert result.tensors is not None
    u, v = result.tensors
    assert u["l1"] > 0.8
    assert v["gradient_range"] == pytest.approx(1)
    assert v["l1"] == 0


# -- the fit ---------------------------------------------------------------------------------------


def test_the_envelope_lies_above_every_point() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        x = 10 ** generator.uniform(-3, 3) * generator.uniform(0, 1, 8)
        y = 10 ** generator.uniform(-3, 3) * (generator.uniform(0, 1, 8) + x / x.max())
        a, b, _ = envelope(x, y, 0.01)
        assert a >= 0
        assert b >= 0
        assert (a + b * x >= y * (1 - 1e-12)).all()


def test_the_envelope_of_a_line_is_the_line() -> None:
    x = np.linspace(0, 5, 9)
    a, b, useful = envelope(x, 2 + 3 * x, 0.01)
    assert (a, b) == pytest.approx((2, 3))
    assert useful


def test_a_slope_within_the_width_of_the_brackets_is_none() -> None:
    x = np.linspace(0, 5, 9)
    a, b, useful = envelope(x, 2 + 0.01 * x, 0.05)
    assert a == pytest.approx(2.05)
    assert (b, useful) == (0.0, False)


def test_the_envelope_of_nothing() -> None:
    assert envelope(np.zeros(4), np.zeros(4), 0.01) == (0.0, 0.0, False)


def test_span() -> None:
    assert span(np.array([2.0, 1.0, 8.0])) == 8
    assert span(np.zeros(3)) == 1
    assert span(np.array([0.0, 1.0])) == float("inf")


def test_the_problem_is_left_at_its_point() -> None:
    problem = BY_NAME["mlp"].problem()
    before = problem.flatten(problem.parameters).clone()
    generalized_smoothness(problem, _radial(problem, np.linspace(0.1, 4, 6)))
    assert torch.equal(problem.flatten(problem.parameters), before)
