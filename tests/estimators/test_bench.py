"""The test bench itself: bands that reject, a package that loads no torch, cases that are what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import Problem, noise
from tests import measured, oracles
from tests.problems import BY_NAME, CASES, Case
from tests.statistics import assert_calibrated, assert_covers, fewest, most


def test_the_band_rejects_what_covers_too_rarely_or_too_often() -> None:
    assert_covers(285, 300, 0.95)
    assert_calibrated(285, 300, 0.95)
    assert_covers(300, 300, 0.95)
    with pytest.raises(AssertionError, match="no more than"):
        assert_calibrated(300, 300, 0.95)
    with pytest.raises(AssertionError, match="no fewer than"):
        assert_covers(255, 300, 0.95)
    assert fewest(300, 0.95) < 285 < most(300, 0.95)


def test_a_correct_interval_passes_the_band() -> None:
    generator = np.random.default_rng(0)
    for hits in generator.binomial(300, 0.95, 200):
        assert_covers(int(hits), 300, 0.95)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, estimators, estimators.results, estimators.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cases_have_their_own_names() -> None:
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_are_fresh_and_the_same(case: Case) -> None:
    (one, _, _), (other, _, _) = case.parts(), case.parts()
    assert one is not other
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert a is not b
        assert a.equal(b)
        assert str(a.dtype) == "torch.float64"


def test_the_oracle_knows_a_derivative() -> None:
    """Logistic regression by its textbook formulas."""
    model, samples, _ = BY_NAME["logistic"].parts()
    assert isinstance(samples, tuple)
    x, y = (part.numpy() for part in samples)
    w = next(model.parameters()).detach().numpy()
    p = 1 / (1 + np.exp(y * (x @ w)))
    parts = BY_NAME["logistic"].parts()
    np.testing.assert_allclose(oracles.per_sample_gradients(parts), -(p * y)[:, None] * x, rtol=1e-12)
    np.testing.assert_allclose(oracles.hessian(parts), (x.T * (p * (1 - p))) @ x / len(x), rtol=1e-11)


def test_the_oracle_knows_a_dominating_diagonal() -> None:
    assert oracles.smallest_diagonal(np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(2, rel=1e-6)
    assert oracles.smallest_diagonal(np.diag([1.0, -2.0, 0.0])) == pytest.approx(3, rel=1e-6)


def test_the_oracle_refuses_a_double_backward_that_is_wrong() -> None:
    """x^3 with the gradient of another function, and with a gradient that has no derivative."""
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    for function, message in ((SlopeOfSquare, "the gradient of autograd"), (FrozenSlope, "the double backward")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 3), Cubed(function), nn.Linear(3, 2)).double()
        parts = model, (x, torch.arange(5) % 2), "cross-entropy"
        oracles.per_sample_gradients(parts)
        with pytest.raises(AssertionError, match=message):
            oracles.hessian(parts)


class SlopeOfSquare(torch.autograd.Function):
    """x^3 with 2x as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        product: Tensor = upstream[0] * 2 * x
        return product


class FrozenSlope(torch.autograd.Function):
    """x^3 whose derivative is kept as a number: right, and without a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = 3 * x.detach() ** 2
        return x**3

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        product: Tensor = upstream[0] * ctx.slope
        return product


class Cubed(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.function.apply(x)  # type: ignore[no-untyped-call]
        return output


def test_measured_values_that_are_wrong_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part in a million, in sigma, in the gradient, in a product."""
    parts = BY_NAME["mlp"].parts()
    problem = Problem(*parts)
    measured.assert_gradients(problem, parts)
    measured.assert_products(problem, parts)
    right = problem.gradient, problem.hessian_vector_product

    def scaled(function: Callable[..., dict[str, Tensor]], factor: float) -> Callable[..., dict[str, Tensor]]:
        return lambda *arguments: {name: factor * part for name, part in function(*arguments).items()}

    monkeypatch.setattr(problem, "gradient", scaled(right[0], 1 + 1e-6))
    with pytest.raises(AssertionError):
        measured.assert_gradients(problem, parts)
    monkeypatch.setattr(problem, "gradient", right[0])
    wrong = SimpleNamespace(vectors=scaled(lambda: dict(noise(problem).vectors), 1 + 1e-6)())
    monkeypatch.setattr(measured, "noise", lambda problem: wrong)
    with pytest.raises(AssertionError):
        measured.assert_gradients(problem, parts)
    monkeypatch.setattr(problem, "hessian_vector_product", scaled(right[1], 1 + 1e-6))
    with pytest.raises(AssertionError):
        measured.assert_products(problem, parts)
