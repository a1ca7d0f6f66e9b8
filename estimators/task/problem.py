"""The problem that every estimator takes: f(w) = (1/n) sum_i l_i(w) for a model, its samples and a loss.

Estimators see the data only through sums over samples: :meth:`Problem.loss`, :meth:`Problem.gradient`,
products with the Hessian (``products.py``) and per-sample gradient moments (``per_sample.py``).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimators.errors import InputError
from estimators.results import Finding
from estimators.task import losses, memory_limit, model_kinds
from estimators.task.checks import examine, examine_others, refuse_unmade
from estimators.task.module_checks import SideEffects, coarsest, side_effects, weights_precision
from estimators.task.plain_torch import plain_torch

Parameters = dict[str, Tensor]
Samples = tuple[Tensor, Tensor] | dict[str, Tensor]
Key = TypeVar("Key")


class Passes:
    """Counts forward+backward passes over the samples; a forward pass alone counts one third."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, passes: float) -> None:
        self.total += passes


class Problem:
    """f(w) = (1/n) sum_i l_i(w) at one point w.

    Args:
        model: any module. It is never changed: parameters and buffers are copied, evaluation mode and
            random state last as long as a call. Coordinates are the parameters that require a gradient and hold
            numbers, tied tensors once under their first name; of a compiled or parallel module those of the module
            inside.
        samples: ``(inputs, targets)``, or a mapping of tensors that forward takes by name with ``labels``
            (-100 is ignored; shifted for causal language models as in transformers). The first dimension
            counts the samples.
        loss: ``"cross-entropy"``, ``"logistic"`` (targets +-1), ``"squared"`` (half the squared error), or
            a function (output, targets) -> one loss for each sample, shape (n,).
        memory_bytes: what measuring may take beyond the model, a copy of its parameters, the samples and Python; see
            ``memory.py``. Estimators do with it what they can. Default: no limit but their own constants.

    ``unrotated`` turns the parameters into those of the model in a problem of other coordinates (``rotation.py``), else
    it is None.

    Raises:
        InputError: nothing to differentiate, NaN in the weights, a loss that is not finite, differs between
            two evaluations, or couples the samples; a next-token model that sees its labels; targets that do not fit; a
            forward that changes its parameters; TorchScript; a memory limit that nothing fits into.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples | Mapping[str, Tensor],
        loss: str | losses.LossFunction = "cross-entropy",
        *,
        memory_bytes: int | None = None,
    ) -> None:
        if torch.is_inference_mode_enabled():
            raise InputError("gradients are off", "torch.inference_mode()", "leave the inference mode for this call")
        model, self._wrapped = model_kinds.unwrapped(model)
        refuse_unmade(model)
        self.model = model
        self.loss_name = loss if isinstance(loss, str) else None
        self.parameters: Parameters = {}
        self._fixed: Parameters = {}
        for name, parameter in model.named_parameters():
            home = self.parameters if parameter.requires_grad and parameter.numel() else self._fixed
            home[name] = parameter.detach().clone()
        if not self.parameters:
            raise InputError("the model has no parameter that requires a gradient", type(model).__name__)
        for name, tensor in [*self.parameters.items(), *self._fixed.items()]:
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    "NaN or infinity in the weights", name, "load a checkpoint whose training did not diverge"
                )
        self._fixed.update((name, buffer.detach().clone()) for name, buffer in model.named_buffers())
        formats = [p.dtype for p in self.parameters.values()]
        self._inputs_dtype = formats[0]
        # The coarsest that a vector can be held in; half precision only where there is nothing else.
        wide = [dtype for dtype in formats if dtype not in losses.COARSE]
        self.dtype = coarsest(wide) if wide else functools.reduce(torch.promote_types, formats)
        self.device = next(iter(self.parameters.values())).device
        self.precision = weights_precision(model)
        self.names = tuple(self.parameters)
        self.shapes = {name: p.shape for name, p in self.parameters.items()}
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.d = sum(self.sizes)
        self._loss = losses.select(loss, model)
        self._arguments = model_kinds.arguments(model)
        self.samples = self._prepared(samples)
        self._trims = (
            self.loss_name == "cross-entropy" and isinstance(self.samples, dict) and model_kinds.keeps_logits(model)
        )
        self.n = next(iter(_tensors(self.samples))).shape[0]
        self.passes = Passes()
        self.unrotated: Callable[[Parameters], Parameters] | None = None
        self._dense: Tensor | None = None
        self.memory_bytes = memory_bytes
        self._graph_sizes: tuple[int, ...] = ()
        self._chunk = self.n
        self.findings: tuple[Finding, ...] = ()
        self.curvature_fault: InputError | None = None
        self.effects = SideEffects()
        self._examine()

    # -- the point ---------------------------------------------------------------------------------

    def at(self, parameters: Mapping[str, Tensor]) -> Problem:
        """The same task at another point, each tensor in the format that it has here; passes are counted together."""
        other = self._derived()
        fitting = self._fitting(parameters)
        other.parameters = {name: fitting[name].to(p.dtype, copy=True) for name, p in self.parameters.items()}
        return other

    def _derived(self) -> Problem:
        """A copy without what was formed at this point, for these samples and in this number format."""
        other = copy(self)
        other._dense = None
        return other

    def _fitting(self, vector: Mapping[str, Tensor]) -> Parameters:
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

    def in_double(self) -> Problem:
        """The same task with parameters, buffers and samples in float64; passes are counted together."""
        other = self._derived()
        other.dtype = other.precision = torch.float64
        other.parameters, other._fixed = _doubled(self.parameters), _doubled(self._fixed)
        if isinstance(self.samples, dict):
            other.samples = _doubled(self.samples)
        else:
            inputs, targets = _doubled(dict(enumerate(self.samples))).values()
            other.samples = inputs, targets
        other.effects = replace(self.effects, state=_doubled(self.effects.state))
        return other

    def subset(self, index: Tensor) -> Problem:
        """The same model on some of the samples, with passes counted apart (over the subset)."""
        other = self._derived()
        other.samples = self.take(index)
        other.n = int(index.numel())
        other._chunk = min(self._chunk, other.n)
        other.passes = Passes()
        return other

    def with_samples(self, samples: Samples | Mapping[str, Tensor], *, every: bool = True) -> Problem:
        """The same model on other samples of the same kind, with passes counted apart (over them).

        Args:
            samples: as those that a problem is made with.
            every: whether forward is tried on all of them; of many, on those with the smallest and the largest numbers.

        Cost: a forward pass over them, and some over a few; without ``every`` over a few alone.

        Raises:
            InputError: samples that the model can't take, targets that do not fit, samples that depend on each other.
        """
        other = self._derived()
        other.samples = self._prepared(samples)
        other.n = next(iter(_tensors(other.samples))).shape[0]
        other._chunk = min(self._chunk, other.n)
        other.passes = Passes()
        examine_others(other, every)
        return other

    def flatten(self, vector: Mapping[str, Tensor]) -> Tensor:
        """A parameter dict as one vector of shape (d,)."""
        return torch.cat([vector[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> Parameters:
        """The inverse of :meth:`flatten`."""
        parts = torch.split(vector, self.sizes)
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def leaves(self) -> Parameters:
        """The parameters as leaves of a graph of their own: what a gradient is taken by."""
        return {name: p.detach().requires_grad_() for name, p in self.parameters.items()}

    # -- the sums over samples ---------------------------------------------------------------------

    def take(self, index: Tensor | slice) -> Samples:
        """Some of the samples; an index of shape (..., m) gives tensors of shape (..., m, *)."""
        if isinstance(self.samples, dict):
            return {name: tensor[index] for name, tensor in self.samples.items()}
        return self.samples[0][index], self.samples[1][index]

    def trimmed(self, samples: Samples) -> Samples:
        """The same samples without work that no loss sees: logits at positions without a label.

        Not for vmap: what is left depends on the labels.
        """
        return model_kinds.labelled_positions(samples) if self._trims and isinstance(samples, dict) else samples

    def losses(self, parameters: Mapping[str, Tensor], samples: Samples) -> Tensor:
        """l_i(w) for each of the samples, shape (m,). Pure in the parameters: fit for torch.func and vmap.

        Call it inside :meth:`measuring`. It counts no pass: what differentiates it does.
        """
        targets = samples["labels"] if isinstance(samples, dict) else samples[1]
        return self.loss_of(self.output(parameters, samples), targets)

    def loss_of(self, output: Any, targets: Tensor) -> Tensor:
        """l_i, shape (m,), from what forward returned for m samples and their targets."""
        return self._loss(output, self.effects.fresh_targets(targets))

    def output(self, parameters: Mapping[str, Tensor], samples: Samples) -> Any:
        """What forward returns for the samples. Call it inside :meth:`measuring`."""
        own = self._unturned(parameters)
        named = samples if isinstance(samples, dict) else {"inputs": samples[0]}
        with self.effects.undone(self._fixed, own, named) as (state, fresh):
            if isinstance(samples, dict):
                inputs = {name: tensor for name, tensor in fresh.items() if name != "labels"}
                return functional_call(self.model, state, (), {**inputs, **self._arguments})
            return functional_call(self.model, state, (fresh["inputs"],))

    def weights(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """What the modules of the model compute with, by the model's names: the frozen ones too, not turned.

        Parameters of shape (..., *shape) give weights of shape (..., *shape), the frozen ones apart.
        """
        return {**self._fixed, **self._unturned(parameters)}

    def _unturned(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return parameters if self.unrotated is None else self.unrotated(dict(parameters))

    def own_loss(self, samples: dict[str, Tensor]) -> Tensor | None:
        """The loss that a transformers model computes itself; None without one. Call it inside :meth:`measuring`."""
        with self.effects.undone(self._fixed, self.parameters, samples) as (state, fresh):
            return model_kinds.own_loss(self.model, state, fresh)

    def chunks(self) -> Iterator[Samples]:
        """The samples in pieces that fit through the model at once, trimmed."""
        if self._chunk >= self.n:
            yield self.trimmed(self.samples)
            return
        for start in range(0, self.n, self._chunk):
            yield self.trimmed(self.take(slice(start, start + self._chunk)))

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
                if loss.requires_grad:
                    parts = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
                    total += torch.cat([part.reshape(-1) for part in parts]).double()
        self.passes.add(1)
        mean = self.unflatten(total / self.n)
        return value / self.n, {name: mean[name].to(p.dtype) for name, p in self.parameters.items()}

    def hessian_vector_product(self, vector: Mapping[str, Tensor]) -> Parameters:
        """H v with H = nabla^2 f(w), by double backward."""
        from estimators.task.products import hessian

        flat = self.flatten(self._fitting(vector)).to(self.dtype)
        with hessian(self) as product:
            return self.unflatten(product(flat[:, None])[:, 0])

    # -- keeping the user's model as it is ---------------------------------------------------------

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Evaluation mode, modes of torch that the graph needs, and the random state put back at the end."""
        experts = model_kinds.experts_in_double(self.model, self.dtype)
        with model_kinds.evaluating(self.model), plain_torch(self.device), experts:
            yield

    # -- opening -----------------------------------------------------------------------------------

    def _prepared(self, samples: Samples | Mapping[str, Tensor]) -> Samples:
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

    def _examine(self) -> None:
        """Checks of a new problem: targets, coupling, determinism; sets the chunk size and the findings."""
        from estimators.task.derivative_checks import curvature_fault, finding

        self.effects = side_effects(self)
        if self.effects.coarse is not None:
            self.precision = coarsest((self.precision, self.effects.coarse))
        self._chunk, self.findings = examine(self)
        self.measure_graphs()
        self.curvature_fault = curvature_fault(self)
        if self.curvature_fault is not None:
            self.findings = (*self.findings, finding(self.curvature_fault))

    def measure_graphs(self) -> None:
        """Under a memory limit: what graphs keep, and with it the chunk size. Not counted as passes."""
        if self.memory_bytes is not None:
            self._graph_sizes = memory_limit.graph_sizes(self)
            self._chunk = memory_limit.fitting_chunk(self, self._chunk)


def _doubled(tensors: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    return {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def _tensors(samples: Samples) -> list[Tensor]:
    return list(samples.values()) if isinstance(samples, dict) else list(samples)
