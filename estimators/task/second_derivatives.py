"""Operations of torch whose own second derivative is missing or wrong, replaced by formulas that have the right one.

Bags of embeddings and the hard sigmoid have none. The fused kernel of weight normalisation has a wrong one without a
word (torch 2.13, the first or the last dimension kept): products with the Hessian are 5 to 31% off and u'Hv differs
from v'Hu.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from estimators.task.function_modes import FunctionMode

SIGNATURE = inspect.signature(F.embedding_bag)
REWRITE = (
    "write its backward with operations on saved tensors that can be differentiated (nothing detached, under no_grad "
    "or kept in ctx from forward), or write the formula and leave backward to autograd"
)
"""What to do where a second derivative is wrong."""


class TwiceDifferentiable(FunctionMode):
    """While it lasts, weight normalisation, hard sigmoids and bags of one row of tokens for each sample are their
    formulas."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func is torch._weight_norm:
            return weight_norm(*args, **kwargs)
        if func is F.hardsigmoid:
            return hard_sigmoid(*args, **kwargs)
        if func is F.embedding_bag:
            named = SIGNATURE.bind(*args, **kwargs)
            named.apply_defaults()
            if named.arguments["input"].dim() == 2 and named.arguments["max_norm"] is None:
                a = named.arguments
                return bag(a["input"], a["weight"], a["mode"], a["per_sample_weights"], a["padding_idx"])
        return func(*args, **kwargs)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / |v| with one norm for each index of ``dim``, or one of all numbers where it is -1 (Salimans & Kingma 2016).

    ``g`` has size 1 in the other dimensions.
    """
    others = [i for i in range(v.dim()) if i != dim]
    squares = v.square().sum(others, keepdim=True) if others else v.square()
    return v * (g / squares.sqrt())


def hard_sigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    result = F.hardtanh(x + 3, 0.0, 6.0) / 6
    return x.copy_(result) if inplace else result


def bag(tokens: Tensor, weight: Tensor, mode: str, factors: Tensor | None, padding: int | None) -> Tensor:
    """Sum, mean or maximum over the tokens (n, T) of their rows of the weight; padding counts in none of them."""
    rows = F.embedding(tokens, weight)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    if padding is not None:
        counted = tokens != padding % weight.shape[0]
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    if mode == "max":
        highest: Tensor = rows.masked_fill(~counted.unsqueeze(-1), -torch.inf).max(1).values
        return highest.masked_fill(~counted.any(1, keepdim=True), 0)
    total = rows.masked_fill(~counted.unsqueeze(-1), 0).sum(1)
    return total if mode == "sum" else total / counted.sum(1, keepdim=True).clamp(min=1)
