"""A task whose model exists already: a module of the user's, or one that was loaded with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnose.errors import HELD_OUT, TRAINED_ON, InputError, among
from diagnose.inputs import images
from diagnose.inputs.built_in import inputs_for, instead, loss_of, table_for
from diagnose.inputs.data import pixels, targets
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.data.tables import SCALED, Array, Rows, Table, Text
from diagnose.inputs.models import modules, networks
from diagnose.inputs.models.loaded import Loaded
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
from diagnose.inputs.text import tokenizers
from diagnose.inputs.text.encoded import encode
from diagnose.settings import Loss, Settings, listed, printable, resolve, task_name
from estimators.results import Finding
from estimators.task.losses import labelled
from estimators.task.model_kinds import Kind, accepts, head

PADDED = {"input_ids", "attention_mask", "token_type_ids", "labels"}
"""Tensors of a padded sequence with one entry for each token."""
LANGUAGE = ("causal", "masked", "seq2seq")
DEFAULT = "cross-entropy"
SHOWN = 8
"""Columns that are named."""
COUNTED: dict[Kind | None, str] = {
    "causal": " of the next token",
    "masked": " of the masked tokens",
    "seq2seq": " of the answer's tokens",
}


@dataclass(frozen=True)
class _Whole:
    """All samples, before the draw, the last ``tests`` of them those of the test part.

    ``counted``, ``length`` and ``costly`` are those of text.
    """

    samples: Samples
    line: str
    counted: str = ""
    length: int | None = None
    costly: bool = False
    findings: tuple[Finding, ...] = ()
    tests: int = 0


def open_module(loaded: Loaded, data: Any, settings: Settings) -> Drawn:
    """Open data for a module that is in the number format and on the device of the run; it stays as it is.

    Raises:
        InputError: data that can't be used, targets that don't fit the loss, tokens that the model doesn't know.
    """
    model, network = loaded.module, loaded.network
    loss = (settings.loss or DEFAULT) if network is None else loss_of(network, settings.loss)
    dtype, home = modules.home(model)
    whole = _samples_for(loaded, data, settings, loss)
    cast = modules.cast(whole.samples, loss, dtype, home)
    rows = int((cast["labels"] if isinstance(cast, dict) else cast[1]).shape[0]) - whole.tests
    kind = modules.family(model, cast)
    resolved = resolve(settings, kind, coordinates(model), rows, whole.costly)
    parts = split(rows, resolved.samples, whole.tests, settings.seed, _labelled(cast, loss, model))
    resolved = replace(with_rows(resolved, parts), max_length=whole.length)
    every = _taken(cast, parts.training, loaded)
    some = first(every, len(parts.samples))
    samples = _fitting(some, loaded)
    with among(TRAINED_ON):
        training = samples if some is every else _fitting(every, loaded)
    called = loss if isinstance(loss, str) else printable(getattr(loss, "__name__", "of yours"))
    counted = whole.counted or COUNTED.get(head(model), "")
    lines = (model_line(loaded.name, model, loaded.form), whole.line, f"loss {called}" + counted * (loss == DEFAULT))
    with among(HELD_OUT):
        others = _fitting(_taken(cast, parts.held_out, loaded), loaded) if len(parts.held_out) else None
    return Drawn(
        model=model,
        samples=samples,
        training=training,
        loss=loss,
        rows=rows,
        family=kind,
        resolved=resolved,
        lines=lines,
        findings=whole.findings,
        held_out=others,
        tests=whole.tests,
    )


def _labelled(cast: Samples, loss: Loss, model: nn.Module) -> Array:
    """Which samples have a label to predict, shape (n,)."""
    targets = cast["labels"] if isinstance(cast, dict) else cast[1]
    if loss != DEFAULT:
        return np.ones(targets.shape[0], dtype=bool)
    found: Array = labelled(targets, head(model) == "causal").cpu().numpy()
    return found


def _taken(cast: Samples, index: Array, loaded: Loaded) -> Samples:
    """A copy of some of the samples."""
    chosen = torch.from_numpy(index).to(modules.home(loaded.module)[1])
    if not isinstance(cast, dict):
        return cast[0][chosen], cast[1][chosen]
    return {key: tensor[chosen] for key, tensor in cast.items()}


def _fitting(samples: Samples, loaded: Loaded) -> Samples:
    """The samples without padding that they share; InputError for tokens that the module doesn't know."""
    if not isinstance(samples, dict):
        return samples
    samples = _without_padding(samples)
    _refuse_tokens(samples, loaded)
    return samples


def _samples_for(loaded: Loaded, data: Any, settings: Settings, loss: Loss) -> _Whole:
    """All samples for a module, and a line that says how they were read."""
    model, name, network = loaded.module, task_name(data), loaded.network
    source = read(data, settings) if network is None or network.takes == "text" else table_for(network, data, settings)
    if isinstance(source, (Text, Rows)):
        tokenizer = tokenizers.choose(model, loaded.folder, settings, loaded.name)
        encoded = encode(source, model, loaded.name, tokenizer, settings, loaded.random)
        counted = COUNTED["causal"] if head(model) is None else ""
        samples: Samples = encoded.tensors
        if not accepts(model, "input_ids"):
            samples = encoded.tensors["input_ids"], encoded.tensors["labels"]
        return _Whole(samples, encoded.line, counted, encoded.length, encoded.costly, encoded.findings)
    refuse_length(settings, name)
    refuse_tokenizer(settings, name)
    if isinstance(source, Table):
        return _from_table(loaded, source, shown(data, source), loss)
    if isinstance(source, dict):
        if "input_ids" in source and source["labels"].dim() > 1:
            return _Whole(source, f"{name}: {source['labels'].shape[0]:,} sequences")
        shapes = ", ".join(f"{printable(key)} {tuple(value.shape)}" for key, value in source.items())
        return _Whole(source, f"{name}: {shapes}")
    inputs, labels = source
    return _Whole(source, f"{name}: inputs {tuple(inputs.shape)}, targets {tuple(labels.shape)}, as they are")


