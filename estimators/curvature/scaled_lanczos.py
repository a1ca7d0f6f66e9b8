"""The largest eigenvalue of D^(-1/2) H D^(-1/2) with its bound: what certifies that a diagonal D dominates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from estimators.curvature.lanczos import Ritz, lanczos
from estimators.numbers.vectors import random_start
from estimators.task.products import Product


def certify(
    product: Product,
    scaling: Tensor,
    active: Tensor,
    generator: torch.Generator,
    like: Tensor,
    steps: int,
    delta: float,
    stop: Callable[[Ritz], bool],
    local: bool = False,
) -> Ritz:
    """Lanczos on D^(-1/2) H D^(-1/2) over the active rows, from a start drawn after D; ``local``: without a basis."""
    inverse_root = torch.where(active, scaling.clamp_min(1e-300).rsqrt(), torch.zeros_like(scaling))

    def scaled(block: Tensor) -> Tensor:
        image = product((inverse_root[:, None] * block).to(like.dtype))
        return (inverse_root[:, None] * image).to(like.dtype)

    start = torch.where(active, random_start(scaling.numel(), generator, like), 0.0)
    return lanczos(scaled, start, int(active.sum()), steps, delta, generator, stop, check_from=8, local=local)
