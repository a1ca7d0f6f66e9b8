"""Kinks are found where there are some, and nowhere else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from estimators import InputError, Problem
from estimators.curvature.kinks import STEPS, finite_step_curvature
from tests.markers import marked
from tests.problems import BY_NAME, CASES, Case, quadratic, symmetric, value

SMOOTH = [case for case in CASES if case.name != "cnn-batchnorm"]


def _network(activation: type[nn.Module], dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return Problem(model.to(dtype), (torch.randn(64, 20).to(dtype), torch.randint(0, 5, (64,))))


class Bends(nn.Module):
    """l_i(w) = |w_1 - x_i| + w'w/2: its kinks are the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = (self.w[0] - x).abs() + 0.5 * self.w @ self.w
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh])
def test_networks_with_kinks(activation: type[nn.Module], dtype: torch.dtype) -> None:
    found = finite_step_curvature(_network(activation, dtype))
    (warning,) = found.warnings
    assert warning.code == "kinks"
    assert found.parted is not None
    assert found.parted.finite is not None
    assert abs(found.parted.finite / found.parted.curvature - 1) > 0.05
    assert f"{found.parted.finite:.3g}" in warning.found


@pytest.mark.parametrize("scale", marked("sweep", [0.1, 1.0, 3.0], [1.0]))
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus, nn.Identity])
def test_smooth_networks(activation: type[nn.Module], scale: float) -> None:
    for seed in range(3):
        assert finite_step_curvature(_network(activation, scale=scale), seed=seed).parted is None


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_smooth_cases(case: Case) -> None:
    problem = case.problem()
    found = finite_step_curvature(problem)
    assert found.warnings == ()
    assert len(found.rows) == 4 * len(STEPS)
    for row in found.rows[len(STEPS) - 1 :: len(STEPS)]:
        assert row.finite == pytest.approx(row.curvature, rel=0.03, abs=1e-9)


def test_kinks_add_the_density_of_the_bends() -> None:
    """E|w - x| over x uniform on [-1, 1] has second derivative 1: 1 with the pieces' w'w/2 is 2."""
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    problem = Problem(Bends(), (x, torch.zeros_like(x)), value)
    along = finite_step_curvature(problem, directions=1, steps=(0.1, 0.03))
    for row in along.rows:
        assert row.curvature == pytest.approx(1)
        if row.direction == "gradient":
            first = float(problem.gradient()["w"][0] / problem.gradient()["w"].norm())
            assert row.finite == pytest.approx(1 + first**2, rel=0.02)
    assert along.parted is not None


def test_a_quadratic_is_met_exactly_and_steps_are_shares_of_the_weights() -> None:
    problem = Problem(*quadratic(symmetric(10, 4)))
    found = finite_step_curvature(problem, directions=2)
    length = float(problem.flatten(problem.parameters).norm())
    assert [row.h for row in found.rows[:3]] == pytest.approx([step * length for step in STEPS])
    assert [row.direction for row in found.rows[::3]] == ["gradient", "random 1", "random 2"]
    for row in found.rows:
        assert row.finite == pytest.approx(row.curvature, rel=1e-7)
    assert found.cost.passes == pytest.approx(1 + 1 + 2 * 3 + 2 * 9)


def test_no_gradient_and_no_weights() -> None:
    problem = Problem(*quadratic(symmetric(10, 4), noise=0.0))
    still = problem.at({name: torch.zeros_like(p) for name, p in problem.parameters.items()})
    found = finite_step_curvature(still)
    assert [row.h for row in found.rows[:3]] == pytest.approx(STEPS)
    assert {row.direction for row in found.rows} == {"random 1", "random 2", "random 3"}
    assert found.parted is None


def test_a_step_out_of_range_is_said() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((3,), 50.0))

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = (x * self.w).exp().sum(1)
            return output

    problem = Problem(Steep(), (torch.ones(2, 3), torch.zeros(2)), value)
    found = finite_step_curvature(problem, steps=(10.0, 1e-3))
    lost = [row for row in found.rows if row.finite is None]
    assert lost
    assert all(row.why["finite"] for row in lost)
    assert found.parted is None


def test_seeds() -> None:
    problem = _network(nn.ReLU)
    first, second = (finite_step_curvature(problem).rows for _ in range(2))
    assert first == second
    assert finite_step_curvature(problem, seed=1).rows != first
    assert math.isfinite(sum(row.curvature for row in first))


def test_what_cannot_be_used_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    for arguments, word in (({"steps": (0.1,)}, "two steps"), ({"steps": (0.1, 0.0)}, "two"), ({"directions": 0}, "0")):
        with pytest.raises(InputError, match=word):
            finite_step_curvature(problem, **arguments)
