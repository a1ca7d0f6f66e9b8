"""Modes that see how embeddings are looked up while a forward runs, and change it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from estimators.errors import InputError
from estimators.task.function_modes import FunctionMode

UNNAMED = "an embedding"
"""A table that is no parameter but made of some."""
Lookup = Callable[..., Tensor]
LOOKUPS: Mapping[Lookup, inspect.Signature] = {
    function: inspect.signature(function) for function in (F.embedding, F.embedding_bag)
}


class NoRow(InputError):
    """A number that an embedding has no row for."""


class RefusedNumbers(FunctionMode):
    """While it lasts, numbers that an embedding has no row for are refused before they are looked up: torch names
    no number, and on an accelerator it ends the process."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func in (F.embedding, F.embedding_bag):
            given = dict(zip(("input", "weight"), args, strict=False)) | dict(kwargs)
            numbers, rows = given["input"], given["weight"].shape[0]
            bad = numbers[(numbers < 0) | (numbers >= rows)]
            # embedding_bag takes the two in the other order as well
            if bad.numel() and not numbers.is_floating_point():
                raise NoRow(
                    f"number {int(bad[0]):,}, but an embedding of {self.model} has rows 0 to {rows - 1:,}",
                    hint="drop or renumber what the model has no row for, or build it with more rows; positions count "
                    "too: `--max-length` shortens sequences",
                )
        return func(*args, **kwargs)


class Watch(FunctionMode):
    """While it lasts, notes how embeddings are looked up, and the formats of what depends on the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.sparse = False
        self.paddings: set[tuple[int, int]] = set()
        self.formats: set[torch.dtype] = set()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func in LOOKUPS:
            named = LOOKUPS[func].bind(*args, **kwargs).arguments
            self.sparse |= bool(named.get("sparse"))
            if func is F.embedding and named.get("padding_idx") is not None:
                self.paddings.add((named["weight"].data_ptr(), named["padding_idx"] % named["weight"].shape[0]))
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and output.requires_grad and output.is_floating_point():
            self.formats.add(output.dtype)
        return output


class DenseGradients(FunctionMode):
    """While it lasts, gradients of embeddings are dense."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func in LOOKUPS:
            named = LOOKUPS[func].bind(*args, **kwargs).arguments
            return func(**{**named, "sparse": False})
        return func(*args, **kwargs)


class FreePadding(FunctionMode):
    """While it lasts, a row of padding has a gradient like others: torch holds it fixed, on purpose."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func is F.embedding:
            named = LOOKUPS[func].bind(*args, **kwargs).arguments
            return func(**{**named, "padding_idx": None})
        return func(*args, **kwargs)


class ShiftedPadding(FunctionMode):
    """While it lasts, what an embedding looks up at its padding is another row; ``name`` None: notes which could be.

    ``names``: of weights by their address, empty for those that are no parameters to be measured.
    """

    def __init__(self, names: Mapping[int, str], name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.names: dict[str, None] = {}
        self._named = names

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        output = func(*args, **kwargs)
        named = LOOKUPS[func].bind(*args, **kwargs).arguments if func is F.embedding else {}
        weight = named.get("weight")
        if named.get("padding_idx") is None or weight is None:
            return output
        name = self._named.get(weight.data_ptr(), UNNAMED)
        if not name:
            return output
        self.names[name] = None
        if self.name != name:
            return output
        padding = (named["input"] == named["padding_idx"] % weight.shape[0]).unsqueeze(-1)
        generator = torch.Generator().manual_seed(0)
        step = torch.randn(weight.shape[1], generator=generator).to(weight) * weight.square().mean().sqrt()
        return torch.where(padding, output + step, output)
