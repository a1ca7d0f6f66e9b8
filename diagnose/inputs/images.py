"""Images as an image classifier of transformers takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs.data.tables import SCALED, Table
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.reading import plain_json
from diagnose.inputs.sampling import floating
from estimators.heads import transformer

PROCESSOR = "preprocessor_config.json"
BYTE = 255
"""The largest pixel of one byte."""


def standardised(table: Table, loaded: Loaded) -> tuple[Tensor, tuple[str, ...]]:
    """Pixels as the image processor in the model's folder makes them, as they are without one; and how they were read.

    Raises:
        InputError: rows that are no images, images of a size or number of channels that the model can't take,
            pixels that are neither bytes nor in [0, 1] for a processor, a processor that isn't sound.
    """
    pixels, divisor = (table.inputs, table.divisor) if table.images is None else (table.images, 1.0)
    if pixels.ndim != 4:
        hint = "save the images with their shape (n, C, H, W) in a `.npz` file"
        raise InputError(f"{loaded.name} takes images, not rows of features", table.name, hint)
    config: Any = getattr(transformer(loaded.module), "config", None)
    wanted, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    size = tuple(wanted) if isinstance(wanted, (list, tuple)) else (wanted, wanted)
    found = f"images of {'×'.join(map(str, pixels.shape[1:]))}"
    if channels is not None and pixels.shape[1] != channels:
        raise InputError(f"{found}, but {loaded.name} takes {channels} channels", table.name, "convert them first")
    if size[0] is not None and pixels.shape[2:] != size:
        resized = f"resize them to {size[0]}×{size[1]} first"
        raise InputError(f"{found}, but {loaded.name} takes {size[0]}×{size[1]} pixels", table.name, resized)
    tensor = floating(pixels, np.arange(table.total), divisor, torch.float32)
    low, high = float(tensor.min()), float(tensor.max())
    within = low >= 0 and high <= 1
    notes = table.notes if table.images is None else (SCALED,)
    processor = _processor(loaded, int(pixels.shape[1]))
    if processor is None:
        return tensor, notes if within else (*notes, "pixels as in the file")
    if processor.scale is not None and not within:
        what = f"pixels from {low:g} to {high:g}, and {PROCESSOR} starts from bytes"
        raise InputError(what, table.name, "save them as uint8, or scaled to [0, 1]")
    tensor = tensor * (divisor if processor.scale is None else processor.scale) - processor.offset
    tensor = (tensor - _channels(processor.mean)) / _channels(processor.deviation)
    return tensor, (*notes, f"pixels standardised as {PROCESSOR} says")


@dataclass(frozen=True)
class _Processor:
    """(scale · pixel - offset - mean) / deviation by channel, for pixels in [0, 1]; no scale: those of the file."""

    scale: float | None
    offset: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def _processor(loaded: Loaded, channels: int) -> _Processor | None:
    """What the model's folder says of pixels, by the rules of transformers' image processors; None without a file.

    These take bytes, multiply them by ``rescale_factor`` and standardise the result.
    """
    path = None if loaded.folder is None else loaded.folder / PROCESSOR
    if path is None or not path.is_file():
        return None
    body = plain_json(path)
    factor = _number(body.get("rescale_factor", 1 / BYTE))
    if factor is None or factor <= 0:
        raise _refusal(loaded, "`rescale_factor` is no positive number")
    named = body if body.get("do_normalize", True) else {"image_mean": 0.0, "image_std": 1.0}
    mean, deviation = (_by_channel(named.get(key), channels) for key in ("image_mean", "image_std"))
    if mean is None or deviation is None or min(deviation) <= 0:
        raise _refusal(loaded, f"`image_mean` and `image_std` are no {channels} numbers, the latter above 0")
    if not body.get("do_rescale", True):
        return _Processor(None, 0.0, mean, deviation)
    return _Processor(BYTE * factor, 1.0 if body.get("rescale_offset") else 0.0, mean, deviation)


def _by_channel(value: Any, channels: int) -> tuple[float, ...] | None:
    """One number for each channel; a single one stands for all."""
    values = value if isinstance(value, list) else [value] * channels
    numbers = tuple(number for number in map(_number, values) if number is not None)
    return numbers if len(numbers) == len(values) == channels else None


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def _refusal(loaded: Loaded, what: str) -> InputError:
    return InputError(f"{PROCESSOR}: {what}", loaded.name, "correct the file, or remove it")


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)
