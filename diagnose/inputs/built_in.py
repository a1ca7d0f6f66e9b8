"""A task whose model goes by a name: size of input and output follow the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs.data import objects, targets
from diagnose.inputs.data.tables import Array, Table, Text, checked
from diagnose.inputs.models import modules, networks
from diagnose.inputs.models.networks import Network
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
from diagnose.settings import Loss, Settings, resolve, task_name


def open_network(network: Network, data: Any, settings: Settings, dtype: torch.dtype, device: torch.device) -> Drawn:
    """Open data for a built-in model and build the model to fit it, in ``dtype`` on ``device``.

    Raises:
        InputError: a loss that the model doesn't have, data of a kind that it can't take, unfit labels.
    """
    loss = _loss_of(network, settings.loss)
    name = task_name(data)
    source = read(data, settings)
    if network.takes == "text":
        return _open_language(network, source, name, settings, dtype, device)
    if isinstance(source, (Text, dict)):
        kind = "text" if isinstance(source, Text) else "a mapping of tensors"
        hint = "use `gpt2-mini`" + ("; rows of numbers are not read from a `.txt`" if kind == "text" else "")
        raise InputError(f"{network.name} takes rows of numbers, not {kind}", name, hint)
    refuse_length(settings, name)
    table = source if isinstance(source, Table) else checked(objects.table(source, name))
    return _open_table(network, table, shown(data, table), loss, settings, dtype, device)


def _open_table(
    network: Network,
    table: Table,
    name: str,
    loss: str,
    settings: Settings,
    dtype: torch.dtype,
    device: torch.device,
) -> Drawn:
    inputs, divisor, notes = _inputs(network, table)
    encoded = targets.encode(table, loss, network.name, _instead(network))
    shape = tuple(inputs.shape[1:])
    model = networks.build(network, shape, encoded.outputs, settings.seed).to(device, dtype)
    resolved = resolve(settings, network.family, coordinates(model), table.rows)
    index = draw(table.rows, resolved.samples, settings.seed)
    what = f"{shape[0]:,} features" if len(shape) == 1 else "images of " + "×".join(map(str, shape))
    return Drawn(
        model=model,
        samples=(
            floating(inputs, index, divisor, dtype).to(device),
            target_tensor(encoded.values, index, dtype).to(device),
        ),
        loss=loss,
        rows=table.rows,
        family=network.family,
        resolved=resolved,
        lines=(
            model_line(network.name, model, network.form),
            ", ".join([f"{name}: {table.rows:,} rows", what, encoded.note, *notes]),
            f"loss {loss}",
        ),
    )


def _open_language(
    network: Network, source: Any, name: str, settings: Settings, dtype: torch.dtype, device: torch.device
) -> Drawn:
    if not isinstance(source, (Text, dict)):
        raise InputError(
            f"{network.name} takes text, not rows of numbers", name, "use `pydoc-topics` or a `.txt` file, or `mlp`"
        )
    size, whole, line = sequences(source, name, settings, networks.POSITIONS, network.name)
    model = networks.build(network, (), 0, settings.seed).to(device, dtype)
    rows = int(whole["labels"].shape[0])
    resolved = replace(resolve(settings, network.family, coordinates(model), rows), max_length=size)
    index = torch.from_numpy(draw(rows, resolved.samples, settings.seed))
    samples = {key: tensor[index] for key, tensor in whole.items()}
    _check_tokens(samples, networks.VOCABULARY, networks.POSITIONS, network.name)
    return Drawn(
        model=model,
        samples=modules.cast(samples, "cross-entropy", dtype, device),
        loss="cross-entropy",
        rows=rows,
        family=network.family,
        resolved=resolved,
        lines=(model_line(network.name, model, network.form), line, "loss cross-entropy of the next token"),
    )


def _loss_of(network: Network, asked: Loss | None) -> str:
    if asked is None:
        return network.losses[0]
    if not isinstance(asked, str):
        raise InputError("a loss function fits a module of yours only", network.name, "name one of the losses")
    if asked in network.losses:
        return asked
    others = [n.name for n in networks.NETWORKS.values() if asked in n.losses]
    raise InputError(
        f"{network.name} has the loss {' or '.join(network.losses)}, not {asked}",
        "--loss",
        f"leave it out, or use {' or '.join(f'`{name}`' for name in others)}",
    )


def _instead(network: Network) -> str:
    """What to use for targets that are numbers to predict."""
    return "use `--loss squared`" if "squared" in network.losses else "use `mlp` with `--loss squared`"


def _inputs(network: Network, table: Table) -> tuple[Array, float, tuple[str, ...]]:
    """The inputs in the form that the model takes, their divisor, and how they were read."""
    if network.takes == "rows":
        return table.inputs.reshape(table.rows, -1), table.divisor, table.notes
    if table.images is not None:
        return table.images, 1.0, ("pixels scaled to [0, 1]",)
    if table.inputs.ndim == 4:
        return table.inputs, table.divisor, table.notes
    hint = "use `mlp`, or save the images with their shape (n, C, H, W) in a `.npz` file"
    raise InputError(f"{network.name} takes images, not rows of features", table.name, hint)


def _check_tokens(samples: Mapping[str, Tensor], vocabulary: int, positions: int, model: str) -> None:
    tokens = samples.get("input_ids")
    if tokens is None or tokens.is_floating_point() or tokens.dim() != 2:
        raise InputError(f"{model} takes token numbers, shape (n, tokens)", "input_ids", "give them as whole numbers")
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise InputError(f"token {int(tokens.max())}, {model} has {vocabulary}", "input_ids", "use bytes as tokens")
    if tokens.shape[1] > positions:
        raise InputError(f"{tokens.shape[1]} tokens, {model} has {positions} positions", "input_ids", "cut the rows")
