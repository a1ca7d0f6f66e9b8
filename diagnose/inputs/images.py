"""Images as an image classifier of transformers takes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Table
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.sampling import floating
from estimators.heads import transformer

PROCESSOR = "preprocessor_config.json"


def standardised(table: Table, loaded: Loaded) -> tuple[Tensor, str]:
    """Pixels in [0, 1], standardised by the mean and deviation that the model's folder names.

    Raises:
        InputError: rows that are no images, or images of a size or number of channels that the model can't take.
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
    tensor = floating(pixels, np.arange(table.rows), divisor, torch.float32)
    mean, deviation = _statistics(loaded)
    if mean is None or deviation is None:
        return tensor, "pixels in [0, 1]"
    return (tensor - _channels(mean)) / _channels(deviation), f"pixels standardised as {PROCESSOR} says"


def _statistics(loaded: Loaded) -> tuple[list[float] | None, list[float] | None]:
    path = None if loaded.folder is None else loaded.folder / PROCESSOR
    if path is None or not path.is_file():
        return None, None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if not body.get("do_normalize", True):
            return None, None
        mean, deviation = ([float(value) for value in body[key]] for key in ("image_mean", "image_std"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        hint = "give `image_mean` and `image_std`, or remove the file"
        raise InputError(f"{PROCESSOR} does not say how pixels are standardised", loaded.name, hint) from None
    return mean, deviation


def _channels(values: list[float]) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)
