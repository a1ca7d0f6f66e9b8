"""A task whose model exists already: a module of the user's, or one that was loaded with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs import images
from diagnose.inputs.data import targets
from diagnose.inputs.data.objects import Samples
from diagnose.inputs.data.tables import Rows, Table, Text
from diagnose.inputs.models import modules
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.sampling import (
    Drawn,
    coordinates,
    draw,
    floating,
    model_line,
    read,
    refuse_length,
    refuse_tokenizer,
    shown,
    target_tensor,
)
from diagnose.inputs.text import tokenizers
from diagnose.inputs.text.encoded import encode
from diagnose.settings import Loss, Settings, printable, resolve, task_name
from estimators.heads import head
from estimators.results import Finding

PADDED = {"input_ids", "attention_mask", "labels"}
"""Tensors of a padded sequence with one entry for each token."""
LANGUAGE = ("causal", "masked", "seq2seq")
COUNTED = {
    "causal": " of the next token",
    "masked": " of the masked tokens",
    "seq2seq": " of the answer's tokens",
}


@dataclass(frozen=True)
class _Whole:
    """All samples, before the draw; ``length`` and ``costly`` are those of text."""

    samples: Samples
    line: str
    length: int | None = None
    costly: bool = False
    findings: tuple[Finding, ...] = ()


def open_module(loaded: Loaded, data: Any, settings: Settings) -> Drawn:
    """Open data for a module that is in the number format and on the device of the run; it stays as it is.

    Raises:
        InputError: data that can't be used, targets that don't fit the loss, tokens that the model doesn't know.
    """
    model = loaded.module
    source = read(data, settings)
    loss = settings.loss or "cross-entropy"
    dtype, home = modules.home(model)
    whole = _samples_for(loaded, source, data, settings, loss)
    cast = modules.cast(whole.samples, loss, dtype, home)
    rows = int((cast["labels"] if isinstance(cast, dict) else cast[1]).shape[0])
    kind = modules.family(model, cast)
    resolved = resolve(settings, kind, coordinates(model), rows, whole.costly)
    resolved = replace(resolved, max_length=whole.length)
    index = torch.from_numpy(draw(rows, resolved.samples, settings.seed)).to(home)
    samples: Samples
    if isinstance(cast, dict):
        samples = _without_padding({key: tensor[index] for key, tensor in cast.items()})
        _refuse_tokens(samples, loaded)
    else:
        samples = cast[0][index], cast[1][index]
    called = loss if isinstance(loss, str) else printable(getattr(loss, "__name__", "of yours"))
    counted = COUNTED.get(head(model) or "", "") if called == "cross-entropy" else ""
    lines = (model_line(loaded.name, model, loaded.form), whole.line, f"loss {called}{counted}")
    return Drawn(model, samples, loss, rows, kind, resolved, lines, whole.findings)


def _samples_for(
    loaded: Loaded, source: Table | Text | Rows | Samples, data: Any, settings: Settings, loss: Loss
) -> _Whole:
    """All samples for a module, and a line that says how they were read."""
    model, name = loaded.module, task_name(data)
    if isinstance(source, (Text, Rows)):
        tokenizer = tokenizers.choose(model, loaded.folder, settings.tokenizer, loaded.name)
        encoded = encode(source, model, loaded.name, tokenizer, settings)
        return _Whole(encoded.tensors, encoded.line, encoded.length, encoded.costly, encoded.findings)
    refuse_length(settings, name)
    refuse_tokenizer(settings, name)
    if isinstance(source, Table):
        kind = head(model)
        if kind in (*LANGUAGE, "sequence"):
            hint = "use `pydoc-topics`, a `.txt` file or rows of text, or a model for numbers such as `mlp`"
            raise InputError(f"{loaded.name} takes text, not rows of numbers", name, hint)
        encoded_targets = targets.encode(
            source, loss if isinstance(loss, str) else "squared", loaded.name, "use `--loss squared`"
        )
        labels = target_tensor(encoded_targets.values, np.arange(source.rows), torch.float64)
        inputs, note = _inputs(loaded, source)
        line = ", ".join(
            [f"{shown(data, source)}: {source.rows:,} rows of shape {tuple(inputs.shape[1:])}", encoded_targets.note]
            + ([note] if note else [])
        )
        if kind == "image":
            return _Whole({"pixel_values": inputs, "labels": labels}, line)
        return _Whole((inputs, labels), line)
    if isinstance(source, dict):
        if "input_ids" in source and source["labels"].dim() > 1:
            return _Whole(source, f"{name}: {source['labels'].shape[0]:,} sequences")
        shapes = ", ".join(f"{printable(key)} {tuple(value.shape)}" for key, value in source.items())
        return _Whole(source, f"{name}: {shapes}")
    inputs, labels = source
    return _Whole(source, f"{name}: inputs {tuple(inputs.shape)}, targets {tuple(labels.shape)}")


def _inputs(loaded: Loaded, table: Table) -> tuple[Tensor, str]:
    """The inputs as the module takes them, in float64 but for images of bytes, and how they were read."""
    everything = np.arange(table.rows)
    if not modules.wants_images(loaded.module):
        return floating(table.inputs, everything, table.divisor, torch.float64), ""
    if head(loaded.module) == "image":
        return images.standardised(table, loaded)
    if table.images is not None:
        return floating(table.images, everything, 1.0, torch.float32), ""
    return floating(table.inputs, everything, table.divisor, torch.float32), ""


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
