"""Models of plain layers for many parameter vectors at once, as batched matrix products: no ``vmap``.

Runs of one order of the batches share their samples, so the first layer that is trained is one product for each order.
The numbers of a sample lie apart and samples side by side, so that no layer copies what the one before gave.

Shapes: g groups of k runs, each group with m samples of its own; a run has d coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators.task.function import Parameters
from estimators.task.output_slopes import Sloped, output_slopes
from estimators.task.plain_networks import as_its_class
from estimators.task.problem import Problem

aten: Any = torch.ops.aten
BY_NUMBER: Mapping[type[nn.Module], Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda _, e, z, value: aten.tanh_backward(e, value),
    nn.ReLU: lambda _, e, z, value: aten.threshold_backward(e, value, 0),
    nn.Sigmoid: lambda _, e, z, value: aten.sigmoid_backward(e, value),
    nn.GELU: lambda module, e, z, value: aten.gelu_backward(e, z, approximate=module.approximate),
    nn.Softplus: lambda module, e, z, value: aten.softplus_backward(e, z, module.beta, module.threshold),
    nn.SiLU: lambda _, e, z, value: aten.silu_backward(e, z),
}
"""What takes each number to another one, and e phi'(z) for (module, e, z, phi(z)): autograd's own operations, without
its graph, which costs as much as the arithmetic of a small model."""
LAYERS = (nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, *BY_NUMBER)
"""Linear layers, what goes between them, and how they are put in sequence."""


def plain(problem: Problem) -> bool:
    """Whether the model is nothing but layers of LAYERS that do what their class says, with inputs in one tensor."""
    return not isinstance(problem.samples, dict) and all(map(_is_layer, problem.model.modules()))


def _is_layer(module: nn.Module) -> bool:
    replaced = isinstance(module, nn.Linear) and set(module._parameters) != {"weight", "bias"}
    return type(module) in LAYERS and as_its_class(module) and not replaced


class _Passed(NamedTuple):
    """A layer that a forward pass went through, with its input and output.

    A linear layer has its weight and bias by their names, (g, k, *shape) where one of them is ``trained``. Where it is
    ``shared``, the input is (g, m, ...), that of all runs of a group.
    """

    module: nn.Module
    h: Tensor
    value: Tensor
    weights: Parameters
    trained: bool
    shared: bool


class PlainLayers:
    """Outputs, losses and gradients of many runs of a model that is :func:`plain`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        names = {id(parameter): name for name, parameter in problem.model.named_parameters()}
        self._layers = [(module, list(_names(module, names))) for module in _in_sequence(problem.model)]
        self.widest = max(module.out_features for module, _ in self._layers if isinstance(module, nn.Linear))
        """Outputs of the widest layer."""

    def gradients(self, w: Tensor, samples: tuple[Tensor, Tensor], weight: float) -> Sloped:
        """Of ``weight`` times each run's sum of l_i over its samples, (g, k, d), and what makes the l_i, (g, k, m).

        Call it inside ``problem.measuring()``.

        Args:
            w: (g, k, d).
            samples: inputs and targets, (g, m, ...).
            weight: of every sample.
        """
        turned = self.problem.unrotated is not None
        leaf = w.detach().requires_grad_(turned)
        with torch.set_grad_enabled(turned):
            weights = self.problem.weights(self._parameters(leaf))
        with torch.no_grad():
            passed = list(self._passed(weights, samples[0], w.shape[:2]))
        slopes, losses = output_slopes(self.problem, passed[-1].value, samples[1], weight)
        parts = _pulled_back(passed, slopes)
        if turned:
            trained = [name for name in parts if weights[name].requires_grad]
            (gradients,) = torch.autograd.grad([weights[name] for name in trained], leaf, [parts[n] for n in trained])
        else:
            gradients = torch.cat([parts[name].flatten(2) for name in self.problem.names], 2)
        return gradients, losses

    def losses(self, w: Tensor, samples: tuple[Tensor, Tensor]) -> Tensor:
        """The l_i alone, (g, k, m)."""
        with torch.no_grad():
            weights = self.problem.weights(self._parameters(w))
            for passed in self._passed(weights, samples[0], w.shape[:2]):
                output = passed.value
            return output_slopes(self.problem, output, samples[1], 1.0)[1]()

    def _parameters(self, w: Tensor) -> Parameters:
        parts = zip(self.problem.shapes.items(), torch.split(w, self.problem.sizes, 2), strict=True)
        return {name: part.reshape(*w.shape[:2], *shape) for (name, shape), part in parts}

    def _passed(self, weights: Parameters, inputs: Tensor, lead: torch.Size) -> Iterator[_Passed]:
        """Layer by layer, what forward does for the samples of each run.

        Args:
            weights: by name: trained ones (g, k, *shape), frozen ones as they are.
            inputs: (g, m, ...).
            lead: (g, k).
        """
        h = inputs.clone() if self.problem.effects.inputs else inputs
        shared = True  # h is (g, m, ...) up to the first layer that is trained, then (g, k, m, ...)
        for module, names in self._layers:
            of_layer = {name: weights[name] for name, _ in names}
            trained = any(weights[name].dim() > dims for name, dims in names)
            if isinstance(module, nn.Flatten):
                more = 1 if shared else 2
                value = h.flatten(*(dim + more if dim >= 0 else dim for dim in (module.start_dim, module.end_dim)))
            elif not isinstance(module, nn.Linear):
                value = module(h.clone() if getattr(module, "inplace", False) else h)
            elif not trained:
                value = F.linear(h, *of_layer.values())
            else:
                of_layer = {name: _for_each_run(weights[name], dims, lead) for name, dims in names}
                value = (_of_shared_inputs if shared else _of_own_inputs)(h, *of_layer.values())
            yield _Passed(module, h, value, of_layer, trained, shared)
            h, shared = value, shared and not trained


