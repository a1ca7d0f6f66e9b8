"""A task whose model is a module of the user's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from diagnose.inputs.data import targets
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.data.tables import Table, Text
from diagnose.inputs.models import modules
from diagnose.inputs.sampling import (
    Drawn,
    coordinates,
    draw,
    floating,
    model_line,
    read,
    refuse_length,
    sequences,
    shown,
    target_tensor,
)
from diagnose.settings import Loss, Settings, printable, resolve, task_name


def open_module(
    model: nn.Module, data: Any, settings: Settings, dtype: torch.dtype | None, device: torch.device | None
) -> Drawn:
    """Open data for a module; the module stays as it is, a copy is converted where ``dtype`` or ``device`` are given.

    Raises:
        InputError: data that can't be used, targets that don't fit the loss, a forward that fails on them.
    """
    source = read(data, settings)
    loss = settings.loss or "cross-entropy"
    used = modules.placed(model, dtype, device)
    kind_of_number, home = modules.home(used)
    whole, size, line = _samples_for(used, source, data, settings, loss)
    rows = int((whole["labels"] if isinstance(whole, dict) else whole[1]).shape[0])
    kind = modules.family(used, whole)
    resolved = replace(resolve(settings, kind, coordinates(used), rows), max_length=size)
    index = torch.from_numpy(draw(rows, resolved.samples, settings.seed))
    cast = modules.cast(whole, loss, kind_of_number, home)
    index = index.to(home)
    samples = {k: t[index] for k, t in cast.items()} if isinstance(cast, dict) else (cast[0][index], cast[1][index])
    modules.probe(used, samples)
    called = loss if isinstance(loss, str) else printable(getattr(loss, "__name__", "of yours"))
    return Drawn(
        used, samples, loss, rows, kind, resolved, (model_line(task_name(model), used, ""), line, f"loss {called}")
    )


def _samples_for(
    model: nn.Module, source: Any, data: Any, settings: Settings, loss: Loss
) -> tuple[Samples, int | None, str]:
    """All samples for a module, the length of a text block, and a line that says how they were read."""
    name = task_name(data)
    if isinstance(source, Text):
        size, whole, line = sequences(source, name, settings, modules.positions(model), task_name(model))
        return whole, size, line
    refuse_length(settings, name)
    if isinstance(source, Table):
        kind = loss if isinstance(loss, str) else "squared"
        encoded = targets.encode(source, kind, task_name(model), "use `--loss squared`")
        images = source.images if modules.wants_images(model) else None
        inputs, divisor = (source.inputs, source.divisor) if images is None else (images, 1.0)
        everything = np.arange(source.rows)
        samples = (
            floating(inputs, everything, divisor, torch.float64),
            target_tensor(encoded.values, everything, torch.float64),
        )
        line = f"{shown(data, source)}: {source.rows:,} rows of shape {tuple(inputs.shape[1:])}, {encoded.note}"
        return samples, None, line
    if isinstance(source, dict):
        shapes = ", ".join(f"{printable(key)} {tuple(value.shape)}" for key, value in source.items())
        return source, None, f"{name}: {shapes}"
    inputs, labels = source
    return source, None, f"{name}: inputs {tuple(inputs.shape)}, targets {tuple(labels.shape)}"
