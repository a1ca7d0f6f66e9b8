"""Model and data as measured: what the user named, opened, cut to the sample set and described in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diagnose.errors import InputError
from diagnose.inputs import built_in, existing_model
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.fingerprint import fingerprint
from diagnose.inputs.models import modules
from diagnose.inputs.models.catalogue import NETWORKS
from diagnose.inputs.models.find import open_model
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.weights import short
from diagnose.inputs.sampling import Drawn
from diagnose.inputs.scales import badly_scaled
from diagnose.settings import Family, Loss, Resolved, Settings, check, printable, task_name
from estimators.results import Finding
from estimators.task.checks import refuse_unmade
from estimators.task.losses import finite
from estimators.task.model_kinds import unwrapped

ROTATED = "coordinates turned by a random rotation (--rotate): a control, not your training"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Opened:
    """A task, ready for the estimators.

    ``samples`` is the sample set, a seeded draw in file order, ``held_out`` are others for validation. ``training`` are
    those that runs train on: the sample set, then all others that are not held out, in file order; the same object
    where there are no others. ``rows`` counts the whole data set (rows, for text blocks);
    ``understood`` says in words how model and data were read. A module of the user's is the object itself unless a
    number format or a device was asked for.
    """

    model_name: str
    data_name: str
    model: nn.Module
    samples: Samples
    training: Samples
    loss: Loss
    rows: int
    family: Family
    understood: tuple[str, ...]
    fingerprint: str
    findings: tuple[Finding, ...] = ()
    held_out: Samples | None = None

    @property
    def training_rows(self) -> int:
        """How many rows runs train on."""
        return _tensors(self.training)[0].shape[0]


def open_task(model: Any, data: Any, settings: Settings) -> tuple[Opened, Resolved]:
    """Open a model and its data, and fill in the defaults that depend on them.

    Args:
        model: a torch.nn.Module, a built-in name, a model file or folder, or ``package.module:factory``.
        data: an embedded name, a path, ``(inputs, targets)``, a mapping of tensors with ``labels``, or a
            DataLoader of such batches.

    Returns:
        The task, and the settings in use (``dtype``, ``device``, ``loss`` and, for text, ``max_length``
        as they are, not as they were asked for).

    Raises:
        InputError: whatever cannot be used, with its place and a way out.
    """
    check(settings)
    dtype = None if settings.dtype is None else DTYPES[settings.dtype]
    device = None if settings.device is None else _device(str(settings.device))
    if isinstance(model, nn.Module):
        model, _ = unwrapped(model)
        refuse_unmade(model)
        drawn = existing_model.open_module(
            Loaded(modules.placed(model, dtype, device), task_name(model), ""), data, settings
        )
    elif isinstance(model, (str, Path)):
        dtype, device = dtype or torch.float32, device or torch.device("cpu")
        found = open_model(str(model), settings)
        if isinstance(found, Loaded):
            drawn = existing_model.open_module(replace(found, module=found.module.to(device, dtype)), data, settings)
        else:
            drawn = built_in.open_network(found, data, settings, dtype, device)
    else:
        raise InputError(
            f"model of type {printable(type(model).__name__)}",
            "model",
            "give a torch.nn.Module or one of " + ", ".join(NETWORKS),
        )
    used, home = modules.home(drawn.model)
    for tensor in (*_tensors(drawn.training), *_tensors(drawn.held_out or {})):
        if tensor.is_floating_point() and not finite(tensor):
            raise InputError(f"a value too large for {short(used)}", task_name(data), "use `--dtype float64`")
    name = drawn.loss if isinstance(drawn.loss, str) else getattr(drawn.loss, "__name__", "function")
    resolved = replace(drawn.resolved, dtype=short(used), device=str(home), loss=printable(name))
    opened = Opened(
        model_name=task_name(model),
        data_name=task_name(data),
        model=drawn.model,
        samples=drawn.samples,
        training=drawn.training,
        loss=drawn.loss,
        rows=drawn.rows,
        family=drawn.family,
        understood=(
            *drawn.lines,
            _sample_line(resolved, drawn.rows, drawn.family),
            *_training_line(drawn),
            *_held_out_line(drawn),
            *([ROTATED] * resolved.rotate),
        ),
        fingerprint=fingerprint(drawn.model, drawn.training, drawn.held_out),
        findings=(*drawn.findings, *(badly_scaled(drawn.samples) if drawn.family == "linear" else ())),
        held_out=drawn.held_out,
    )
    return opened, resolved


def _tensors(samples: Samples) -> tuple[torch.Tensor, ...]:
    return tuple(samples.values()) if isinstance(samples, dict) else samples


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError("unknown device", f"--device {printable(name)}", "use cpu, cuda or cuda:1") from None
    try:
        if device.type == "meta":
            raise RuntimeError("holds no numbers")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("no such device on this machine", f"--device {printable(name)}", "use `cpu`") from None
    return device


def _sample_line(resolved: Resolved, rows: int, family: Family) -> str:
    unit = "sequences" if family == "language" else "rows"
    if resolved.samples == rows:
        return f"sample set: all {rows:,} {unit}"
    return f"sample set: {resolved.samples:,} of {rows:,} {unit}, drawn with seed {resolved.seed}"


def _training_line(drawn: Drawn) -> tuple[str, ...]:
    """What runs train on, in words; nothing where that is the sample set, or none is made."""
    if not drawn.resolved.training or drawn.training is drawn.samples:
        return ()
    unit = "sequences" if drawn.family == "language" else "rows"
    count = _tensors(drawn.training)[0].shape[0]
    held_out = 0 if drawn.held_out is None or drawn.tests else _tensors(drawn.held_out)[0].shape[0]
    left = drawn.rows - held_out
    out = "that are not held out" if held_out else "outside the test part" if drawn.tests else ""
    some = f"{count:,} of the {left:,} {unit} {out}".rstrip() + ", those with a label"
    return (f"runs train on all {count:,} {unit} {out}".rstrip() if count == left else f"runs train on {some}",)


def _held_out_line(drawn: Drawn) -> tuple[str, ...]:
    """What is held out, in words; nothing where no sample is."""
    if drawn.held_out is None:
        return ()
    unit = "sequences" if drawn.family == "language" else "rows"
    count = _tensors(drawn.held_out)[0].shape[0]
    outside = drawn.rows - drawn.resolved.samples
    of = f"{drawn.tests:,} {unit} of the test part" if drawn.tests else f"{outside:,} {unit} outside the sample set"
    return (f"held out for validation: {count:,} of the {of}",)