def _in_sequence(module: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order of forward."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _in_sequence(part)
    else:
        yield module


def _names(module: nn.Module, names: dict[int, str]) -> Iterator[tuple[str, int]]:
    """Of a linear layer's weight and bias, with their dimensions."""
    for parameter in module._parameters.values():
        if parameter is not None:
            yield names[id(parameter)], parameter.dim()


def _for_each_run(weight: Tensor, dims: int, lead: torch.Size) -> Tensor:
    """(g, k, *shape): what is frozen beside what is trained is the same for all."""
    return weight if weight.dim() > dims else weight.expand(*lead, *weight.shape)


def _of_shared_inputs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer of k runs on the inputs of their group, (g, m, ..., in) -> (g, k, m, ..., out): one product."""
    groups, runs, outputs, _ = weight.shape
    product = _affine(weight.flatten(1, 2), x.flatten(1, -2).mT, None if bias is None else bias.flatten(1, 2))
    return product.view(groups, runs, outputs, -1).mT.reshape(groups, runs, *x.shape[1:-1], outputs)


def _of_own_inputs(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer of k runs, each on inputs of its own, (g, k, m, ..., in) -> (g, k, m, ..., out)."""
    groups, runs, outputs, _ = weight.shape
    columns = h.flatten(2, -2).flatten(0, 1).mT
    product = _affine(weight.flatten(0, 1), columns, None if bias is None else bias.flatten(0, 1))
    return product.view(groups, runs, outputs, -1).mT.reshape(groups, runs, *h.shape[2:-1], outputs)


def _affine(rows: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[..., None], rows, columns)


@torch.no_grad()
def _pulled_back(passed: Sequence[_Passed], e: Tensor) -> Parameters:
    """The slopes by each weight and bias, (g, k, *shape), of what has the slopes e by the output; summed where a layer
    is used twice."""
    parts: Parameters = {}
    for layer in reversed(passed):
        if layer.trained:
            for name, part in zip(layer.weights, _by_weights(layer, e), strict=True):
                parts[name] = parts[name] + part if name in parts else part
        if layer.shared:  # nothing is trained before
            break
        e = _by_input(layer, e)
    return parts


def _by_weights(layer: _Passed, e: Tensor) -> Iterator[Tensor]:
    """Slopes by a linear layer's weight (g, k, out, in) and bias (g, k, out), if any, from those by its output."""
    rows = e.flatten(2, -2)
    groups, runs, _, outputs = rows.shape
    if layer.shared:
        product = torch.bmm(rows.mT.flatten(1, 2), layer.h.flatten(1, -2))
    else:
        product = torch.bmm(rows.mT.flatten(0, 1), layer.h.flatten(2, -2).flatten(0, 1))
    yield product.view(groups, runs, outputs, -1)
    if len(layer.weights) > 1:
        yield rows.sum(2)


def _by_input(layer: _Passed, e: Tensor) -> Tensor:
    """Slopes by the input (g, k, m, ...) of a layer, from those by its output."""
    if isinstance(layer.module, nn.Linear):
        weight = next(iter(layer.weights.values()))
        return _of_own_inputs(e, weight.mT) if layer.trained else e @ weight
    if isinstance(layer.module, nn.Flatten):
        return e.reshape(layer.h.shape)
    by_number = BY_NUMBER.get(type(layer.module))
    return e if by_number is None else by_number(layer.module, e, layer.h, layer.value)
