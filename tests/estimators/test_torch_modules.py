"""Every layer and every loss of torch.nn: noise, gradient and products with the Hessian against differences of losses.

Where torch has no second derivative the noise is right all the same and curvature is refused with its reason.
"""

from __future__ import annotations

import inspect

import pytest
from torch import nn

from estimators import InputError, Problem
from tests.measured import Case, assert_gradients, assert_no_curvature, assert_products, expected
from tests.torch_layers import ABSENT, LAYERS, Layer
from tests.torch_losses import LOSSES

pytestmark = pytest.mark.sweep
MEASURED: list[Case] = [*(layer for layer in LAYERS if not layer.refused), *LOSSES]


def test_no_class_of_torch_is_forgotten() -> None:
    """A version of torch that brings another layer or loss fails here until it is tried, or left out with a reason."""
    classes = {name for name, each in vars(nn).items() if inspect.isclass(each) and issubclass(each, nn.Module)}
    cases: list[Case] = [*LAYERS, *LOSSES]
    tried = {case.covers for case in cases}
    assert tried | ABSENT.keys() == classes
    assert not tried & ABSENT.keys()


@pytest.mark.parametrize("case", expected(MEASURED, "gradients"))
def test_gradients(case: Case) -> None:
    parts = case.parts()
    assert_gradients(Problem(*parts), parts)


@pytest.mark.parametrize("case", expected([case for case in MEASURED if not case.curvature], "products"))
def test_products(case: Case) -> None:
    parts = case.parts()
    assert_products(Problem(*parts), parts)


@pytest.mark.parametrize("case", expected([case for case in MEASURED if case.curvature], "curvature"))
def test_no_second_derivative(case: Case) -> None:
    assert_no_curvature(case)


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.refused], ids=str)
def test_refused(layer: Layer) -> None:
    """Layers that couple samples, or draw random numbers."""
    with pytest.raises(InputError, match=layer.refused):
        Problem(*layer.parts())
