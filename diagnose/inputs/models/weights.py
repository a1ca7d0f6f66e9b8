"""Tensors by name and the module that they belong to: names cleaned of wrappers, every tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.settings import printable

LEADING = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What DataParallel, torch.compile and their like put before the names of what they wrap."""
INSIDE = LEADING[1:]
"""Those that also occur within a name, where a part of a model was wrapped."""
COUNTER = "num_batches_tracked"
OWN = "for a module of your own a function that makes it: `package.module:factory` in place of the file"
LISTED = 3
TRAINED = (".weight", ".bias")
"""Names that whole numbers have only where they were quantised."""
FORMATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Misfit:
    """How tensors differ from what a model has; shapes are those in the file and in the model."""

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = ()

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def __str__(self) -> str:
        """The first few tensors that differ."""
        parts = [
            *(f"{name} is {was} in the file, {has} in the model" for name, was, has in self.shapes),
            *(f"{name} is missing" for name in self.missing),
            *(f"{name} is not in the model" for name in self.unexpected),
        ]
        more = f"; and {len(parts) - LISTED:,} more" if len(parts) > LISTED else ""
        return printable("; ".join(parts[:LISTED])) + more

    def error(self, where: str, architecture: str, hint: str) -> InputError:
        """The error that names them."""
        return InputError(f"the tensors do not fit {printable(architecture)}", f"{where}: {self}", hint)


def unwrapped(tensors: Mapping[str, Tensor], names: Iterable[str], where: str) -> dict[str, Tensor]:
    """Names without the prefixes of wrappers, each taken away only while the model has no such name.

    Raises:
        InputError: two tensors of the file come to the same name.
    """
    known, result = set(names), dict[str, Tensor]()
    for name, tensor in tensors.items():
        clean = name
        while clean not in known and (inner := inner_name(clean)) != clean:
            clean = inner
        if clean in result:
            raise InputError("two tensors for one name", f"{where}: {printable(clean)}", "save the state dict again")
        result[clean] = tensor
    return result


def inner_name(name: str) -> str:
    """A name without one prefix of a wrapper; the name itself where it has none."""
    for prefix in LEADING:
        if name.startswith(prefix):
            return name[len(prefix) :]
    for prefix in INSIDE:
        name = name.replace(f".{prefix}", ".", 1)
    return name


def number_format(tensors: Mapping[str, Tensor], where: str) -> torch.dtype:
    """The number format for a model of these weights: the widest of theirs, and float32 at least.

    What a model computes for itself (a mean of pixels, sinusoids for positions) is not in the file and would
    otherwise be rounded with its weights.

    Raises:
        InputError: complex, quantised or other numbers that no derivative is taken of; no number at all.
    """
    formats = {torch.float32}
    found = False
    for name, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex() or name.endswith(TRAINED):
            if tensor.dtype not in FORMATS:
                what = f"{where}: {printable(name)} is {short(tensor.dtype)}"
                raise InputError("weights in a number format without derivatives", what, "save them as float32")
            formats.add(tensor.dtype)
            found = True
    if not found:
        kinds = ", ".join(sorted({short(tensor.dtype) for tensor in tensors.values()})) or "no tensor"
        raise InputError("no floating-point weights", f"{where}: {kinds}", "save them as float32")
    return reduce(torch.promote_types, formats)


def short(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def compared(has: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Misfit:
    """How tensors differ from the state dict of a model. Batch norm's count of batches may be missing."""
    return Misfit(
        missing=[name for name in has if name not in tensors and not name.endswith(COUNTER)],
        unexpected=[name for name in tensors if name not in has],
        shapes=[
            (name, tuple(tensor.shape), tuple(has[name].shape))
            for name, tensor in tensors.items()
            if name in has and tensor.shape != has[name].shape
        ],
    )


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str, architecture: str) -> nn.Module:
    """The module with these weights, in float32 at least; every tensor must find its place.

    Raises:
        InputError: naming the first tensors that differ.
    """
    has = model.state_dict()
    clean = unwrapped(tensors, has, where)
    misfit = compared(has, clean)
    if misfit:
        raise misfit.error(where, architecture, f"name the architecture that it was saved from, or {OWN}")
    model.to(number_format(clean, where)).load_state_dict(clean, strict=False)
    return model.eval()


def owned(model: nn.Module) -> nn.Module:
    """The module with memory of its own, so that a file that changes later changes nothing; ties stay tied."""
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return model
