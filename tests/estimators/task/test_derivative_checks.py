"""Derivatives that autograd gets wrong, and sound ones that look odd to a difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from estimators import InputError, Problem, noise, smoothness, spectrum
from estimators.task.derivative_checks import curvature_fault
from estimators.task.products import dense_hessian
from tests.estimators.wrong_derivatives import FIRST, SECOND, network, wine

# -- weight normalisation ---------------------------------------------------------------------------


class Written(nn.Module):
    """A layer with its weight as g v / |v|, one norm for each index of a dimension."""

    def __init__(self, layer: nn.Module, g: Tensor, v: Tensor, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(layer.bias.detach().clone())  # type: ignore[operator]
        self.g, self.v = nn.Parameter(g.detach().clone()), nn.Parameter(v.detach().clone())
        self.norms = [i for i in range(v.dim()) if i != dim]
        self.conv = isinstance(layer, nn.Conv1d)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.g * self.v / (self.v * self.v).sum(self.norms, keepdim=True).sqrt()
        return F.conv1d(x, weight, self.bias) if self.conv else x @ weight.T + self.bias


def old(layer: nn.Module, dim: int | None) -> nn.Module:
    normed: nn.Module = nn.utils.weight_norm(layer, dim=dim)  # type: ignore[arg-type]
    return normed


def new(layer: nn.Module, dim: int | None) -> nn.Module:
    normed: nn.Module = parametrizations.weight_norm(layer, dim=dim)  # type: ignore[arg-type]
    return normed


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("normed", [new, old])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_has_the_hessian_of_its_formula(normed: Callable[..., nn.Module], dim: int | None) -> None:
    """torch 2.13: 5 to 31% off where a dimension is kept."""
    torch.manual_seed(0)
    layers = [normed(nn.Linear(13, 8), dim).double(), normed(nn.Linear(8, 3), dim).double()]
    written = []
    for layer in layers:
        named = dict(layer.named_parameters())
        g, v = (next(p for name, p in named.items() if name.endswith(end)) for end in ends(normed))
        written.append(Written(layer, g, v, -1 if dim is None else dim))
    samples = wine()
    ours = Problem(nn.Sequential(layers[0], nn.GELU(), layers[1]), samples)
    theirs = Problem(nn.Sequential(written[0], nn.GELU(), written[1]), samples)
    assert ours.curvature_fault is None
    torch.testing.assert_close(dense_hessian(ours), dense_hessian(theirs), rtol=0, atol=1e-12)
    one, other = smoothness(ours, gap=0.01), smoothness(theirs, gap=0.01)
    assert one.l1_lower == pytest.approx(other.l1_lower, rel=1e-6)
    assert one.l1_upper == pytest.approx(other.l1_upper, rel=1e-6)


def ends(normed: Callable[..., nn.Module]) -> tuple[str, str]:
    return ("original0", "original1") if normed is new else ("_g", "_v")


def test_weight_norm_of_a_convolution() -> None:
    torch.manual_seed(1)
    layer = parametrizations.weight_norm(nn.Conv1d(2, 3, 2).double())
    g, v = layer.parametrizations["weight"].original0, layer.parametrizations["weight"].original1
    samples = torch.randn(9, 2, 4).double(), torch.randn(9, 3, 3).double()
    ours, theirs = (Problem(m, samples, "squared") for m in (layer, Written(layer, g, v, 0)))
    torch.testing.assert_close(dense_hessian(ours), dense_hessian(theirs), rtol=0, atol=1e-12)


# -- functions with a backward of their own -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SECOND)
def test_wrong_second_derivatives_are_refused_for_curvature_alone(name: str, dtype: torch.dtype) -> None:
    problem = Problem(network(SECOND[name], dtype), wine())
    assert problem.curvature_fault is not None
    plain = Problem(network(nn.Tanh(), dtype), wine())
    if name != "once differentiable":
        assert noise(problem).l1 == pytest.approx(noise(plain).l1, rel=1e-5)
    for measure in (smoothness, spectrum, dense_hessian):
        with pytest.raises(InputError, match="second derivative"):
            measure(problem)
    with pytest.raises(InputError, match="second derivative"):
        problem.at(problem.parameters).hessian_vector_product(problem.parameters)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FIRST)
def test_gradients_that_are_those_of_no_loss_are_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match="the gradient is not that of the loss"):
        Problem(network(FIRST[name], dtype), wine())


def test_a_factor_detached_in_the_loss_is_refused() -> None:
    def weighted(output: Tensor, targets: Tensor) -> Tensor:
        each = F.cross_entropy(output, targets, reduction="none")
        return each * (-each).exp().detach()

    with pytest.raises(InputError, match="the gradient is not that of the loss"):
        Problem(network(nn.Tanh()), wine(), weighted)


def test_a_hook_that_scales_gradients_is_refused() -> None:
    model = network(nn.Tanh())

    def doubled(_: nn.Module, inputs: Any, __: Any) -> Any:
        return tuple(2 * each for each in inputs)

    model.get_submodule("1").register_full_backward_hook(doubled)
    with pytest.raises(InputError, match="the gradient is not that of the loss"):
        Problem(model, wine())


@pytest.mark.parametrize("name", SECOND)
def test_in_its_own_format(name: str) -> None:
    """Without room for a copy in float64."""
    problem = Problem(network(SECOND[name], torch.float32), wine())
    assert curvature_fault(problem, double=False) is not None
    assert curvature_fault(Problem(network(nn.Tanh(), torch.float32), wine()), double=False) is None


# -- sound ones --------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Logistic regression on features of a size, from w = 0."""

    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e3, 1e12])
