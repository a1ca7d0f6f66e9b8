"""Targets as a loss takes them: class numbers, -1 and +1, or numbers to predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Array, Table
from diagnose.settings import printable

MANY = 20
"""With more labels than this, and a different one for every second row, they are numbers and no classes."""


@dataclass(frozen=True)
class Encoded:
    """Targets of shape (n,), the outputs that a model needs for them, and how they were read."""

    values: Array
    outputs: int
    note: str


def encode(table: Table, loss: str, model: str, instead: str) -> Encoded:
    """The targets of a table for a loss.

    Classes are numbered in the order of their labels; for the logistic loss the smaller label is -1.

    Args:
        model: name of the model, for messages.
        instead: what to use when the targets turn out to be numbers to predict.

    Raises:
        InputError: labels that do not fit the loss, or a single class.
    """
    if loss == "squared":
        if table.targets.dtype.kind == "U":
            raise InputError("labels are words, not numbers", table.name, "leave `--loss squared` out")
        return Encoded(table.targets.astype(np.float64), 1, "numbers to predict")
    labels = _classes(table, model, instead)
    count = len(labels)
    if loss == "logistic":
        if count > 2:
            hint = "use `softmax`" if model == "logreg" else "use `--loss cross-entropy`"
            raise InputError(f"{count} classes, but {model} with the logistic loss takes 2", table.name, hint)
        values = np.where(table.targets == labels[1], 1.0, -1.0)
        read = f" (label {_label(labels[0])} is -1, {_label(labels[1])} is +1)"
        return Encoded(values, 1, "2 classes" + ("" if list(labels) == [-1, 1] else read))
    return Encoded(np.searchsorted(labels, table.targets).astype(np.int64), count, f"{count} classes")


def _classes(table: Table, model: str, instead: str) -> Array:
    """The distinct labels in ascending order."""
    targets = table.targets
    if table.task == "regression":
        raise InputError(f"the targets are numbers to predict, {model} takes classes", table.name, instead)
    if targets.dtype.kind == "f" and (targets != np.rint(targets)).any():
        row = int((targets != np.rint(targets)).argmax())
        where = f"{table.name}, row {row + 1} (counted from 1)"
        raise InputError(f"target {targets[row]:g} is not a class label", where, instead)
    labels: Array = np.unique(targets)
    if len(labels) == 1:
        raise InputError(f"a single class, label {_label(labels[0])}", table.name, "give rows of two classes or more")
    if len(labels) > MANY and 2 * len(labels) > table.rows:
        raise InputError(f"{len(labels):,} different labels in {table.rows:,} rows", table.name, instead)
    return labels


def _label(label: object) -> str:
    return f"{label:g}" if isinstance(label, float) else printable(label)
