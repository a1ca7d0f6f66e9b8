"""Forward in float64: what it would round to a shorter format on the way stays in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.function_modes import FunctionMode

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
