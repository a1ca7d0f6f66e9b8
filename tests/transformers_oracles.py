"""Brute force for models of transformers: the model's own loss of one sequence at a time, alone and without padding.

Nothing here uses the estimators. A copy of the model runs in evaluation mode with eager attention, which has a
second derivative. The losses of transformers, and some of its norms and softmaxes, round to float32 on the way;
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
            [_flat(torch.autograd.grad(loss, self.leaves, allow_unused=True), self.leaves) for loss in self.losses()]
        )

    def operator(self) -> Callable[[Tensor], Tensor]:
        """v -> H v by double backward of the mean loss."""
        first = self._gradient_with_graph()
        return lambda vector: self._second(first @ vector)

    def hessian(self) -> Tensor:
        """H row by row, (d, d)."""
        return torch.stack([self._second(entry) for entry in self._gradient_with_graph()])

    def difference(self, vector: Tensor, step: float) -> Tensor:
        """(grad f(w + h v) - grad f(w - h v)) / 2h: no second derivative of autograd enters."""
        self._move(step * vector)
        ahead = self.rows().mean(0)
        self._move(-2 * step * vector)
        behind = self.rows().mean(0)
        self._move(step * vector)
        return (ahead - behind) / (2 * step)

    def _gradient_with_graph(self) -> Tensor:
        loss = torch.stack(self.losses()).mean()
        return _flat(torch.autograd.grad(loss, self.leaves, create_graph=True, allow_unused=True), self.leaves)

    def _second(self, scalar: Tensor) -> Tensor:
        if not scalar.requires_grad:
            return _flat([None] * len(self.leaves), self.leaves)
        return _flat(torch.autograd.grad(scalar, self.leaves, retain_graph=True, allow_unused=True), self.leaves)

    def _move(self, step: Tensor) -> None:
        with torch.no_grad():
            for leaf, part in zip(self.leaves, torch.split(step, [leaf.numel() for leaf in self.leaves]), strict=True):
                leaf.add_(part.reshape(leaf.shape))


def _flat(parts: Iterable[Tensor | None], like: Iterable[nn.Parameter]) -> Tensor:
    """One vector; 0 where a part is absent."""
    pairs = zip(parts, like, strict=True)
    return torch.cat([(torch.zeros_like(leaf) if part is None else part).reshape(-1) for part, leaf in pairs])
