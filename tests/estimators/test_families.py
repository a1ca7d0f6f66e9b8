"""Every estimator through every family of checks, and for each family a wrong estimator that must fail it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from estimators import generalized_smoothness, hessian_diagonal, noise, smoothness, spectrum
from estimators.task.problem import Problem
from tests import checks
from tests.checks import Estimator
from tests.markers import marked
from tests.problems import BY_NAME, CASES, Case

NOISE = Estimator(
    "noise",
    noise,
    {
        "l1": 1,
        "l2": 1,
        "sqrt_d_l2": 1,
        "density": 0,
        "density_live": 0,
        "density_interval": 0,
        "l1_interval": 1,
        "dead_fraction": 0,
        "effective_dimension": 0,
        "noise_scale_l1": 0,
        "noise_scale_l2": 0,
        "gradient_l1": 1,
        "gradient_l2": 1,
        "vectors": 1,
    },
)
SPECTRUM = Estimator(
    "spectrum",
    spectrum,
    {
        "largest": 1,
        "smallest": 1,
        "eigenvalues": 1,
        "largest_lower": 1,
        "largest_upper": 1,
        "smallest_lower": 1,
        "smallest_upper": 1,
        "rounding": 1,
        "confidence": 0,
    },
)
DIAGONAL = Estimator(
    "hessian_diagonal",
    lambda problem: hessian_diagonal(problem, probes=4),
    {
        "abs_sum": 1,
        "abs_sum_interval": 1,
        "trace": 1,
        "trace_interval": 1,
        # negative_fraction is left out: the loss does not depend on attention's key biases, and the sign of their
        # curvature is that of rounding.
        "vectors": 1,
        "lower": 1,
        "upper": 1,
        "standard_error": 1,
    },
)
SMOOTHNESS = Estimator(
    "smoothness",
    lambda problem: smoothness(problem, max_products=40),
    {
        "l1_lower": 1,
        "l1_upper": 1,
        "confidence": 0,
        "sharpness": 1,
        "sharpness_interval": 1,
        "density": 0,
        "diagonal_sum": 1,
        "row_norm_sum": 1,
        "hessian_11": 1,
        "vectors": 1,
    },
)


def _along_a_line(problem: Problem) -> Any:
    """Six points from far out towards 0, where gradients of these problems span the range that a fit asks for."""
    points = [{name: s * p for name, p in problem.parameters.items()} for s in (6.0, 4.0, 2.5, 1.0, 0.3, 0.05)]
    return generalized_smoothness(problem, points, max_products=40)


GENERALIZED = Estimator(
    "generalized_smoothness",
    _along_a_line,
    {"l0_l1": 1, "l1_median": 0, "helps_fraction": 0, "coverage": 0, "l0": 1, "l1": 0, "vectors": 0},
    tolerance=1e-6,
)
ESTIMATORS = (NOISE, SPECTRUM, DIAGONAL, SMOOTHNESS, GENERALIZED)
PAIRS = [(e, c) for e in ESTIMATORS for c in CASES if e is not GENERALIZED or c.small]
FAST = [(e, c) for e, c in PAIRS if c.name in ("rotated", "logistic", "mlp", "unseen-token")]


@pytest.mark.parametrize(("estimator", "case"), marked("sweep", PAIRS, FAST), ids=str)
@pytest.mark.parametrize("family", checks.FAMILIES, ids=lambda f: f.__name__)
def test_family(estimator: Estimator, family: Callable[[Estimator, Case], None], case: Case) -> None:
    family(estimator, case)


# -- negative controls: wrong in one way each ------------------------------------------------------


def _biased(problem: Problem) -> Any:
    """Adds a constant: no longer proportional to f."""
    result = noise(problem)
    return replace(result, l1=(result.l1 or 0.0) + 0.01)


def _first_samples(problem: Problem) -> Any:
    """Looks at the first half of the samples alone."""
    return noise(problem.subset(torch.arange(max(2, problem.n // 2))))


def _unseeded(problem: Problem) -> Any:
    """Draws from the global random state."""
    result = noise(problem)
    return replace(result, l1=(result.l1 or 0.0) * (1 + 1e-12 * float(torch.rand(()))))


def _by_chunk(problem: Problem) -> Any:
    """Averages the standard deviations of chunks, as if they were independent of their size."""
    parts = [
        noise(problem.subset(torch.arange(start, min(start + problem.chunk, problem.n)))).l1 or 0.0
        for start in range(0, problem.n, problem.chunk)
    ]
    return replace(noise(problem), l1=sum(parts) / len(parts))


def _trains(problem: Problem) -> Any:
    """Leaves the model in evaluation mode."""
    problem.model.eval()
    return noise(problem)


def _leaves_gradients(problem: Problem) -> Any:
    for parameter in problem.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return noise(problem)


def _draws(problem: Problem) -> Any:
    torch.rand(1)
    return noise(problem)


def _nudges(problem: Problem) -> Any:
    with torch.no_grad():
        next(problem.model.parameters()).mul_(1 + 1e-12)
    return noise(problem)


CONTROLS = (
    (_biased, checks.scales),
    (_first_samples, checks.ignores_order),
    (_unseeded, checks.repeats),
    (_by_chunk, checks.ignores_chunks),
    (_trains, checks.leaves_model),
    (_leaves_gradients, checks.leaves_model),
    (_draws, checks.leaves_model),
    (_nudges, checks.leaves_model),
)


@pytest.mark.parametrize(("wrong", "family"), CONTROLS, ids=lambda f: f.__name__)
def test_a_wrong_estimator_fails(wrong: Callable[[Problem], Any], family: Callable[[Estimator, Case], None]) -> None:
    with pytest.raises(AssertionError):
        family(replace(NOISE, name="wrong", measure=wrong), BY_NAME["mlp"])


def test_every_family_has_a_control() -> None:
    assert {family for _, family in CONTROLS} == set(checks.FAMILIES)
