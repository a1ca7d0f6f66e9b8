"""The function that is measured: sums over samples of the losses of a model, at one point."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimators.errors import InputError
from estimators.numbers.formats import COARSE, coarsest, weights_precision
from estimators.numbers.vectors import loss_gradients
from estimators.results import Cost, Finding
from estimators.task import losses, model_kinds
from estimators.task.plain_torch import plain_torch
from estimators.task.side_effects import SideEffects

Parameters = dict[str, Tensor]
Samples = tuple[Tensor, Tensor] | dict[str, Tensor]
DENSE_LIMIT = 2000
"""Up to this many coordinates the Hessian is formed, where nothing else is asked for."""


class Passes:
    """Counts forward+backward passes over the samples; a forward pass alone counts one third."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, passes: float) -> None:
        self.total += passes


class Meter:
    """What a measurement takes, from the moment at which this is made."""

    def __init__(self, *problems: Function) -> None:
        self._counters = list({id(problem.passes): problem.passes for problem in problems}.values())
        self._began, self._first = time.perf_counter(), self._passes()

    def _passes(self) -> float:
        return sum(counter.total for counter in self._counters)

    def cost(self) -> Cost:
        """Passes, those of points that count together once, and seconds until now."""
        return Cost(self._passes() - self._first, time.perf_counter() - self._began)


