"""Brute force for models of transformers: the model's own loss of one sequence at a time, alone and without padding.

Nothing here uses the estimators. A copy of the model runs in evaluation mode with eager attention, which has a
second derivative; before products are handed out, its derivatives are held against differences, like those of
``oracles.py``. The losses of transformers, and some of its norms and softmaxes, round to float32 on the way;
inside :class:`Wide` they keep float64, so that two computations in float64 can be compared to ten digits.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.differences import Array
from tests.oracles import confirm, flat, moved, random_direction
from tests.transformers_cases import IGNORED, Mapped


class Wide(TorchFunctionMode):
    """Every conversion to float32 becomes one to float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return func(*(_wide(value) for value in args), **named)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def alone(samples: Mapped, i: int) -> Mapped:
    """Sample i without its padding and without a mask, as a batch of one."""
    one = {name: tensor[i : i + 1] for name, tensor in samples.items()}
    mask = one.pop("attention_mask", None)
    if mask is None:
        return one
    length, labels = int(mask.sum()), one["labels"]
    if labels.dim() == 2:
        own = labels.shape == mask.shape
        one["labels"] = labels[:, : length if own else int((labels != IGNORED).sum())]
    one["input_ids"] = one["input_ids"][:, :length]
    return one


class Oracle:
    """Answers for a model and its samples; vectors are flat, over the trainable parameters in the order of
    ``named_parameters()``."""

    def __init__(self, model: nn.Module, samples: Mapped) -> None:
        self.samples = samples
        self.model = copy.deepcopy(model).eval()
        choose: Any = self.model.set_attn_implementation
        choose("eager")
        self.leaves = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.n = len(self.samples["labels"])
        self.d = sum(leaf.numel() for leaf in self.leaves)

    def losses(self) -> list[Tensor]:
        """The model's own losses of the samples, with their graphs."""
        double = self.leaves[0].dtype == torch.float64
        with Wide() if double else contextlib.nullcontext():
            return [self.model(**alone(self.samples, i)).loss for i in range(self.n)]

    def loss(self) -> float:
        return torch.stack(self.losses()).mean().item()

    def rows(self) -> Tensor:
        """Gradients of the samples, (n, d)."""
        return torch.stack(
            [flat(torch.autograd.grad(loss, self.leaves, allow_unused=True), self.leaves) for loss in self.losses()]
        )

    def operator(self) -> Callable[[Tensor], Tensor]:
        """v -> H v by double backward of the mean loss that differences confirm."""
        first = self._checked_gradient()
        return lambda vector: self._second(first @ vector)

    def hessian(self) -> Tensor:
        """H row by row, (d, d), by the same."""
        return torch.stack([self._second(entry) for entry in self._checked_gradient()])

    def losses_along(self, vector: Array) -> Callable[[float], Array]:
        """t -> the samples' losses at w + t v, (n,)."""

        def losses_at(t: float) -> Array:
            with moved(self.leaves, t * vector), torch.no_grad():
                return torch.stack(self.losses()).numpy()

        return losses_at

    def gradient_along(self, vector: Array) -> Callable[[float], Array]:
        """t -> the gradient of the mean loss at w + t v, (d,): its slope is H v, without a second derivative."""

        def gradient_at(t: float) -> Array:
            with moved(self.leaves, t * vector):
                return self.rows().mean(0).numpy()

        return gradient_at

    def direction(self, seed: int = 0) -> Array:
        """A random unit vector, 0 where torch holds a parameter fixed."""
        return random_direction(self.model, seed)

    def _checked_gradient(self) -> Tensor:
        """The gradient with its graph, once both derivatives are known to be right.

        A model in float32 is checked as its copy in float64, on two samples: the same operations.
        """
        if self.leaves[0].dtype != torch.float64:
            two = {name: tensor[:2] for name, tensor in self.samples.items()}
            Oracle(copy.deepcopy(self.model).double(), two)._checked_gradient()
            return self._gradient_with_graph()
        first, v = self._gradient_with_graph(), self.direction()
        product = self._second(first @ torch.from_numpy(v)).numpy()
        confirm(self.rows().numpy() @ v, self.losses_along(v), "gradient")
        confirm(product, self.gradient_along(v), "double backward")
        return first

    def _gradient_with_graph(self) -> Tensor:
        loss = torch.stack(self.losses()).mean()
        return flat(torch.autograd.grad(loss, self.leaves, create_graph=True, allow_unused=True), self.leaves)

    def _second(self, scalar: Tensor) -> Tensor:
        if not scalar.requires_grad:
            return flat([None] * len(self.leaves), self.leaves)
        return flat(torch.autograd.grad(scalar, self.leaves, retain_graph=True, allow_unused=True), self.leaves)
