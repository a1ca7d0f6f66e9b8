"""Steps that every way of opening a task shares: reading, drawing the sample set, describing it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.inputs.data import catalogue, objects
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.data.tables import Array, Rows, Table, Text
from diagnose.settings import Family, Loss, Resolved, Settings, task_name
from estimators.results import Finding

BLOCK = 1 << 20
"""Numbers that are copied together."""


@dataclass(frozen=True)
class Drawn:
    """What opening model and data gave, before the last common steps; ``training`` and ``samples`` as in ``Opened``."""

    model: nn.Module
    samples: Samples
    training: Samples
    loss: Loss
    rows: int
    family: Family
    resolved: Resolved
    lines: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    held_out: Samples | None = None
    tests: int = 0


def read(data: Any, settings: Settings) -> Table | Text | Rows | Samples:
    """The data, opened: a table or text from a name or a path, tensors from an object."""
    if isinstance(data, (str, Path)):
        return catalogue.load(data, settings.features)
    if settings.features is not None:
        raise InputError("only LIBSVM text takes a number of features", "--features", "leave it out")
    return objects.gather(data, settings.seed)


def draw(rows: int, count: int, seed: int) -> Array:
    """Indices of a draw of ``count`` of ``rows`` without replacement, ascending; follows ``seed``."""
    if count >= rows:
        return np.arange(rows)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:count]
    index: Array = order.sort().values.numpy()
    return index


@dataclass(frozen=True)
class Split:
    """Indices of the sample set, ascending; of all rows that runs train on, the sample set first; of those held out."""

    samples: Array
    training: Array
    held_out: Array


def split(rows: int, count: int, tests: int, seed: int, labelled: Array | None = None) -> Split:
    """Draw the sample set, and part what is left.

    At most as many samples as the sample set has are held out: of the test part, numbered from ``rows`` on, where the
    data has one, else of the rows outside the sample set. Runs train on all other rows, of the test part on none. Rows
    outside the sample set that ``labelled``, shape (rows + tests,), says to have no label are left out: they have no
    loss.
    """
    samples = draw(rows, count, seed)
    outside = np.setdiff1d(np.arange(rows), samples)
    rest = np.arange(rows, rows + tests) if tests else outside
    if labelled is not None:
        rest, outside = rest[labelled[rest]], outside[labelled[outside]]
    held_out = rest[draw(len(rest), len(samples), seed)]
    return Split(samples, np.concatenate([samples, np.setdiff1d(outside, held_out)]), held_out)


def with_rows(resolved: Resolved, rows: Split) -> Resolved:
    """The settings, with a batch of no more than all rows that runs train on."""
    return replace(resolved, batch_size=min(resolved.batch_size, len(rows.training)))


def first(samples: Samples, count: int) -> Samples:
    """The first of the samples, without a copy; the samples themselves where they are no more."""
    tensors = list(samples.values()) if isinstance(samples, dict) else list(samples)
    if tensors[0].shape[0] == count:
        return samples
    if isinstance(samples, dict):
        return {name: tensor[:count] for name, tensor in samples.items()}
    return samples[0][:count], samples[1][:count]


def floating(inputs: Array, index: Array, divisor: float, dtype: torch.dtype) -> Tensor:
    """Some rows in floating point, copied a few at a time: another copy of all would be the largest in memory."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    chosen = np.empty((len(index), *inputs.shape[1:]), dtype=kind)
    step = max(1, BLOCK // max(1, inputs[:1].size))
    with np.errstate(over="ignore"):  # too large for the format: found as infinity afterwards
        for start in range(0, len(index), step):
            chosen[start : start + step] = inputs[index[start : start + step]]
    tensor = torch.from_numpy(chosen)
    return tensor if divisor == 1.0 else tensor.div_(divisor)


def target_tensor(values: Array, index: Array, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(values[index])
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def coordinates(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def refuse_length(settings: Settings, name: str) -> None:
    if settings.max_length is not None:
        raise InputError("only text is cut to a length", "--max-length", f"leave it out for {Path(name).name}")


def refuse_tokenizer(settings: Settings, name: str) -> None:
    if settings.tokenizer is not None:
        raise InputError("only text has tokens", "--tokenizer", f"leave it out for {Path(name).name}")


def shown(data: Any, source: Table) -> str:
    return catalogue.shown_name(data, source) if isinstance(data, (str, Path)) else task_name(data)


def table_line(name: str, rows: int, shape: tuple[int, ...], targets: str, notes: tuple[str, ...]) -> str:
    """How rows of numbers were read; ``shape`` is that of one, ``targets`` and ``notes`` are words."""
    what = f"{shape[0]:,} features" if len(shape) == 1 else "images of " + "×".join(map(str, shape))
    return ", ".join([f"{name}: {rows:,} rows", what, targets, *notes])


def model_line(name: str, model: nn.Module, form: str) -> str:
    d = coordinates(model)
    tied = sum(1 for _ in model.named_parameters(remove_duplicate=False)) > sum(1 for _ in model.named_parameters())
    once = " (tied tensors counted once)" if tied else ""
    return f"{name}: {d:,} parameters{once}" + (f", {form}" if form else "")