class Function:
    """f(w) = (1/n) sum_i l_i(w) as sums over samples at one point; nothing of it is checked.

    :class:`estimators.Problem` opens it and says what the arguments are. ``unrotated`` turns the parameters into those
    of the model where the coordinates are others (``rotation.py``), else it is None. ``forms_hessian`` says whether
    estimators work on H as a matrix, which ``formed_hessian`` holds once it is formed, or on products with it.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples | Mapping[str, Tensor],
        loss: str | losses.LossFunction = "cross-entropy",
        *,
        memory_bytes: int | None = None,
        forms_hessian: bool | None = None,
    ) -> None:
        model, self._wrapped = model_kinds.unwrapped(model)
        self.model = model
        self.loss_name = loss if isinstance(loss, str) else None
        self.parameters: Parameters = {}
        self.fixed: Parameters = {}
        for name, parameter in model.named_parameters():
            home = self.parameters if parameter.requires_grad and parameter.numel() else self.fixed
            home[name] = parameter.detach().clone()
        if not self.parameters:
            raise InputError("the model has no parameter that requires a gradient", type(model).__name__)
        for name, tensor in [*self.parameters.items(), *self.fixed.items()]:
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    "NaN or infinity in the weights", name, "load a checkpoint whose training did not diverge"
                )
        self.fixed.update((name, buffer.detach().clone()) for name, buffer in model.named_buffers())
        formats = [p.dtype for p in self.parameters.values()]
        self._inputs_dtype = formats[0]
        # The coarsest that a vector can be held in; half precision only where there is nothing else.
        wide = [dtype for dtype in formats if dtype not in COARSE]
        self.dtype = coarsest(wide) if wide else functools.reduce(torch.promote_types, formats)
        self.device = next(iter(self.parameters.values())).device
        self.precision = weights_precision(model)
        self.names = tuple(self.parameters)
        self.shapes = {name: p.shape for name, p in self.parameters.items()}
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.d = sum(self.sizes)
        self.forms_hessian = self.d <= DENSE_LIMIT if forms_hessian is None else forms_hessian
        self._loss = losses.select(loss, model)
        self._arguments = model_kinds.arguments(model)
        self.samples = self.prepared(samples)
        self._trims = (
            self.loss_name == "cross-entropy" and isinstance(self.samples, dict) and model_kinds.keeps_logits(model)
        )
        self.n = len(targets_of(self.samples))
        self.passes = Passes()
        self.unrotated: Callable[[Parameters], Parameters] | None = None
        self.formed_hessian: Tensor | None = None
        self.memory_bytes = memory_bytes
        self.graph_sizes: tuple[int, ...] = ()
        self.chunk = self.n
        self.findings: tuple[Finding, ...] = ()
        self.curvature_fault: InputError | None = None
        self.effects = SideEffects()

    # -- the point ---------------------------------------------------------------------------------

    def at(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same task at another point, each tensor in the format that it has here; passes are counted together."""
        other = self.derived()
        vector = self.fitting(parameters)
        other.parameters = {name: vector[name].to(p.dtype, copy=True) for name, p in self.parameters.items()}
        return other

    def derived(self) -> Self:
        """A copy without what was formed at this point, for these samples and in this number format."""
        other = copy(self)
        other.formed_hessian = None
        return other

    def fitting(self, vector: Mapping[str, Tensor]) -> Parameters:
        """The vector on the problem's device; InputError where names or shapes do not fit. Names may be those of the
        wrapped module."""
        if self._wrapped and not self.shapes.keys() <= vector.keys():
            vector = {name.removeprefix(self._wrapped): value for name, value in vector.items()}
        missing = [name for name in self.names if name not in vector]
        if missing:
            raise InputError("a parameter is missing", missing[0], f"give all of {len(self.names)} parameters")
        for name, shape in self.shapes.items():
            if vector[name].shape != shape:
                raise InputError(f"shape {tuple(vector[name].shape)} instead of {tuple(shape)}", name)
        return {name: vector[name].detach().to(self.device) for name in self.names}

    def in_double(self) -> Self:
        """The same task with parameters, buffers and samples in float64; passes are counted together."""
        other = self.derived()
        other.dtype = other.precision = torch.float64
        other.parameters, other.fixed = _doubled(self.parameters), _doubled(self.fixed)
        other.samples = mapped(self.samples, _double)
        other.effects = replace(self.effects, state=_doubled(self.effects.state))
        return other

    def subset(self, index: Tensor) -> Self:
        """The same model on some of the samples, with passes counted apart (over the subset)."""
        return self.on(self.take(index))

    def on(self, samples: Samples) -> Self:
        """The same on other samples, which :meth:`prepared` has made ready, with passes counted apart (over them)."""
        other = self.derived()
        other.samples = samples
        other.n = len(targets_of(samples))
        other.chunk = min(self.chunk, other.n)
        other.passes = Passes()
        return other

    def flatten(self, vector: Mapping[str, Tensor]) -> Tensor:
        """A parameter dict as one vector of shape (d,)."""
        return torch.cat([vector[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> Parameters:
        """The inverse of :meth:`flatten`."""
        parts = torch.split(vector, self.sizes)
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    @property
    def like(self) -> Tensor:
        """A tensor with the format and the device of vectors that go through the Hessian."""
        return next(iter(self.parameters.values()))

    def leaves(self) -> Parameters:
        """The parameters as leaves of a graph of their own: what a gradient is taken by."""
        return {name: p.detach().requires_grad_() for name, p in self.parameters.items()}

    # -- the sums over samples ---------------------------------------------------------------------

    def take(self, index: Tensor | slice) -> Samples:
        """Some of the samples; an index of shape (..., m) gives tensors of shape (..., m, *)."""
        return mapped(self.samples, lambda tensor: tensor[index])

    def trimmed(self, samples: Samples) -> Samples:
        """The same samples without work that no loss sees: logits at positions without a label.

        Not for vmap: what is left depends on the labels.
        """
        return model_kinds.labelled_positions(samples) if self._trims and isinstance(samples, dict) else samples

    def losses(self, parameters: Mapping[str, Tensor], samples: Samples) -> Tensor:
        """l_i(w) for each of the samples, shape (m,). Pure in the parameters: fit for torch.func and vmap.

        Call it inside :meth:`measuring`. It counts no pass: what differentiates it does.
        """
        return self.loss_of(self.output(parameters, samples), targets_of(samples))

    def loss_of(self, output: Any, targets: Tensor) -> Tensor:
        """l_i, shape (m,), from what forward returned for m samples and their targets."""
        return self._loss(output, self.effects.fresh_targets(targets))

    def output(self, parameters: Mapping[str, Tensor], samples: Samples) -> Any:
        """What forward returns for the samples. Call it inside :meth:`measuring`."""
        own = self._unturned(parameters)
        named = samples if isinstance(samples, dict) else {"inputs": samples[0]}
        with self.effects.undone(self.fixed, own, named) as (state, fresh):
            if isinstance(samples, dict):
                inputs = {name: tensor for name, tensor in fresh.items() if name != "labels"}
                return functional_call(self.model, state, (), {**inputs, **self._arguments})
            return functional_call(self.model, state, (fresh["inputs"],))

    def weights(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """What the modules of the model compute with, by the model's names: the frozen ones too, not turned.

        Parameters of shape (..., *shape) give weights of shape (..., *shape), the frozen ones apart.
        """
        return {**self.fixed, **self._unturned(parameters)}

    def _unturned(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return parameters if self.unrotated is None else self.unrotated(dict(parameters))

    def own_loss(self, samples: dict[str, Tensor]) -> Tensor | None:
        """The loss that a transformers model computes itself; None without one. Call it inside :meth:`measuring`."""
        with self.effects.undone(self.fixed, self.parameters, samples) as (state, fresh):
            return model_kinds.own_loss(self.model, state, fresh)

    def chunks(self) -> Iterator[Samples]:
        """The samples in pieces that fit through the model at once, trimmed."""
        if self.chunk >= self.n:
            yield self.trimmed(self.samples)
            return
        for start in range(0, self.n, self.chunk):
            yield self.trimmed(self.take(slice(start, start + self.chunk)))

    def loss(self) -> float:
        """f(w)."""
        with self.measuring(), torch.no_grad():
            total = sum(self.losses(self.parameters, chunk).double().sum().item() for chunk in self.chunks())
        self.passes.add(1 / 3)
        return float(total) / self.n

    def gradient(self) -> Parameters:
        """nabla f(w), in the parameters' dtype; sums over chunks in float64."""
        return self.loss_and_gradient()[1]

    def loss_and_gradient(self) -> tuple[float, Parameters]:
        """f(w) and nabla f(w) from one pass."""
        leaves = self.leaves()
        total, value = torch.zeros(self.d, dtype=torch.float64, device=self.device), 0.0
        with self.measuring():
            for chunk in self.chunks():
                loss = self.losses(leaves, chunk).double().sum()
                value += loss.item()
                total += torch.cat([part.reshape(-1) for part in loss_gradients(loss, list(leaves.values()))]).double()
        self.passes.add(1)
        mean = self.unflatten(total / self.n)
        return value / self.n, {name: mean[name].to(p.dtype) for name, p in self.parameters.items()}

    # -- keeping the user's model as it is ---------------------------------------------------------

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Evaluation mode, modes of torch that the graph needs, and the random state put back at the end."""
        experts = model_kinds.experts_in_double(self.model, self.dtype)
        with model_kinds.evaluating(self.model), plain_torch(self.device), experts:
            yield

    # -- samples ---------------------------------------------------------------------------------------

    def prepared(self, samples: Samples | Mapping[str, Tensor]) -> Samples:
        """Samples on the model's device, floating inputs in its dtype."""
        named: dict[str, Tensor]
        if isinstance(samples, Mapping):
            named = dict(samples)
            if "labels" not in named:
                raise InputError("no labels among the samples", ", ".join(named), 'add a tensor under "labels"')
        else:
            inputs, targets = samples
            named = {"inputs": inputs, "targets": targets}
        sizes = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in named.items()}
        if len(set(sizes.values())) != 1:
            raise InputError("the tensors count different numbers of samples", str(sizes))
        if not next(iter(sizes.values())):
            raise InputError("no sample", "the first dimension of the samples is empty")
        for name, tensor in named.items():
            if tensor.is_meta or tensor.layout != torch.strided:
                raise InputError("no dense tensor of numbers", name, "convert it with `.to_dense()`, or fill it first")
            moved = (tensor.clone() if tensor.is_inference() else tensor.detach()).to(self.device)
            if name in ("labels", "targets"):
                moved = losses.target_numbers(self.loss_name, moved, self._inputs_dtype)
            if tensor.is_floating_point():
                moved = moved.to(self._inputs_dtype)
                if not losses.finite(moved):
                    raise InputError("NaN or infinity in the samples", name, "drop or fill these rows")
            named[name] = moved
        if isinstance(samples, Mapping):
            return model_kinds.with_decoder_inputs(self.model, named)
        return named["inputs"], named["targets"]


def _doubled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _double(tensor) for name, tensor in tensors.items()}


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def tensors_of(samples: Samples) -> list[Tensor]:
    return list(samples.values()) if isinstance(samples, dict) else list(samples)


def inputs_of(samples: Samples) -> list[Tensor]:
    """What forward takes."""
    return [t for name, t in samples.items() if name != "labels"] if isinstance(samples, dict) else [samples[0]]


def targets_of(samples: Samples) -> Tensor:
    return samples["labels"] if isinstance(samples, dict) else samples[1]


def mapped(samples: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    """Samples of the same kind, each tensor changed."""
    if isinstance(samples, dict):
        return {name: change(tensor) for name, tensor in samples.items()}
    return change(samples[0]), change(samples[1])
