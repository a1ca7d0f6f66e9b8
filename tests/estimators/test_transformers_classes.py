"""Many classes of transformers: noise, gradient and products with the Hessian against differences of the model's own
loss of one sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from estimators import InputError, Problem, noise
from tests import differences
from tests.measured import SLOPE, expected
from tests.transformers_classes import CLASSES, Class
from tests.transformers_oracles import Oracle, Wide

pytestmark = pytest.mark.sweep
MEASURED = [each for each in CLASSES if not each.refused]


def test_there_are_sixty() -> None:
    assert len({each.name for each in MEASURED}) >= 60


@pytest.mark.parametrize("case", expected(MEASURED, "gradients"))
def test_gradients(case: Class) -> None:
    model, samples = case.model(), case.samples()
    oracle = Oracle(model, samples)
    rows, v = oracle.rows().numpy(), oracle.direction()
    assert differences.disagreement(rows @ v, oracle.losses_along(v)) <= SLOPE
    with Wide():
        problem = Problem(model, samples)
        gradient, sigma = problem.flatten(problem.gradient()), problem.flatten(noise(problem).vectors)
    size = np.abs(rows).max()
    np.testing.assert_allclose(gradient.numpy(), rows.mean(0), rtol=0, atol=1e-10 * size)
    np.testing.assert_allclose(sigma.numpy(), rows.std(0), rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize("case", expected(MEASURED, "products"))
def test_products(case: Class) -> None:
    model, samples = case.model(), case.samples()
    oracle = Oracle(model, samples)
    v = oracle.direction(1)
    with Wide():
        problem = Problem(model, samples)
        found = problem.hessian_vector_product(problem.unflatten(torch.from_numpy(v)))
    product = problem.flatten(found).numpy()
    assert differences.disagreement(product, oracle.gradient_along(v)) <= SLOPE


@pytest.mark.parametrize("case", [each for each in CLASSES if each.refused], ids=str)
def test_refused(case: Class) -> None:
    with pytest.raises(InputError, match=case.refused), Wide():
        Problem(case.model(), case.samples())
