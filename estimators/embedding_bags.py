"""Bags of embeddings that can be differentiated twice: torch's own kernel for them has no second derivative."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIGNATURE = inspect.signature(F.embedding_bag)


def twice_differentiable(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """While it lasts, bags of one row of tokens for each sample are sums of embeddings."""
    bags = any(isinstance(module, nn.EmbeddingBag) for module in model.modules())
    return _Bags() if bags else contextlib.nullcontext()


class _Bags(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.embedding_bag:
            named = SIGNATURE.bind(*args, **(kwargs or {}))
            named.apply_defaults()
            if named.arguments["input"].dim() == 2 and named.arguments["max_norm"] is None:
                a = named.arguments
                return bag(a["input"], a["weight"], a["mode"], a["per_sample_weights"], a["padding_idx"])
        return func(*args, **(kwargs or {}))


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
