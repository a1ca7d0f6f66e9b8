"""Vectors of any number format: gradients, products and norms summed in float64, and random starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SLICE = 1 << 20
"""Numbers of a vector that are widened to float64 at once."""


def loss_gradients(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """d loss / d leaf, 0 where the loss does not reach it; detached: older torch makes such zeros ask for gradients."""
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    parts = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [part.detach() for part in parts]


def dot(a: Tensor, b: Tensor) -> float:
    """a'b, summed in float64 without float64 copies of the whole vectors."""
    return sum(
        float(x.double() @ y.double()) for x, y in zip(torch.split(a, SLICE), torch.split(b, SLICE), strict=True)
    )


def norm(a: Tensor) -> float:
    """|a|, likewise."""
    return math.hypot(*(float(x.double().norm()) for x in torch.split(a, SLICE)))


def unit(a: Tensor) -> Tensor:
    """a/|a|: in float32 the length of a small vector may not be a number."""
    length, found = norm(a), torch.empty_like(a)
    for x, into in zip(torch.split(a, SLICE), torch.split(found, SLICE), strict=True):
        into.copy_(x.double() / length)
    return found


def random_start(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """A standard normal vector of shape (n,), drawn on the CPU so that it is the same on every device."""
    found = torch.empty(n, dtype=like.dtype, device=like.device)
    for into in torch.split(found, SLICE):
        into.copy_(torch.randn(into.numel(), generator=generator, dtype=torch.float64))
    return found
