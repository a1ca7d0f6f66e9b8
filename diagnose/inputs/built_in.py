"""A task whose model goes by a name: size of input and output follow the data."""

from __future__ import annotations

from typing import Any

import torch

from diagnose.errors import InputError
from diagnose.inputs.data import objects, pixels, targets
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.data.tables import SCALED, Array, Rows, Table, Text, checked
from diagnose.inputs.models import networks
from diagnose.inputs.models.catalogue import NETWORKS, Network
from diagnose.inputs.models.resnet import COLOURS
from diagnose.inputs.sampling import (
    Drawn,
    coordinates,
    first,
    floating,
    model_line,
    read,
    refuse_length,
    refuse_tokenizer,
    shown,
    split,
    table_line,
    target_tensor,
    with_rows,
)
from diagnose.settings import Loss, Settings, resolve, task_name


def open_network(network: Network, data: Any, settings: Settings, dtype: torch.dtype, device: torch.device) -> Drawn:
    """Open data for a built-in model and build the model to fit it, in ``dtype`` on ``device``.

    Raises:
        InputError: a loss that the model doesn't have, data of a kind that it can't take, unfit labels.
    """
    loss = loss_of(network, settings.loss)
    table = table_for(network, data, settings)
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
    inputs, divisor, notes = inputs_for(network, table)
    encoded = targets.encode(table, loss, network.name, instead(network))
    shape = tuple(inputs.shape[1:])
    model = networks.build(network, shape, encoded.outputs, settings.seed).to(device, dtype)
    resolved = resolve(settings, network.family, coordinates(model), table.rows)
    rows = split(table.rows, resolved.samples, table.tests, settings.seed)

    def samples(index: Array) -> Samples:
        targets = target_tensor(encoded.values, index, dtype)
        return floating(inputs, index, divisor, dtype).to(device), targets.to(device)

    training = samples(rows.training)
    return Drawn(
        model=model,
        samples=first(training, len(rows.samples)),
        training=training,
        held_out=samples(rows.held_out) if len(rows.held_out) else None,
        tests=table.tests,
        loss=loss,
        rows=table.rows,
        family=network.family,
        resolved=with_rows(resolved, rows),
        lines=(
            model_line(network.name, model, network.form),
            table_line(name, table.rows, shape, encoded.note, notes),
            f"loss {loss}",
        ),
    )


def loss_of(network: Network, asked: Loss | None) -> str:
    """The loss asked for, else the network's default; InputError for one that it doesn't have."""
    if asked is None:
        return network.losses[0]
    if not isinstance(asked, str):
        raise InputError("a loss function fits a module of yours only", network.name, "name one of the losses")
    if asked in network.losses:
        return asked
    others = [n.name for n in NETWORKS.values() if asked in n.losses]
    raise InputError(
        f"{network.name} has the loss {' or '.join(network.losses)}, not {asked}",
        "--loss",
        f"leave it out, or use {' or '.join(f'`{name}`' for name in others)}",
    )


def instead(network: Network) -> str:
    """What to use for targets that are numbers to predict."""
    return "use `--loss squared`" if "squared" in network.losses else "use `mlp` with `--loss squared`"


def table_for(network: Network, data: Any, settings: Settings) -> Table:
    """The data for a network that takes rows of numbers or images; InputError for text and for mappings."""
    name = task_name(data)
    source = read(data, settings)
    if isinstance(source, (Text, Rows, dict)):
        kind = "a mapping of tensors" if isinstance(source, dict) else "text"
        takes = "images" if network.takes == "images" else "rows of numbers"
        raise InputError(f"{network.name} takes {takes}, not {kind}", name, "use `gpt2-mini`, or a language model")
    refuse_length(settings, name)
    refuse_tokenizer(settings, name)
    return source if isinstance(source, Table) else checked(objects.table(source, name))


def inputs_for(network: Network, table: Table, channels: int | None = None) -> tuple[Array, float, tuple[str, ...]]:
    """The inputs in the form that the model takes, their divisor, and how they were read.

    Args:
        channels: of the images that a model with weights takes.
    """
    if network.takes == "rows":
        return table.inputs.reshape(table.total, -1), table.divisor, table.notes
    if table.images is not None:
        return table.images, 1.0, (SCALED,)
    if table.inputs.ndim == 4:
        standardises = network.name == "resnet20"
        images = pixels.fitted(table, COLOURS if standardises else channels)
        images = pixels.unit(images, network.name) if standardises else images
        return images.inputs, images.divisor, pixels.described(images)
    hint = "use `mlp`, or save the images with their shape (n, C, H, W) in a `.npz` file"
    raise InputError(f"{network.name} takes images, not rows of features", table.name, hint)
