"""Images among arrays: which axis is the channels', and what the numbers are divided by to lie in [0, 1]."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data.tables import SCALED, Array, Table

CHANNELS = (1, 3, 4)
BYTE = 255
"""The largest pixel of one byte."""
SLACK = 0.5 / BYTE
"""How far pixels in [0, 1] may lie outside: half a step of a byte, more than resizing in floating point makes."""
AS_READ = "pixels as in the file"


def table(name: str, x: Array, targets: Array, notes: tuple[str, ...], tests: int = 0) -> Table:
    """Images as (n, C, H, W), with the divisor that brings bytes into [0, 1].

    Args:
        x: shape (n, H, W), (n, H, W, C) or (n, C, H, W).
    """
    images, layout = channels_first(x)
    scale, how = divisor(x)
    return Table(
        name,
        images,
        targets,
        notes=(*notes, f"layout {layout}", *how),
        divisor=scale,
        tests=tests,
        layout=layout,
    )


def divisor(x: Array) -> tuple[float, tuple[str, ...]]:
    """255 for whole numbers of one byte, in whatever integer type; and that in words.

    Integers of 0 and 1 alone, in another type than uint8, are in [0, 1] already. Floating-point numbers stay.
    """
    if x.dtype == np.uint8:
        return float(BYTE), (SCALED,)
    if x.dtype.kind not in "iu" or not x.size:
        return 1.0, ()
    low, high = int(x.min()), int(x.max())
    if low < 0 or not 1 < high <= BYTE:
        return 1.0, ()
    return float(BYTE), (f"{SCALED} ({x.dtype} from {low} to {high}, divided by {BYTE})",)


def channels_first(x: Array) -> tuple[Array, str]:
    """Images as (n, C, H, W), and the layout that they had.

    The last axis is the channels' where it counts 1, 3 or 4 and the second is no better: it counts neither of these, or
    makes square images of the two that follow it.
    """
    if x.ndim == 3:
        return x[:, None], "NHW"
    second, third, last = x.shape[1:]
    square = second == third != last
    if last in CHANNELS and (square or (second not in CHANNELS and third != last)):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "NHWC"
    return x, "NCHW"


def fitted(images: Table, channels: int | None) -> Table:
    """The images in the layout whose channels are those of the model; as they were read where that doesn't tell.

    Args:
        channels: that the model takes; None where it doesn't say.
    """
    x, layout = images.inputs, images.layout
    if x.ndim != 4 or layout not in ("NHWC", "NCHW"):
        return images
    first, last = (x.shape[1], x.shape[3]) if layout == "NCHW" else (x.shape[2], x.shape[1])
    if channels is not None and (first == channels) != (last == channels):
        wanted = "NCHW" if first == channels else "NHWC"
        if wanted == layout:
            return images
        axes = (0, 3, 1, 2) if wanted == "NHWC" else (0, 2, 3, 1)
        turned = np.ascontiguousarray(x.transpose(axes))
        return replace(images, inputs=turned, layout=wanted, notes=_renamed(images, f"layout {wanted}"))
    if first in CHANNELS and last in CHANNELS:
        other = "NHWC" if layout == "NCHW" else "NCHW"
        return replace(images, notes=_renamed(images, f"layout {layout} ({other} would fit too)"))
    return images


def _renamed(images: Table, layout: str) -> tuple[str, ...]:
    """The notes with other words for the layout."""
    return tuple(layout if note == f"layout {images.layout}" else note for note in images.notes)


def described(images: Table) -> tuple[str, ...]:
    """How they were read, with their range where they are not in [0, 1] and stay so."""
    if images.divisor != 1.0 or images.layout == "":
        return images.notes
    low, high = _range(images.inputs)
    return images.notes if _unit(low, high) else (*images.notes, f"{AS_READ}, from {low:g} to {high:g}")


def unit(images: Table, model: str) -> Table:
    """Pixels in [0, 1] for a model that starts from these: floating-point bytes are divided by 255.

    Raises:
        InputError: pixels that are neither bytes nor in [0, 1].
    """
    if images.divisor != 1.0:
        return images
    low, high = _range(images.inputs)
    if _unit(low, high):
        return images
    if low >= 0 and high <= BYTE and bool((images.inputs == np.rint(images.inputs)).all()):
        how = f"{SCALED} (from {low:g} to {high:g}, divided by {BYTE})"
        return replace(images, divisor=float(BYTE), notes=(*images.notes, how))
    what = f"pixels from {low:g} to {high:g}, but {model} takes bytes or [0, 1]"
    raise InputError(what, images.name, "save them as uint8, or scaled to [0, 1]")


def _range(x: Array) -> tuple[float, float]:
    return float(x.min()), float(x.max())


def _unit(low: float, high: float) -> bool:
    return low >= -SLACK and high <= 1 + SLACK