def _from_table(loaded: Loaded, table: Table, name: str, loss: Loss) -> _Whole:
    """All rows of a table as the module takes them."""
    kind, network = head(loaded.module), loaded.network
    if kind in (*LANGUAGE, "sequence"):
        hint = "use `pydoc-topics`, a `.txt` file or rows of text, or a model for numbers such as `mlp`"
        raise InputError(f"{loaded.name} takes text, not rows of numbers", name, hint)
    inputs, notes = _inputs(loaded, table)
    output = None if kind == "image" else modules.returned(loaded.module, inputs[:1])
    if isinstance(output, RuntimeError) and inputs.dim() == 2:
        _refuse_width(loaded, table, int(inputs.shape[1]))
    known = modules.classes(loaded.module, output, loaded.random)
    other = "use `--loss squared`" if network is None else instead(network)
    encoded = targets.encode(table, loss if isinstance(loss, str) else None, loaded.name, other, known)
    labels = target_tensor(encoded.values, np.arange(table.total), torch.float64)
    line = table_line(name, table.rows, tuple(inputs.shape[1:]), encoded.note, notes)
    samples: Samples = {"pixel_values": inputs, "labels": labels} if kind == "image" else (inputs, labels)
    return _Whole(samples, line, tests=table.tests)


def _refuse_width(loaded: Loaded, table: Table, width: int) -> None:
    """Refuse rows that a module can't take because they have another number of features, naming columns left out."""
    takes = modules.features(loaded.module)
    if takes is None or takes == width:
        return
    what = f"{width:,} features, but {loaded.name} takes {takes:,}"
    hint = f"use a model that takes {width:,}"
    if table.columns is not None and table.width is not None and table.width > width:
        dropped = sorted(set(range(1, table.width + 1)).difference(table.columns.tolist()))
        one = len(dropped) == 1
        left_out = f"the constant column{'' if one else 's'} {listed(dropped, SHOWN)} {'is' if one else 'are'} left out"
        what = f"{left_out}, which leaves {what}"
        hint += ", or save all columns in a `.npz` file"
    elif takes > width:
        hint += f"; `--features {takes}` where LIBSVM text ends in columns that no row has"
    raise InputError(what, table.name, hint)


def _inputs(loaded: Loaded, table: Table) -> tuple[Tensor, tuple[str, ...]]:
    """The inputs as the module takes them, in float32 where it is in that format, and how they were read."""
    everything = np.arange(table.total)
    model, dtype = loaded.module, modules.home(loaded.module)[0]
    if loaded.network is not None:
        inputs, divisor, notes = inputs_for(loaded.network, table, modules.channels(model))
        if loaded.network.name == "resnet20":
            networks.refuse_images(inputs.shape[1:])
        return floating(inputs, everything, divisor, dtype), notes
    if head(model) == "image":
        return images.standardised(table, loaded)
    if not modules.wants_images(model):
        return floating(table.inputs, everything, table.divisor, dtype), pixels.described(table)
    if table.images is not None:
        return floating(table.images, everything, 1.0, dtype), (SCALED,)
    table = pixels.fitted(table, modules.channels(model))
    return floating(table.inputs, everything, table.divisor, dtype), pixels.described(table)


def _without_padding(samples: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sequences without the columns at their end that are padding in all of them."""
    mask = samples.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return samples
    width = int(mask.any(0).nonzero().max()) + 1 if bool(mask.any()) else mask.shape[1]
    same = {key for key in PADDED & samples.keys() if samples[key].shape == mask.shape}
    if "labels" in same and bool((samples["labels"][:, width:] >= 0).any()):
        return samples
    return {key: tensor[:, :width] if key in same else tensor for key, tensor in samples.items()}


def _refuse_tokens(samples: Mapping[str, Tensor], loaded: Loaded) -> None:
    """Token numbers that the model has no embedding or no position for."""
    tokens = samples.get("input_ids")
    vocabulary, positions = modules.vocabulary(loaded.module), modules.positions(loaded.module)
    if tokens is None or head(loaded.module) is None:
        return
    if tokens.is_floating_point() or tokens.dim() != 2:
        hint = "give them as whole numbers"
        raise InputError(f"{loaded.name} takes token numbers, shape (n, tokens)", "input_ids", hint)
    worst = int(tokens.max()) if int(tokens.min()) >= 0 else int(tokens.min())
    if worst < 0 or (vocabulary is not None and worst >= vocabulary):
        hint = "use the tokenizer that the model was made for"
        raise InputError(f"token {worst}, but {loaded.name} has {vocabulary} tokens", "input_ids", hint)
    if positions is not None and tokens.shape[1] > positions:
        raise InputError(
            f"{tokens.shape[1]} tokens, but {loaded.name} has {positions} positions", "input_ids", "cut the rows"
        )