def test_features_of_any_size(size: float) -> None:
    x = size * torch.randn(40, 4, generator=torch.Generator().manual_seed(4))
    problem = Problem(Scaled(), (x, torch.sign(x[:, 0])), "logistic")
    assert problem.curvature_fault is None


def zero_bias(model: nn.Module) -> nn.Module:
    """Biases of 0 under a ReLU whose inputs are 0: w lies in kinks."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model


KINKS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor, Any]]] = {
    "relu at zero": lambda: (
        zero_bias(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))),
        torch.zeros(20, 5),
        torch.arange(20) % 3,
        "cross-entropy",
    ),
    "pooled ties": lambda: (
        zero_bias(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))),
        torch.zeros(20, 1, 6, 6).index_fill(3, torch.tensor([2]), 1.0),
        torch.arange(20) % 3,
        "cross-entropy",
    ),
    "absolute errors": lambda: (
        nn.Linear(3, 1, bias=False),
        torch.randn(20, 3),
        torch.randn(20),
        lambda output, targets: (output[:, 0] - targets).abs(),
    ),
    "hinge": lambda: (
        nn.Linear(3, 1),
        torch.randn(20, 3),
        torch.randn(20).sign(),
        lambda output, targets: (1 - output[:, 0] * targets).clamp_min(0),
    ),
    "a perfect fit": lambda: (
        zero_bias(nn.Linear(3, 1)),
        torch.zeros(20, 3),
        torch.zeros(20),
        "squared",
    ),
    "one sample": lambda: (nn.Linear(3, 2), torch.randn(1, 3), torch.tensor([1]), "cross-entropy"),
    "layer norm": lambda: (
        nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)),
        torch.randn(20, 3),
        torch.arange(20) % 2,
        "cross-entropy",
    ),
    "spectral norm": lambda: (
        parametrizations.spectral_norm(nn.Linear(3, 2)),
        torch.randn(20, 3),
        torch.arange(20) % 2,
        "cross-entropy",
    ),
    "padding": lambda: (
        nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)),
        torch.arange(60).reshape(20, 3) % 7,
        torch.arange(20) % 2,
        "cross-entropy",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KINKS)
def test_sound_models_are_not_refused(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    model, inputs, targets, loss = KINKS[name]()
    problem = Problem(model.to(dtype), (inputs, targets), loss)
    assert problem.curvature_fault is None


def confident(dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A classifier so sure of its labels that its losses round to 0."""
    torch.manual_seed(0)
    x, model = torch.randn(64, 20), nn.Linear(20, 2)
    model.weight.data.mul_(100)
    scores = model(x).detach()
    sure = (scores[:, 0] - scores[:, 1]).abs() > 35
    return model.to(dtype), (x[sure].to(dtype), scores.argmax(1)[sure])


def chaotic(layers: int, gain: float) -> nn.Module:
    """Small steps in the weights are blown up beyond all bounds."""
    torch.manual_seed(1)
    model = nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(20, 20), nn.Tanh())), nn.Linear(20, 3))
    for module in model:
        if isinstance(module, nn.Linear):
            module.weight.data *= gain
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_that_round_to_zero_tell_nothing(dtype: torch.dtype) -> None:
    model, samples = confident(dtype)
    assert Problem(model, samples).curvature_fault is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("layers", "gain"), [(30, 3.0), (60, 5.0)])
def test_chaos_tells_nothing(layers: int, gain: float, dtype: torch.dtype) -> None:
    model = chaotic(layers, gain).to(dtype)
    assert Problem(model, (torch.randn(64, 20, dtype=dtype), torch.arange(64) % 3)).curvature_fault is None


def test_raw_features_of_thousands_are_not_refused() -> None:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 3))
    assert Problem(model, (1e3 * torch.randn(64, 20), torch.arange(64) % 3)).curvature_fault is None


class Doubled(torch.autograd.Function):
    """The identity, whose backward doubles the gradient of rows that begin above 0.1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x[:, :1] > 0.1, 2 * grad, grad)


def test_a_gradient_that_is_wrong_for_some_samples() -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = Doubled.apply(x)  # type: ignore[no-untyped-call]
            return result

    torch.manual_seed(9)
    model = nn.Sequential(nn.Linear(20, 20), Rows(), nn.Linear(20, 3))
    with pytest.raises(InputError, match="the gradient is not that of the loss"):
        Problem(model, (torch.randn(400, 20), torch.arange(400) % 3))


def test_many_kinks_in_a_models_own_format_are_no_fault() -> None:
    """A step of 0.001 crosses kinks that add to the curvature, and another step others."""
    torch.manual_seed(6)
    layers = [nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3)]
    problem = Problem(nn.Sequential(*layers), (torch.randn(64, 20), torch.arange(64) % 3))
    assert curvature_fault(problem, double=False) is None


def test_a_few_passes() -> None:
    problem = Problem(network(nn.ReLU(), torch.float32), wine())
    assert 0 < problem.passes.total < 1


def test_the_seed_of_the_check_is_its_own() -> None:
    torch.manual_seed(7)
    before = torch.rand(3)
    torch.manual_seed(7)
    Problem(network(nn.ReLU()), wine())
    torch.manual_seed(7)
    assert np.array_equal(before.numpy(), torch.rand(3).numpy())
