"""Curvature along updates and in their metric, against explicit Hessians."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import estimators.curvature.along_updates as module
from estimators import InputError, Problem, noise
from estimators.curvature.along_updates import (
    DIRECTIONS,
    directional_sharpness,
    preconditioned_sharpness,
    update_sharpness,
)
from tests import oracles
from tests.problems import BY_NAME, CASES, SMALL, Case, quadratic
from tests.statistics import assert_covers


@cache
def _hessian(name: str) -> oracles.Array:
    return oracles.hessian(BY_NAME[name].parts())


def _random(problem: Problem, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return problem.unflatten(torch.randn(problem.d, generator=generator, dtype=torch.float64))


def _scale(problem: Problem) -> dict[str, Tensor]:
    """Positive, over four decades."""
    return {name: 10 ** (2 * v.tanh()) for name, v in _random(problem, 1).items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_along_a_direction(case: Case) -> None:
    problem = case.problem()
    direction = _random(problem)
    u = problem.flatten(direction).numpy()
    wanted = u @ oracles.hessian_operator(case.parts())(u) / (u @ u)
    before = problem.passes.total
    assert directional_sharpness(problem, direction) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert directional_sharpness(problem, {k: -1e-30 * v for k, v in direction.items()}) == pytest.approx(wanted)
    assert problem.passes.total - before == pytest.approx(6)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_update_directions(case: Case, batch_size: int) -> None:
    problem = case.problem()
    found = update_sharpness(problem, noise(case.problem()).vectors, batch_size=batch_size)
    h, g, sigma = _hessian(case.name), oracles.gradient(case.parts()), oracles.sigma(case.parts())
    p = np.sqrt(g**2 + sigma**2 / batch_size)
    directions = {"sgd": g, "sign-sgd": np.sign(np.where(np.abs(g) < 1e-15, 0, g)), "adagrad": g / (p + 0.1 * p.mean())}
    assert tuple(found.directions) == DIRECTIONS
    sharp = {}
    for name, u in directions.items():
        row = found.directions[name]
        sharp[name] = u @ h @ u / (u @ u)
        assert row.sharpness == pytest.approx(sharp[name], rel=1e-7)
        if sharp[name] > 0:
            assert row.decrease == pytest.approx((g @ u) ** 2 / (2 * (u @ h @ u)), rel=1e-7)
        else:
            assert row.decrease is None
            assert row.why["decrease"]
    if min(sharp["sgd"], sharp["adagrad"]) > 0:
        assert found.log_ratio == pytest.approx(math.log(sharp["sgd"] / sharp["adagrad"]), abs=1e-7)
    else:
        assert found.log_ratio is None
        assert found.why["log_ratio"]
    assert found.cost.passes == pytest.approx(8)


def test_the_best_step_gains_what_it_says() -> None:
    """On a quadratic without noise the quadratic model is the loss itself."""
    problem = Problem(*quadratic(torch.diag(torch.logspace(-1, 1, 10)).double(), noise=0.0))
    found = update_sharpness(problem, noise(problem).vectors, batch_size=1)
    g = problem.flatten(problem.gradient())
    for name in DIRECTIONS:
        unit = module.update_direction(name, g, torch.zeros_like(g), 1)
        row = found.directions[name]
        assert row.sharpness is not None
        step = float(g @ unit) / row.sharpness
        moved = problem.at(problem.unflatten(problem.flatten(problem.parameters) - step * unit))
        assert problem.loss() - moved.loss() == pytest.approx(row.decrease)
    sgd, adagrad = found.directions["sgd"].decrease, found.directions["adagrad"].decrease
    assert sgd is not None
    assert adagrad is not None
    assert adagrad > sgd
    assert found.log_ratio is not None
    assert found.log_ratio > 0


def test_no_gradient_no_direction() -> None:
    matrix = torch.eye(10).double()
    problem = Problem(*quadratic(matrix, noise=0.0))
    still = problem.at({name: torch.zeros_like(p) for name, p in problem.parameters.items()})
    found = update_sharpness(still, noise(problem).vectors, batch_size=1)
    assert found.log_ratio is None
    for row in found.directions.values():
        assert row.sharpness is None
        assert row.why["sharpness"] == "the gradient is zero"


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_in_a_metric(case: Case, dense: bool) -> None:
    problem = case.problem(forms_hessian=dense)
    scale = _scale(problem)
    root = np.sqrt(problem.flatten(scale).numpy())
    wanted = np.abs(np.linalg.eigvalsh(_hessian(case.name) / np.outer(root, root))).max()
    found = preconditioned_sharpness(problem, scale)
    assert found.value == pytest.approx(wanted, rel=1e-9 if dense else 0.005)
    assert found.interval[0] <= wanted * (1 + 1e-9)
    assert found.interval[1] >= wanted * (1 - 1e-9)
    assert found.confidence == (1 if dense else pytest.approx(0.999))
    assert found.warnings == ()
    at_once = dense and case.name in ("softmax", "regression", "mlp")  # formed layer by layer
    assert found.cost.passes == pytest.approx(1 + (problem.d / 3 if at_once else 2 * found.products))
    huge = preconditioned_sharpness(problem, {name: 1e30 * part for name, part in scale.items()})
    assert huge.value == pytest.approx(1e-30 * found.value, rel=1e-9)


def test_one_as_scale_is_the_sharpness() -> None:
    problem = BY_NAME["mlp"].problem()
    found = preconditioned_sharpness(problem, {name: torch.ones_like(p) for name, p in problem.parameters.items()})
    assert found.value == pytest.approx(np.abs(np.linalg.eigvalsh(_hessian("mlp"))).max())


def test_the_interval_holds_as_often_as_it_says() -> None:
    problem = Problem(*quadratic(torch.diag(torch.linspace(-1, 1, 60).double() ** 3)), forms_hessian=False)
    one = {name: torch.ones_like(p) for name, p in problem.parameters.items()}
    runs = [preconditioned_sharpness(problem, one, steps=8, delta=0.3, seed=seed) for seed in range(200)]
    assert_covers(sum(run.interval[1] >= 1 for run in runs), len(runs), 0.7)
    assert sum(run.value >= 1 for run in runs) == 0
    assert {w.code for run in runs for w in run.warnings} == {"not-converged"}


def test_what_cannot_be_used_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    zero = {name: torch.zeros_like(p) for name, p in problem.parameters.items()}
    with pytest.raises(InputError, match="zero"):
        directional_sharpness(problem, zero)
    with pytest.raises(InputError, match="above 0"):
        preconditioned_sharpness(problem, zero)
    with pytest.raises(InputError, match="batch"):
        update_sharpness(problem, zero, batch_size=0)
    with pytest.raises(InputError, match="missing"):
        directional_sharpness(problem, {})
