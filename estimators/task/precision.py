"""A problem in float64, and how far rounding alone moves losses and gradients.

In float64 what forward would round to a shorter format on its way stays in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.numbers.formats import COARSE
from estimators.task import memory_limit
from estimators.task.function import Function
from estimators.task.function_modes import FunctionMode

UNITS = 8
"""Weights are moved by so many units in their last place, and what that changes counts so many times."""
LAST_PLACES = 64
"""Units in the last place of a loss or gradient that it may be off by where its own sum is all that rounds."""
SHORTER = (torch.float32, torch.float16, torch.bfloat16)
CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class InDouble(FunctionMode):
    """While it lasts, shorter number formats that a function is asked for are float64.

    Norms and softmaxes of transformers round to float32 whatever their input is: differences of such a loss drown in
    that, those of the same loss in float64 do not.
    """

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func in CASTS:
            func = Tensor.double
        return func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in SHORTER else value


def double_copy(problem: Function) -> Function | None:
    """The problem in float64, to be used under :class:`InDouble`; None where there is no room for it, or where forward
    does not take it or does not compute the same in it."""
    if not memory_limit.room_for_double(problem):
        return None
    double = problem.in_double()
    try:
        with InDouble():
            loss, _ = double.loss_and_gradient()
    except Exception:
        # Whatever forward raises for numbers in float64, it was seen to take those in its own format.
        return None
    own = problem.loss()
    rough = 5e-2 if problem.precision in COARSE else 1e-3
    return double if abs(loss - own) <= rough * max(abs(own), 1.0) else None


def at_rounded_weights(problem: Function) -> Function:
    """The problem with its weights moved by :data:`UNITS` in the last place, up or down at random: rounding on the way
    through a model does about as much to its losses (backward error), amplified as the model amplifies it."""
    unit = UNITS * torch.finfo(problem.precision).eps
    generator = torch.Generator().manual_seed(0)
    return problem.at(
        {
            name: p * (1 + unit * (2 * torch.randint(2, p.shape, generator=generator) - 1).to(p))
            for name, p in problem.parameters.items()
        }
    )
