"""Modules whose backward autograd believes: second derivatives that are wrong, and gradients that are of no loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

Backward = Callable[[Any, Tensor, Tensor], Tensor]


def wine() -> tuple[Tensor, Tensor]:
    x, y = load_wine(return_X_y=True)
    return torch.from_numpy((x - x.mean(0)) / x.std(0)), torch.from_numpy(y)


def own(forward: Callable[[Tensor], Tensor], backward: Backward, keep: Callable[[Tensor], Tensor]) -> nn.Module:
    """A module that applies a function with this backward, given what it keeps in ctx and the saved input."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.intermediate = keep(x)
            return forward(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return backward(grad, x, ctx.intermediate)

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = Function.apply(x)  # type: ignore[no-untyped-call]
            return result

    return Module()


def once(grad: Tensor, x: Tensor, _: Tensor) -> Tensor:
    with torch.no_grad():
        return grad * (1 - x.tanh() ** 2)


class Reading(nn.Module):
    """tanh whose slope is right and whose factor no second derivative passes through."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.tanh()
        if y.requires_grad:
            slope = (1 - y**2).detach()
            z = x.detach().requires_grad_()
            y = y.detach() + slope * (x - z.detach())
        return y


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = 3 * x**2 * grad
        return slope


class Cubic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        cubed: Tensor = OnceDifferentiable.apply(x)  # type: ignore[no-untyped-call]
        return cubed


def kept(x: Tensor) -> Tensor:
    return 1 - x.tanh() ** 2


SECOND = {
    "an intermediate kept in ctx": own(torch.tanh, lambda grad, _, slope: grad * slope, kept),
    "a factor under no_grad": own(torch.tanh, once, kept),
    "a factor detached in backward": own(torch.tanh, lambda g, x, _: g * (1 - x.tanh() ** 2).detach(), kept),
    "a slope detached in forward": Reading(),
    "once differentiable": Cubic(),
}
FIRST = {
    "rounding passed straight through": own(lambda x: (4 * x).round() / 4, lambda grad, *_: grad, kept),
    "a reversed gradient": own(lambda x: x.clone(), lambda grad, *_: -grad, kept),
    "clamping in backward": own(lambda x: x.clone(), lambda grad, *_: grad.clamp(-1e-3, 1e-3), kept),
}


def network(layer: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(13, 6), layer, nn.Linear(6, 3)).to(dtype)
