"""Plain networks: linear layers in a row with functions of single numbers between, and what a pass leaves of them.

Their second derivatives have closed forms (``stagewise.py``), for which no graph is built.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from estimators.task import losses
from estimators.task.function import Function
from estimators.task.losses import Curved

PIECEWISE = (nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh)
"""Functions without a second derivative, in evaluation mode."""
BY_NUMBER = (
    *(*PIECEWISE, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU, nn.Mish, nn.CELU, nn.SELU),
    *(nn.LogSigmoid, nn.Softsign),
)
"""Modules without parameters that, in evaluation mode, take each number to another one."""
HELD = 1 << 22
"""Numbers that are made of some samples, or some columns of a block, at once."""


@dataclass(frozen=True)
class Layer:
    """A linear layer, where W (outputs, inputs) and b lie among the coordinates, and the modules behind it."""

    weight: str
    bias: str | None
    shape: torch.Size
    weight_at: slice
    bias_at: slice | None
    behind: tuple[nn.Module, ...]

    @property
    def bends(self) -> bool:
        """Whether what lies behind has a second derivative."""
        return not all(type(module) in PIECEWISE for module in self.behind)


@dataclass(frozen=True)
class Passed:
    """What one pass of some samples leaves of each layer, samples in rows: ``inputs`` a_(l-1), ``slopes`` phi',
    ``bends`` phi'' e and ``deltas``, in the letters of ``stagewise.py``; and the loss's curvature in the outputs, in
    float64.

    Slopes and bends are None where nothing lies behind the layer, bends also where all are 0.
    """

    inputs: list[Tensor]
    slopes: list[Tensor | None]
    bends: list[Tensor | None]
    deltas: list[Tensor]
    top: Curved


class PlainNetwork:
    """A problem's layers, in order, with their weights in float64, or in the format that is given."""

    def __init__(self, problem: Function, first: Sequence[nn.Module], layers: Sequence[Layer]) -> None:
        self.problem = problem
        self.layers = layers
        self._first = first
        self.shapes = [(layer.shape[0], layer.shape[1] + (layer.bias is not None)) for layer in layers]
        """(outputs, inputs) of each layer, an input more where there is a bias."""

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        return [self.problem.parameters[layer.weight].to(dtype) for layer in self.layers]

    def passed(self, dtype: torch.dtype, each: int) -> Iterator[Passed]:
        """A forward and a backward pass over some samples after others, by ``each``, the numbers made of one."""
        step = max(1, HELD // each)
        for samples in self.problem.chunks():
            assert not isinstance(samples, dict)
            inputs, targets = samples
            for x, y in zip(torch.split(inputs, step), torch.split(targets, step), strict=True):
                yield self._pass(x, y, dtype)

    def _pass(self, x: Tensor, targets: Tensor, dtype: torch.dtype) -> Passed:
        weights, problem = self.weights(dtype), self.problem
        inputs, slopes, seconds = [], [], []
        if self._first:
            x = x.clone()  # modules may work in place
        for module in self._first:
            x = module(x)
        x = x.to(dtype)
        for layer, weight in zip(self.layers, weights, strict=True):
            z = x @ weight.T
            if layer.bias is not None:
                z += problem.parameters[layer.bias].to(dtype)
            inputs.append(x)
            x, slope, second = _through(layer.behind, z)
            slopes.append(slope)
            seconds.append(second)
        loss, wide = problem.loss_name or "", x.double()
        e = losses.slopes(loss, wide, targets).to(dtype)
        bends: list[Tensor | None] = []
        deltas: list[Tensor] = []
        for weight, slope, second in zip(reversed(weights), reversed(slopes), reversed(seconds), strict=True):
            bends.append(None if second is None else second * e)
            deltas.append(e if slope is None else slope * e)
            e = deltas[-1] @ weight
        return Passed(inputs, slopes, bends[::-1], deltas[::-1], losses.curved(loss, wide))


def plain_network(problem: Function) -> PlainNetwork | None:
    """The problem's layers where it is a plain network with one of the named losses; None for any other problem.

    Each parameter is the weight or the bias of one linear layer, trained and not shared, and nothing else happens on
    the way: no hooks, no functions of several numbers, no limit on memory, one number format of 32 or 64 bits.
    """
    if problem.loss_name is None or problem.memory_bytes is not None or problem.unrotated is not None:
        return None
    if isinstance(problem.samples, dict) or problem._loss is not losses.select(problem.loss_name, problem.model):
        return None
    chain = list(_chain(problem.model, ""))
    if not all(type(module) in (nn.Flatten, nn.Linear, *BY_NUMBER) and as_its_class(module) for _, module in chain):
        return None
    starts = [i for i, (_, module) in enumerate(chain) if type(module) is nn.Linear]
    if not starts:
        return None
    first = [module for _, module in chain[: starts[0]]]
    inputs, targets = problem.samples
    formats = {inputs.dtype, *(p.dtype for p in problem.parameters.values())}
    if formats not in ({torch.float32}, {torch.float64}) or inputs.layout != torch.strided:
        return None
    if inputs.dim() != 2 and not any(type(m) is nn.Flatten and (m.start_dim, m.end_dim) == (1, -1) for m in first):
        return None
    if problem.loss_name == "cross-entropy" and targets.dim() != 1:
        return None
    layers, ends = [], [*starts[1:], len(chain)]
    at = _places(problem)
    for start, end in zip(starts, ends, strict=True):
        path, module = chain[start]
        weight, bias = f"{path}weight", None if module.bias is None else f"{path}bias"
        if weight not in at or (bias is not None and bias not in at):
            return None
        behind = tuple(m for _, m in chain[start + 1 : end] if type(m) not in (nn.Identity, nn.Flatten))
        bias_at = None if bias is None else at.pop(bias)
        layers.append(Layer(weight, bias, problem.shapes[weight], at.pop(weight), bias_at, behind))
    return None if at else PlainNetwork(problem, first, layers)


def _places(problem: Function) -> dict[str, slice]:
    """The coordinates of each parameter."""
    ends = list(itertools.accumulate(problem.sizes))
    return {name: slice(end - size, end) for name, size, end in zip(problem.names, problem.sizes, ends, strict=True)}


def _chain(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a sequence runs through, in order; the module itself where it is none, or has hooks."""
    if type(module) is not nn.Sequential or not as_its_class(module):
        yield path, module
        return
    for name, part in module._modules.items():
        assert part is not None
        yield from _chain(part, f"{path}{name}.")


def as_its_class(module: nn.Module) -> bool:
    """Whether the module does what its class does."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return not any(hooks) and "forward" not in vars(module)


def _through(modules: Sequence[nn.Module], z: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """phi(z), phi'(z) and phi''(z); None for slopes of 1 and for second derivatives that are all 0."""
    if not modules:
        return z, None, None
    leaf = z.detach().requires_grad_()
    value = leaf.clone()  # modules may work in place
    for module in modules:
        value = module(value)
    (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    if not slope.requires_grad:
        return value.detach(), slope, None
    (second,) = torch.autograd.grad(slope.sum(), leaf)
    return value.detach(), slope.detach(), second if bool(second.any()) else None
