"""What a problem measures, against differences of losses: gradient, sigma and products with the Hessian.

No derivative of autograd is taken at its word. Per-sample gradients come from ``backward`` one sample at a time and
have to be the slopes of the samples' losses along random vectors; sigma is computed from them. A product with the
Hessian has to be the slope of the gradient, and its own product with another vector a second difference of the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import pytest
import torch
from _pytest.mark.structures import ParameterSet

from estimators import InputError, Problem, noise
from tests import differences, oracles
from tests.differences import Array
from tests.problems import Parts

SLOPE, SECOND = 1e-7, 1e-4
"""Relative to the largest number. First differences err by 1e-9 or so, second ones by 1e-6; the fused weight norm of
torch, whose double backward is wrong, is off by 0.1 and more."""


class Tried(Protocol):
    """A row of a table of models, with the faults that are known: see :class:`tests.torch_layers.Layer`."""

    @property
    def known(self) -> Mapping[str, str]: ...


class Case(Tried, Protocol):
    """A module of torch."""

    @property
    def covers(self) -> str: ...

    @property
    def curvature(self) -> str: ...

    def parts(self) -> Parts: ...


def expected(cases: Iterable[Tried], what: str) -> list[ParameterSet]:
    """Cases as parameters of a test of ``what``; one whose fault is known must fail until it is mended."""
    return [
        pytest.param(
            case,
            id=str(case),
            marks=[pytest.mark.xfail(strict=True, reason=case.known[what])] if what in case.known else [],
        )
        for case in cases
    ]


def assert_no_curvature(case: Case) -> None:
    """Products with the Hessian are refused with the reason."""
    problem = Problem(*case.parts())
    with pytest.raises(InputError, match=case.curvature):
        problem.hessian_vector_product(problem.parameters)


def assert_gradients(problem: Problem, parts: Parts) -> None:
    """The mean gradient and sigma are those of per-sample gradients which differences confirm."""
    rows = oracles.per_sample_gradients(parts)
    leaves = list(parts[0].parameters())
    for seed in range(2):
        v = oracles.random_direction(parts[0], seed)

        def losses_at(t: float, v: Array = v) -> Array:
            with oracles.moved(leaves, t * v), torch.no_grad():
                return oracles.losses(parts).numpy()

        assert differences.disagreement(rows @ v, losses_at) <= SLOPE
    size = np.abs(rows).max()
    assert size > 0
    for ours, wanted in ((problem.gradient(), rows.mean(0)), (noise(problem).vectors, rows.std(0))):
        flat = problem.flatten(ours).numpy()
        np.testing.assert_allclose(flat, wanted, rtol=0, atol=1e-10 * size)


def assert_products(problem: Problem, parts: Parts) -> None:
    """H v by the slope of the gradient, and u'H v by second differences of the loss."""
    leaves = list(parts[0].parameters())
    u, v = (oracles.random_direction(parts[0], seed) for seed in (2, 3))
    found = problem.hessian_vector_product(problem.unflatten(torch.from_numpy(v)))
    product = problem.flatten(found).numpy()

    def gradient_at(t: float) -> Array:
        with oracles.moved(leaves, t * v):
            return oracles.gradient(parts)

    def loss_at(s: float, t: float) -> Array:
        with oracles.moved(leaves, s * u + t * v), torch.no_grad():
            return oracles.losses(parts).mean().numpy()

    assert differences.disagreement(product, gradient_at) <= SLOPE
    size = np.abs(product).max() + np.abs(u @ product)
    second = min(abs(float(differences.mixed(loss_at, h)) - u @ product) for h in (3e-2, 3e-3, 3e-4))
    assert second <= SECOND * size, second / size
