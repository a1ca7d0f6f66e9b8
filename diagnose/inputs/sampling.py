"""Steps that every way of opening a task shares: reading, drawing the sample set, describing it."""

from __future__ import annotations

from dataclasses import dataclass
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
"""Numbers that are copied or looked at together."""


@dataclass(frozen=True)
class Drawn:
    """What opening model and data gave, before the last common steps."""

    model: nn.Module
    samples: Samples
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


def held_out(rows: int, index: Array, tests: int, seed: int, labelled: Array | None = None) -> Array:
    """Indices of samples that no run is trained on, at most as many as were drawn for training.

    Those of the test part, numbered from ``rows`` on, where the data has one; else of the rows outside ``index``.
    Those that ``labelled``, shape (rows + tests,), says to have no label are left out: nothing can be scored on them.
    """
    rest = np.arange(rows, rows + tests) if tests else np.setdiff1d(np.arange(rows), index)
    if labelled is not None:
        rest = rest[labelled[rest]]
    return rest[draw(len(rest), len(index), seed)]


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


def finite(tensor: Tensor) -> bool:
    """Whether all numbers are, looked at in pieces: what is computed on the way is larger than they are."""
    step = max(1, BLOCK // max(1, tensor[:1].numel()))
    return all(bool(torch.isfinite(part).all()) for part in torch.split(tensor, step))


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
