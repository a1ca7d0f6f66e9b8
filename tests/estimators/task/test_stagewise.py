"""Closed forms of plain networks against central differences of gradients that are written out here, in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, expit
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from estimators import InputError, Problem, hessian_diagonal
from estimators.diagonal.gauss_newton import rest
from estimators.task import plain_networks, stagewise
from estimators.task.plain_networks import plain_network
from estimators.task.products import dense_hessian, forming_passes, hessian

Array = NDArray[np.float64]
N, FEATURES, STEP = 11, 4, 1e-5


def _gelu_slope(z: Array) -> Array:
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    slope: Array = 0.5 * (1 + erf(z / np.sqrt(2))) + z * density
    return slope


FUNCTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (nn.Tanh, np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (nn.ReLU, lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "gelu": (nn.GELU, lambda z: z * 0.5 * (1 + erf(z / np.sqrt(2))), _gelu_slope),
    "sigmoid": (nn.Sigmoid, expit, lambda z: expit(z) * (1 - expit(z))),
    "none": (nn.Identity, lambda z: z, np.ones_like),
}
"""The module, the function and its slope."""
SHAPES: dict[str, tuple[list[int], list[str], bool]] = {
    "one": ([], ["none"], True),
    "one-without-bias": ([], ["none"], False),
    "tanh": ([5, 3], ["tanh", "tanh", "none"], True),
    "relu": ([5, 6], ["relu", "relu", "none"], False),
    "gelu": ([3, 7], ["gelu", "gelu", "none"], True),
    "mixed": ([5, 2, 4, 3], ["relu", "none", "tanh", "relu", "sigmoid"], True),
}
"""Widths of the hidden layers, the function behind each layer, whether there are biases."""


def _network(shape: str, outputs: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    widths, functions, bias = SHAPES[shape]
    torch.manual_seed(3)
    ends = [FEATURES, *widths, outputs]
    chain: list[nn.Module] = [nn.Flatten()]
    for a, b, name in zip(ends[:-1], ends[1:], functions, strict=True):
        chain += [nn.Linear(a, b, bias), FUNCTIONS[name][0]()]
    return nn.Sequential(*chain).to(dtype)


def _targets(loss: str, outputs: int) -> Tensor:
    if loss == "logistic":
        return torch.arange(N) % 2 * 2.0 - 1
    generator = torch.Generator().manual_seed(5)
    return torch.arange(N) % outputs if loss == "cross-entropy" else torch.randn(N, outputs, generator=generator)


def _problem(shape: str, loss: str, dtype: torch.dtype = torch.float64, formed: bool = True) -> Problem:
    outputs = 1 if loss == "logistic" else 3
    x = torch.randn(N, 2, FEATURES // 2, generator=torch.Generator().manual_seed(4), dtype=dtype)
    targets = _targets(loss, outputs)
    samples = (x, targets if loss == "cross-entropy" else targets.to(dtype))
    return Problem(_network(shape, outputs, dtype), samples, loss, forms_hessian=formed)


def _pair(problem: Problem) -> tuple[Tensor, Tensor]:
    assert not isinstance(problem.samples, dict)
    return problem.samples


def _gradient(w: Array, shape: str, loss: str, x: Array, y: Array) -> Array:
    """The gradient of the mean loss, by the chain rule, with the coordinates in the order of the modules."""
    widths, functions, bias = SHAPES[shape]
    ends: list[int] = [FEATURES, *widths, 1 if loss == "logistic" else 3]
    layers: list[tuple[Array, Array]] = []
    start = 0
    for a, b in itertools.pairwise(ends):
        weight = w[start : start + a * b].reshape(b, a)
        start += a * b
        shift = w[start : start + b] if bias else np.zeros(b)
        start += b if bias else 0
        layers.append((weight, shift))
    inputs: list[Array] = []
    scores: list[Array] = []
    for (weight, shift), name in zip(layers, functions, strict=True):
        inputs.append(x)
        scores.append(x @ weight.T + shift)
        x = FUNCTIONS[name][1](scores[-1])
    if loss == "cross-entropy":
        e = np.exp(x - x.max(1, keepdims=True))
        e = e / e.sum(1, keepdims=True) - np.eye(3)[y.astype(int)]
    elif loss == "squared":
        e = x - y
    else:
        e = -y[:, None] * expit(-y[:, None] * x)
    parts: list[Array] = []
    for (weight, _), name, below, z in zip(layers[::-1], functions[::-1], inputs[::-1], scores[::-1], strict=True):
        delta = e * FUNCTIONS[name][2](z)
        parts = [(delta.T @ below).ravel(), *([delta.sum(0)] if bias else []), *parts]
        e = delta @ weight
    return np.concatenate(parts) / len(y)


def _differences(problem: Problem, shape: str, loss: str) -> Array:
    """H by central differences of that gradient."""
    w = problem.flatten(problem.parameters).double().numpy()
    inputs, targets = _pair(problem)
    x, y = inputs.flatten(1).double().numpy(), targets.double().numpy()
    ours = problem.flatten(problem.gradient()).double().numpy()
    np.testing.assert_allclose(
        _gradient(w, shape, loss, x, y), ours, atol=1e-6 if problem.dtype == torch.float32 else 1e-14
    )
    steps = np.eye(len(w)) * STEP
    ends = [(_gradient(w + e, shape, loss, x, y), _gradient(w - e, shape, loss, x, y)) for e in steps]
    return np.stack([(ahead - behind) / (2 * STEP) for ahead, behind in ends], 1)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared", "logistic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_differences_of_written_out_gradients(shape: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole matrix, the diagonal and products with a block, whole and in pieces of the samples and the columns."""
    problem = _problem(shape, loss)
    wanted = _differences(problem, shape, loss)
    block = torch.randn(problem.d, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    tolerance = 1e-8 * np.abs(wanted).max()
    whole = plain_networks.HELD, stagewise.CACHED
    for chunk, (held, cached) in ((N, whole), (4, whole), (N, (1, 1))):
        monkeypatch.setattr(plain_networks, "HELD", held)
        monkeypatch.setattr(stagewise, "CACHED", cached)
        fresh = problem.at(problem.parameters)
        fresh.chunk = chunk
        with hessian(fresh) as product:
            np.testing.assert_allclose(product(block).numpy(), wanted @ block.numpy(), rtol=0, atol=5 * tolerance)
            assert product.products == 3
        network = plain_network(fresh)
        assert network is not None
        with fresh.measuring():
            diagonal = stagewise.diagonal(network, torch.float64)
        np.testing.assert_allclose(diagonal.numpy(), wanted.diagonal(), rtol=0, atol=tolerance)
        matrix = dense_hessian(fresh)
        np.testing.assert_allclose(matrix.numpy(), wanted, rtol=0, atol=tolerance)
        assert torch.equal(matrix, matrix.T)


def test_the_curvature_near_a_perfect_fit() -> None:
    """p (1 - p) of float32 scores 20 apart: in float32 nothing would be left of 1 - p."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[20.0], [0.0]]))
    problem = Problem(model, (torch.ones(3, 1), torch.zeros(3, dtype=torch.long)))
    p = np.exp(-20) / (1 + np.exp(-20))
    wanted = p * (1 - p) * np.array([[1.0, -1.0], [-1.0, 1.0]])
    np.testing.assert_allclose(dense_hessian(problem).numpy(), wanted, rtol=1e-6)
    network = plain_network(problem)
    assert network is not None
    np.testing.assert_allclose(stagewise.diagonal(network, torch.float32).numpy(), wanted.diagonal(), rtol=1e-6)


def test_passes_are_counted() -> None:
    """A block of products two passes each beside the first one; the matrix d/3; the diagonal by what multiplies."""
    problem = _problem("mixed", "cross-entropy")

    def counted(call: Callable[[], object]) -> float:
        before = problem.passes.total
        call()
        return problem.passes.total - before

    def block() -> None:
        with hessian(problem) as product:
            product(torch.ones(problem.d, 4, dtype=torch.float64))

    network = plain_network(problem)
    assert network is not None
    assert counted(block) == pytest.approx(9)
    # Behind the last layer lies a sigmoid: C itself goes down, by layers of 3 x 3, 3 x 4, 4 x 2 and 2 x 5.
    rows = 9 * (3 + 3) + 12 * (3 + 4) + 8 * (4 + 2) + 10 * 2
    assert counted(lambda: stagewise.diagonal(network, torch.float64)) == pytest.approx(1 + rows / (3 * problem.d))
    assert counted(lambda: dense_hessian(problem)) == pytest.approx(forming_passes(problem))
    assert forming_passes(problem) == pytest.approx(1 + problem.d / 3)
    assert counted(lambda: dense_hessian(problem)) == 0  # formed once
    piecewise = plain_network(_problem("relu", "squared"))
    assert piecewise is not None
    assert stagewise.diagonal_passes(piecewise) == pytest.approx(1 + 3 * (30 + 18) / (3 * (20 + 30 + 18)))


def test_samples_stay_as_they_are() -> None:
    """Modules in front of the first layer work in place."""
    x = torch.randn(6, 4, dtype=torch.float64)
    before, targets = x.clone(), torch.arange(6) % 3
    torch.manual_seed(7)
    layer = nn.Linear(4, 3).double()
    problem = Problem(nn.Sequential(nn.ReLU(inplace=True), layer), (x, targets))
    assert plain_network(problem) is not None
    found = dense_hessian(problem)
    assert torch.equal(x, before)
    torch.testing.assert_close(found, dense_hessian(Problem(layer, (before.relu(), targets))), rtol=0, atol=1e-15)


# -- what is no plain network ----------------------------------------------------------------------


def _tied() -> nn.Module:
    chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    chain[2].weight = chain[0].weight
    return chain


def _twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def _frozen() -> nn.Module:
    chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    chain[0].weight.requires_grad_(False)
    return chain


def _hooked(add: str) -> nn.Module:
    chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))

    def doubled(module: nn.Module, inputs: Any, output: Tensor | None = None) -> Any:
        return (2 * inputs[0],) if output is None else 2 * output

    getattr(chain[1], add)(doubled)
    return chain


def _hooked_whole() -> nn.Module:
    chain = nn.Sequential(nn.Linear(4, 3))
    chain.register_forward_hook(lambda module, inputs, output: 2 * output)
    return chain


def _patched() -> nn.Module:
    chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    vars(chain[1])["forward"] = torch.sin
    return chain


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = 2 * module(x)
        return x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tied": _tied,
    "one layer twice": _twice,
    "frozen": _frozen,
    "hook": lambda: _hooked("register_forward_hook"),
    "hook in front": lambda: _hooked("register_forward_pre_hook"),
    "hook on the whole": _hooked_whole,
    "patched": _patched,
    "a class of its own": lambda: Doubled(nn.Linear(4, 3)),
    "parameters between": lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 3)),
    "several numbers": lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 3)),
    "norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
    "parametrized": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3))),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_models_keep_their_graph(name: str) -> None:
    """Closed forms would be wrong there: the matrix is that of differences of the problem's gradient."""
    torch.manual_seed(8)
    model = MODELS[name]().double()
    problem = Problem(model, (torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3))
    assert plain_network(problem) is None
    assert forming_passes(problem) == 2 * problem.d + 1
    w = problem.flatten(problem.parameters)
    columns = []
    for e in STEP * torch.eye(problem.d, dtype=torch.float64):
        ahead, behind = (problem.flatten(problem.at(problem.unflatten(w + s * e)).gradient()) for s in (1, -1))
        columns.append((ahead - behind) / (2 * STEP))
    wanted = torch.stack(columns, 1)
    torch.testing.assert_close(dense_hessian(problem), wanted, rtol=0, atol=1e-8 * float(wanted.abs().max()))


def test_other_problems_keep_their_graph() -> None:
    """The same layers with a loss or a form of data whose derivatives are not known here."""
    problem = _problem("tanh", "cross-entropy")
    x, y = _pair(problem)
    assert plain_network(problem) is not None
    assert plain_network(rest(problem)) is None
    assert plain_network(Problem(problem.model, (x, y), lambda output, targets: output.square().sum(1))) is None
    layer = nn.Linear(4, 3)
    assert plain_network(Problem(layer, (torch.randn(5, 2, 4), torch.arange(10).reshape(5, 2) % 3))) is None
    assert plain_network(Problem(layer.half(), (torch.randn(5, 4).half(), torch.arange(5) % 3))) is None
    limited = _problem("tanh", "cross-entropy")
    limited.memory_bytes = 1 << 20
    assert plain_network(limited) is None


# -- the diagonal as a result ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["relu", "gelu"])
def test_the_diagonal_of_a_plain_network_is_exact(shape: str) -> None:
    """As for one that is too large for its Hessian to be formed."""
    problem = _problem(shape, "cross-entropy", torch.float32, formed=False)
    result = hessian_diagonal(problem, probes=64)
    wanted = _differences(problem, shape, "cross-entropy").diagonal()
    for vectors in (result.vectors, result.lower, result.upper):
        np.testing.assert_allclose(problem.flatten(vectors).numpy(), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert result.exact
    assert result.probes is None
    assert result.why == {"probes": "computed exactly, layer by layer: no probes"}
    assert result.trace == pytest.approx(wanted.sum(), rel=1e-6)
    assert result.abs_sum == pytest.approx(np.abs(wanted).sum(), rel=1e-6)
    assert result.trace_interval == (result.trace, result.trace)
    assert result.abs_sum_interval == (result.abs_sum, result.abs_sum)


def test_probes_where_the_exact_diagonal_costs_more() -> None:
    """Two wide layers of functions that bend: 60 rows and more through most of the weights for each sample."""
    chain = nn.Sequential(nn.Linear(3, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh())
    problem = Problem(
        nn.Sequential(*chain, nn.Linear(30, 3)), (torch.randn(9, 3), torch.arange(9) % 3), forms_hessian=False
    )
    network = plain_network(problem)
    assert network is not None
    passes = stagewise.diagonal_passes(network)
    assert 12 < passes < 24
    assert hessian_diagonal(problem, probes=4).exact is False
    assert hessian_diagonal(problem, probes=12).exact is True


def test_a_diagonal_that_overflows_is_refused() -> None:
    layer = nn.Linear(2, 1)
    nn.init.zeros_(layer.weight)
    problem = Problem(layer, (torch.full((3, 2), 1e25), torch.zeros(3, 1)), "squared", forms_hessian=False)
    with pytest.raises(InputError, match="not finite"):
        hessian_diagonal(problem)
