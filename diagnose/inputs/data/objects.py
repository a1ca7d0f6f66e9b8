"""Data that Python hands over: tensors, mappings of tensors, loaders of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diagnose.errors import InputError
from diagnose.inputs.data import pixels
from diagnose.inputs.data.tables import Table
from diagnose.inputs.random_state import seeded
from diagnose.settings import printable

Samples = tuple[Tensor, Tensor] | dict[str, Tensor]
FORMS = "give a name, a path, (inputs, targets), a mapping of tensors with `labels`, or a DataLoader of such batches"


def gather(data: Any, seed: int) -> Samples:
    """Samples of an object, on the device that they are on.

    Raises:
        InputError: another kind of object, no samples, lengths that differ, NaN or infinity.
    """
    samples = concatenate(data, seed) if isinstance(data, DataLoader) else batch(data)
    named = _named(samples)
    sizes = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in named.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise InputError("the tensors count different numbers of samples", listed, "give one row of each for a sample")
    if not all(sizes.values()):
        raise InputError("no samples", "data", "the first dimension counts them")
    for name, tensor in named.items():
        refuse_non_finite(tensor, name)
    return samples


def batch(data: Any) -> Samples:
    """One batch, or all of the data, as tensors."""
    if isinstance(data, Mapping):
        named = {str(name): _tensor(value, str(name)) for name, value in data.items()}
        if "labels" not in named:
            held = printable(", ".join(named)) or "nothing"
            raise InputError("no labels among the samples", held, "add a tensor under `labels`, -100 for none")
        return named
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return _tensor(data[0], "inputs"), _tensor(data[1], "targets")
    raise InputError(f"data of type {printable(type(data).__name__)}", "data", FORMS)


def concatenate(loader: DataLoader[Any], seed: int) -> Samples:
    """All batches of a loader as one; a shuffling loader is read in an order that follows ``seed``."""
    own = loader.generator.get_state() if loader.generator is not None else None
    with seeded(seed):
        batches = [batch(one) for one in loader]
    if own is not None and loader.generator is not None:
        loader.generator.set_state(own)
    if not batches:
        raise InputError("no samples", "data", "the DataLoader gave no batch")
    parts = [_named(one) for one in batches]
    try:
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    except (RuntimeError, KeyError) as error:
        reason = printable(str(error).splitlines()[0])
        raise InputError("batches of different form", reason, "pad all samples to one length") from None
    if isinstance(batches[0], dict):
        return joined
    return joined["inputs"], joined["targets"]


def table(samples: tuple[Tensor, Tensor], name: str) -> Table:
    """Tensors for a model by name: the same as arrays of a file."""
    inputs, targets = (tensor.cpu() for tensor in samples)
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.dim() != 1:
        raise InputError(f"targets of shape {tuple(targets.shape)}", name, "give one target for each row")
    x, y = _array(inputs), _array(targets)
    if x.ndim in (3, 4):
        return pixels.table(name, x, y, ())
    return Table(name, x, y, notes=("features as they are",))


def refuse_non_finite(tensor: Tensor, name: str) -> None:
    """Raise InputError with the place of the first NaN or infinity."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return
    flat = ~torch.isfinite(tensor.reshape(tensor.shape[0], -1))
    row = int(flat.any(1).nonzero()[0])
    column = int(flat[row].nonzero()[0])
    where = f"{printable(name)}, row {row + 1}, column {column + 1} (counted from 1)"
    raise InputError("NaN or infinity in the data", where, "drop these rows or fill in the values")


def _named(samples: Samples) -> dict[str, Tensor]:
    return samples if isinstance(samples, dict) else {"inputs": samples[0], "targets": samples[1]}


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value.detach()
    elif isinstance(value, (np.ndarray, list)):
        try:
            tensor = torch.as_tensor(np.array(value))
        except (TypeError, ValueError):
            raise InputError("no array of numbers", printable(name), "give a tensor or a numpy array") from None
    else:
        raise InputError(f"{printable(type(value).__name__)} instead of a tensor", printable(name), FORMS)
    if tensor.layout != torch.strided or tensor.is_complex():
        raise InputError("not a dense real tensor", printable(name), "convert it with `.to_dense()` or `.real`")
    return tensor


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    array: np.ndarray[Any, np.dtype[Any]] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
