"""Inputs of a linear model on scales so different that the scale is all that noise and curvature show."""

from __future__ import annotations

import torch
from torch import Tensor

from diagnose.inputs.data.objects import Samples
from estimators.results import Finding
from reports.words.numbers import number

LARGEST = 30.0
"""A column this many times larger than the middle one outweighs all others in noise (30) and curvature (900)."""
AT_ONCE = 1 << 20
"""Numbers that are looked at together."""
FEWEST = 3
"""Fewer columns have no middle one."""


def badly_scaled(samples: Samples) -> tuple[Finding, ...]:
    """badly-scaled-inputs: a column of the inputs is far larger than the others.

    A column's size is the root of the mean square of its values other than 0, so that a feature that is rare (a word, a
    bit of a one-hot code) is not a small one; columns of zeros do not count.
    """
    inputs = None if isinstance(samples, dict) else samples[0]
    if inputs is None or inputs.ndim != 2 or not inputs.is_floating_point() or inputs.is_sparse:
        return ()
    size = sizes(inputs)
    known = size[size > 0]
    if known.numel() < FEWEST:
        return ()
    times = float(known.max() / known.median())
    if times < LARGEST:
        return ()
    return (
        Finding(
            code="badly-scaled-inputs",
            severity="note",
            stage="opening",
            found=f"column {int(size.argmax()) + 1} of the inputs is {number(times, 2)} times larger than the middle "
            "one",
            meaning="noise and curvature sit in its coordinates: φ(σ) and R_L are small for its scale, and AdaGrad's "
            "lead may be no more than that scale repaired",
            action="standardise the inputs: SGD may then do as well",
        ),
    )


def sizes(inputs: Tensor) -> Tensor:
    """(columns,) root mean square of each column's values other than 0; 0 where there are none."""
    squares = torch.zeros(inputs.shape[1], dtype=torch.float64, device=inputs.device)
    counts = torch.zeros_like(squares)
    for part in torch.split(inputs, max(1, AT_ONCE // max(1, inputs.shape[1]))):  # a copy of all would be the peak
        squares += part.double().square().sum(0)
        counts += (part != 0).sum(0)
    return (squares / counts.clamp(min=1)).sqrt()
