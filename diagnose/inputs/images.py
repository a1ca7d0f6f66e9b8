"""Images as an image classifier of transformers takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs.data import pixels
from diagnose.inputs.data.tables import SCALED, Table
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.models.reading import plain_json
from diagnose.inputs.sampling import floating
from estimators.task.model_kinds import transformer

PROCESSOR, NESTED = "preprocessor_config.json", "processor_config.json"


def standardised(table: Table, loaded: Loaded) -> tuple[Tensor, tuple[str, ...]]:
    """Pixels as the image processor in the model's folder makes them, as they are without one; and how they were read.

    Raises:
        InputError: rows that are no images, images of a size or number of channels that the model can't take,
            pixels that are neither bytes nor in [0, 1] for a processor, a processor that isn't sound.
    """
    if table.images is not None:
        table = replace(table, inputs=table.images, divisor=1.0, notes=(SCALED,))
    if table.inputs.ndim != 4:
        hint = "save the images with their shape (n, C, H, W) in a `.npz` file"
        raise InputError(f"{loaded.name} takes images, not rows of features", table.name, hint)
    config: Any = getattr(transformer(loaded.module), "config", None)
    channels = getattr(config, "num_channels", None)
    table = pixels.fitted(table, channels if isinstance(channels, int) else None)
    processor = _processor(loaded, int(table.inputs.shape[1]))
    _refuse_sizes(table, loaded.name, channels, getattr(config, "image_size", None), processor)
    if processor is None:
        tensor = floating(table.inputs, np.arange(table.total), table.divisor, torch.float32)
        return tensor, (*pixels.described(table), f"not standardised (no {PROCESSOR})")
    if processor.scale is not None:
        table = pixels.unit(table, f"{loaded.name} ({processor.name})")
    tensor = floating(table.inputs, np.arange(table.total), table.divisor, torch.float32)
    tensor = tensor * (table.divisor if processor.scale is None else processor.scale) - processor.offset
    tensor = tensor.flip(1) if processor.flipped else tensor
    tensor = (tensor - _channels(processor.mean)) / _channels(processor.deviation)
    return tensor, (*table.notes, f"pixels standardised as {processor.name} says")


def _refuse_sizes(table: Table, name: str, channels: int | None, image_size: Any, processor: _Processor | None) -> None:
    """Images of another number of channels than the model's, or of another size than the model's or the processor's."""
    shape = table.inputs.shape[1:]
    found = f"images of {'×'.join(map(str, shape))}"
    if channels is not None and shape[0] != channels:
        raise InputError(f"{found}, but {name} takes {channels} channels", table.name, "convert them first")
    size, taker = _sides(image_size), f"{name} takes"
    if size is None and processor is not None:
        size, taker = processor.size, f"{processor.name} of {name} makes"
    if size is not None and shape[1:] != size:
        resized = f"resize them to {size[0]}×{size[1]} first"
        raise InputError(f"{found}, but {taker} {size[0]}×{size[1]} pixels", table.name, resized)


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width as configurations write them: a number, two, or by name; None where they say neither."""
    if isinstance(value, dict):
        shortest = value.get("shortest_edge")
        value = [value.get("height", shortest), value.get("width", shortest)]
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        return None
    return int(pair[0]), int(pair[1])


@dataclass(frozen=True)
class _Processor:
    """(scale · pixel - offset - mean) / deviation by channel, for pixels in [0, 1]; no scale: those of the file.

    ``name`` is that of its file, ``size`` the height and width of the images that it makes; None where that follows the
    images. ``flipped``: the channels come in reverse.
    """

    name: str
    scale: float | None
    offset: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: tuple[int, int] | None
    flipped: bool


def _processor(loaded: Loaded, channels: int) -> _Processor | None:
    """What the model's folder says of pixels, by the rules of transformers' image processors; None without a file.

    These take bytes, multiply them by ``rescale_factor`` and standardise the result.
    """
    name, body = _file(loaded.folder)
    if body is None:
        return None
    factor = _number(body.get("rescale_factor", 1 / pixels.BYTE))
    if factor is None or factor <= 0:
        raise _refusal(loaded, name, "`rescale_factor` is no positive number")
    named = body if body.get("do_normalize", True) else {"image_mean": 0.0, "image_std": 1.0}
    mean, deviation = (_by_channel(named.get(key), channels) for key in ("image_mean", "image_std"))
    if mean is None or deviation is None or min(deviation) <= 0:
        raise _refusal(loaded, name, f"`image_mean` and `image_std` are no {channels} numbers, the latter above 0")
    scaled = bool(body.get("do_rescale", True))
    return _Processor(
        name=name,
        scale=pixels.BYTE * factor if scaled else None,
        offset=1.0 if scaled and body.get("rescale_offset") else 0.0,
        mean=mean,
        deviation=deviation,
        size=_made_size(body),
        flipped=bool(body.get("do_flip_channel_order")),
    )


def _file(folder: Path | None) -> tuple[str, dict[str, Any] | None]:
    """The file of an image processor and what it says, as transformers looks for it; None without one."""
    if folder is not None and (folder / NESTED).is_file():
        inner = plain_json(folder / NESTED).get("image_processor")
        if isinstance(inner, dict):
            return NESTED, inner
    path = None if folder is None else folder / PROCESSOR
    return PROCESSOR, plain_json(path) if path is not None and path.is_file() else None


def _made_size(body: dict[str, Any]) -> tuple[int, int] | None:
    """The size of what an image processor makes: that of the crop at its end, else that to which it resizes."""
    if body.get("do_center_crop", "crop_size" in body):
        return _sides(body.get("crop_size")) or _sides(body.get("size"))
    return _sides(body.get("size")) if body.get("do_resize", True) else None


def _by_channel(value: Any, channels: int) -> tuple[float, ...] | None:
    """One number for each channel; a single one stands for all."""
    values = value if isinstance(value, list) else [value] * channels
    numbers = tuple(number for number in map(_number, values) if number is not None)
    return numbers if len(numbers) == len(values) == channels else None


def _number(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def _refusal(loaded: Loaded, name: str, what: str) -> InputError:
    return InputError(f"{name}: {what}", loaded.name, "correct the file, or remove it")


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)
