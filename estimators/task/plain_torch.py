"""Modes of torch that would change what is measured or cut its graph, and how they stand while it is measured.

- Gradients are on, and attention takes the way that has second derivatives.
- Functions that are compiled run as they are written: their graphs cannot be differentiated twice.
- Nothing is checkpointed. Reentrant checkpoints let no gradient by the parameters inside through, and all of them
  compute again, in backward, with the weights that the module holds by then.
- Values of parametrized weights are not served from a cache that was opened outside.
- Products in float32 are products in float32, where torch is allowed shorter formats: TF32 for convolutions on an
  accelerator, by default, and bfloat16 by `set_float32_matmul_precision("medium")`.
- An autocast that stands around the call is off: numbers follow from the problem, not from where it is called. One
  inside of forward is a part of the model.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.utils.checkpoint as checkpoints
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

_DEVICE: ContextVar[torch.device | None] = ContextVar("plain_torch", default=None)
"""Of the outermost one that lasts."""
SHORTENED = ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul")
"""Backends, by their place in torch.backends, that may take float32 for a shorter format."""


@contextlib.contextmanager
def plain_torch(device: torch.device) -> Iterator[None]:
    """These modes while it lasts; within another one it costs next to nothing."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if _DEVICE.get() == device:
            yield
            return
        stack.callback(_DEVICE.reset, _DEVICE.set(device))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and loading it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False, cache_enabled=False))
        _whole_float32(stack)
        stack.enter_context(_replaced(checkpoints, "CheckpointFunction", _Whole))
        stack.enter_context(_replaced(checkpoints, "_checkpoint_without_reentrant_generator", _nothing))
        stack.enter_context(_replaced(parametrize, "_cache_enabled", 0))
        stack.enter_context(_replaced(parametrize, "_cache", {}))
        yield


def _whole_float32(stack: contextlib.ExitStack) -> None:
    if hasattr(torch.backends.cudnn, "conv"):
        for backend in map(operator.attrgetter, SHORTENED):
            stack.enter_context(_replaced(backend(torch.backends), "fp32_precision", "ieee"))
        return
    # Before torch 2.9 there is one switch for all products, and one for cudnn.
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")
    stack.enter_context(_replaced(torch.backends.cudnn, "allow_tf32", False))


class _Whole:
    """In place of the function behind reentrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what goes around a checkpoint that is not reentrant."""
    yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """A name of a module stands for something else; nothing where there is no such name, as in another version."""
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
