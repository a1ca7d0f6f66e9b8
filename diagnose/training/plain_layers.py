"""Models of plain layers for many parameter vectors at once, as batched matrix products: no ``vmap``.

Runs of one order of the batches share their samples, so the first layer that is trained is one product for each order.
The numbers of a sample lie apart and samples side by side, so that no layer copies what the one before gave.

Shapes: g groups of k runs, each group with m samples of its own; a run has d coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators.task.function import Parameters
from estimators.task.output_slopes import Sloped, output_slopes
from estimators.task.plain_networks import as_its_class
from estimators.task.problem import Problem

LAYERS = (
    *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear),
    *(nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU, nn.Softplus, nn.SiLU),
)
"""Linear layers, what goes between them number by number, and how they are put in sequence."""


def plain(problem: Problem) -> bool:
    """Whether the model is nothing but layers of LAYERS that do what their class says, with inputs in one tensor."""
    return not isinstance(problem.samples, dict) and all(map(_is_layer, problem.model.modules()))


def _is_layer(module: nn.Module) -> bool:
    replaced = isinstance(module, nn.Linear) and set(module._parameters) != {"weight", "bias"}
    return type(module) in LAYERS and as_its_class(module) and not replaced


class PlainLayers:
    """Outputs, losses and gradients of many runs of a model that is :func:`plain`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        names = {id(parameter): name for name, parameter in problem.model.named_parameters()}
        self._layers = [(module, _names(module, names)) for module in _in_sequence(problem.model)]
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
        leaf = w.detach().requires_grad_()
        output = self.outputs(self._parameters(leaf), samples[0])
        slopes, losses = output_slopes(self.problem, output.detach(), samples[1], weight)
        # Runs share nothing: the gradient of the sum over runs holds each run's own.
        (gradients,) = torch.autograd.grad(output, leaf, slopes)
        return gradients, losses

    def losses(self, w: Tensor, samples: tuple[Tensor, Tensor]) -> Tensor:
        """The l_i alone, (g, k, m)."""
        with torch.no_grad():
            output = self.outputs(self._parameters(w), samples[0])
            return output_slopes(self.problem, output, samples[1], 1.0)[1]()

    def _parameters(self, w: Tensor) -> Parameters:
        parts = zip(self.problem.shapes.items(), torch.split(w, self.problem.sizes, 2), strict=True)
        return {name: part.reshape(*w.shape[:2], *shape) for (name, shape), part in parts}

    def outputs(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """What forward returns for the samples of each run, (g, k, m, ...).

        Args:
            parameters: by name, (g, k, *shape).
            inputs: (g, m, ...).
        """
        weights = self.problem.weights(parameters)
        lead = next(iter(parameters.values())).shape[:2]
        h = inputs.clone() if self.problem.effects.inputs else inputs
        before = (
            1  # the dimension of the samples: (g, m, ...) up to the first layer that is trained, then (g, k, m, ...)
        )
        for module, names in self._layers:
            if isinstance(module, nn.Flatten):
                h = h.flatten(*(dim + before if dim >= 0 else dim for dim in (module.start_dim, module.end_dim)))
            elif not isinstance(module, nn.Linear):
                h = module(h)
            elif not any(weights[name].dim() > dims for name, dims in names):  # frozen
                h = F.linear(h, *(weights[name] for name, _ in names))
            else:
                trained = [_for_each_run(weights[name], dims, lead) for name, dims in names]
                h = (_of_shared_inputs if before == 1 else _of_own_inputs)(h, *trained)
                before = 2
        return h


def _in_sequence(module: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order of forward."""
    if isinstance(module, nn.Sequential):
        for part in module:
            yield from _in_sequence(part)
    else:
        yield module


def _names(module: nn.Module, names: dict[int, str]) -> list[tuple[str, int]]:
    """Of a linear layer's weight and bias, with their dimensions."""
    return [
        (names[id(parameter)], parameter.dim()) for parameter in module._parameters.values() if parameter is not None
    ]


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
