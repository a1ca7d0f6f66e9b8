"""Labels of text rows as the class numbers of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diagnose.errors import InputError
from estimators import heads


def outputs(module: nn.Module) -> int:
    """Classes that the model tells apart, by its config."""
    return int(_config(module).num_labels)


def numbers(labels: Sequence[int | str], module: nn.Module, model: str, name: str) -> tuple[NDArray[np.int64], str]:
    """A class number for each label, and how they were found.

    By the model's own names (``label2id``) where these hold all labels; else numbers as they are, where all are
    outputs of the model; else in the order of the labels.

    Raises:
        InputError: a model with one output, more classes than outputs.
    """
    count = outputs(module)
    if count == 1:
        raise InputError(f"{model} has one output", name, "give a classifier with two classes or more")
    classes = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
    if len(classes) > count:
        raise InputError(f"{len(classes):,} classes, {model} has {count}", name, "use a model with as many outputs")
    named = getattr(_config(module), "label2id", None) or {}
    own: dict[int | str, int] = {str(word): int(number) for word, number in named.items()}
    if all(label in own for label in classes):
        known, how = own, "numbered by the model's names"
    elif all(isinstance(label, int) and 0 <= label < count for label in classes):
        return np.asarray(labels, dtype=np.int64), f"{len(classes)} classes, numbered as in the file"
    else:
        known, how = {label: number for number, label in enumerate(classes)}, "numbered in sorted order"
    return np.asarray([known[label] for label in labels], dtype=np.int64), f"{len(classes)} classes, {how}"


def _config(module: nn.Module) -> Any:
    return (heads.transformer(module) or module).config
