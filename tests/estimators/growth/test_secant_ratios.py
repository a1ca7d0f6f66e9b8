"""secants(): the ratios, and the finding where two ends of a step are draws of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import InputError, Problem, generalized_smoothness, secants
from estimators.growth.secant_ratios import Secants
from tests.diagnose.training.tasks import logistic, network, quadratic
from tests.markers import seeds

TASKS: dict[str, Callable[[], Problem]] = {"logistic": logistic, "mlp": network}


def recorded(problem: Problem, rate: float, steps: int, seed: int, batch: int, same: bool) -> Secants:
    """Secants along SGD: of each step's own batch, or all of one fixed batch."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randperm(problem.n, generator=generator)[:batch]

    fixed, here, points, gradients = draw(), problem, [], []
    for _ in range(steps):
        step = here.subset(draw()).gradient()
        points.append(here.parameters)
        gradients.append(here.subset(fixed).gradient() if same else step)
        here = here.at({name: p - rate * step[name] for name, p in here.parameters.items()})
    return secants(points, gradients)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("repeats", seeds(5))
def test_different_batches_at_the_two_ends_raise_the_warning(name: str, batch: int, repeats: range) -> None:
    found = [recorded(TASKS[name](), 0.1, 80, seed, batch, same=False) for seed in repeats]
    assert all([finding.code for finding in each.warnings] == ["step-length"] for each in found)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("repeats", seeds(5))
def test_one_batch_at_both_ends_does_not(name: str, batch: int, repeats: range) -> None:
    for seed in repeats:
        found = recorded(TASKS[name](), 0.1, 80, seed, batch, same=True)
        assert found.warnings == ()
        assert found.difference_cosines is not None


def test_an_oscillating_run_is_no_draw() -> None:
    """Steps beyond 2/lambda: the gradient turns round each time, on the same samples."""
    problem = quadratic(torch.tensor([1.0, 0.1, 0.01]), torch.zeros(3))
    here, points, gradients = problem, [], []
    for _ in range(30):
        points.append(here.parameters)
        gradients.append(here.gradient())
        here = here.at({name: p - 1.9 * gradients[-1][name] for name, p in here.parameters.items()})
    found = secants(points, gradients)
    assert found.difference_cosines is not None
    assert found.difference_cosines[0] < -0.7
    assert found.difference_cosines[1] > 0.5
    assert found.warnings == ()


def test_where_noise_rules_the_ratio_is_root_two_over_the_step_whatever_the_loss() -> None:
    """||dg|| / ||g|| is sqrt(2), though the curvature of this loss is 0.001."""
    problem = quadratic(torch.full((50,), 1e-3), torch.full((50,), 100.0))
    found = recorded(problem, 0.1, 40, seed=0, batch=1, same=False)
    assert [finding.code for finding in found.warnings] == ["step-length"]
    ratios = np.array([r for r in found.ratios if r is not None])
    # A step is 0.1 ||g||, so ||dg||/||dw|| is sqrt(2)/0.1.
    assert np.median(ratios) == pytest.approx(math.sqrt(2) / 0.1, rel=0.05)
    honest = recorded(problem, 0.1, 40, seed=0, batch=1, same=True)
    assert [r for r in honest.ratios if r is not None] == pytest.approx([1e-3] * 39, rel=1e-3)


def test_the_numbers_are_those_of_the_formulas() -> None:
    points = [
        {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[0.0]])},
        {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])},
    ]
    gradients = [
        {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[0.0]])},
        {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[1.0]])},
    ]
    found = secants([*points, points[1]], [*gradients, gradients[1]])
    assert found.steps == pytest.approx([5.0, 0.0])
    assert found.ratios == [pytest.approx(0.2), None]
    assert found.cosines == pytest.approx([math.sqrt(0.5), 1.0])
    assert found.difference_cosines is None
    assert "did not move" in found.why["ratios"]
    assert "20 are needed" in found.why["difference_cosines"]
    assert found.warnings == ()


def test_secants_of_a_quadratic_follow_its_gradient_where_curvature_shows_none() -> None:
    """Why they fit no L1: descent removes sharp directions first."""
    problem = quadratic(torch.logspace(-3, 0, 30), torch.zeros(30))
    here, points, gradients = problem, [], []
    for _ in range(60):
        points.append(here.parameters)
        gradients.append(here.gradient())
        here = here.at({name: p - 0.5 * gradients[-1][name] for name, p in here.parameters.items()})
    found = secants(points, gradients)
    norms = [float(problem.flatten(g).norm()) for g in gradients[:-1]]
    assert found.ratios[0] is not None
    assert np.corrcoef(np.array(found.ratios, dtype=float), norms)[0, 1] > 0.8
    measured = generalized_smoothness(problem, points[::5])
    assert measured.isotropic is None or measured.isotropic["l1"] == 0


def _made(count: int, value: float = 1.0) -> list[dict[str, Tensor]]:
    return [{"w": torch.full((2,), value * k)} for k in range(count)]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="2 gradients at 3 points"):
        secants(_made(3), _made(2))
    with pytest.raises(InputError, match="1 points make no step"):
        secants(_made(1), _made(1))
    with pytest.raises(InputError, match="a parameter is missing"):
        secants(_made(2), [{"v": torch.zeros(2)}] * 2)
    with pytest.raises(InputError, match="shape"):
        secants(_made(2), [{"w": torch.zeros(3)}] * 2)
    with pytest.raises(InputError, match=r"gradients\[1\]"):
        secants(_made(2), [{"w": torch.zeros(2)}, {"w": torch.tensor([0.0, float("nan")])}])
