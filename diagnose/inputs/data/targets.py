"""Targets as a loss takes them: class numbers, -1 and +1, or numbers to predict."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data.classes import Classes, class_numbers, whole_numbers
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


def encode(table: Table, loss: str | None, model: str, instead: str, known: Classes | None = None) -> Encoded:
    """The targets of a table for a loss; None: a function, which takes the numbers of the file.

    Classes are numbered by :func:`class_numbers` for a model that exists, else in the order of their labels; for
    the logistic loss the smaller label is -1. Numbers written as text are numbers.

    Args:
        model: name of the model, for messages.
        instead: what to use when the targets turn out to be numbers to predict.
        known: classes of a model that exists.

    The classes are those of the training part alone.

    Raises:
        InputError: labels that do not fit the loss, a single class, a label that only the test part has.
    """
    if loss is None or loss == "squared":
        targets = _numbers(table, loss)
        whole = loss is None and targets.dtype.kind != "f"
        note = "numbers to predict" if loss else "targets as in the file"
        return Encoded(targets.astype(np.int64 if whole else np.float64), 1, note)
    whole_targets = whole_numbers(table.targets) if table.targets.dtype.kind == "U" else None
    read = table if whole_targets is None else replace(table, targets=whole_targets)
    labels = _classes(read, model, instead, known)
    if loss == "logistic":
        return _two_classes(read, labels, model, known)
    if known is not None:
        hint = "use `--loss logistic`" if len(labels) == 2 else "give a classifier with an output for each class"
        values, note = class_numbers(table.targets, known, model, table.name, hint)
        return Encoded(values, known.outputs or len(labels), note)
    count = len(labels)
    return Encoded(np.searchsorted(labels, read.targets).astype(np.int64), count, f"{count} classes")


def _numbers(table: Table, loss: str | None) -> Array:
    """Targets that are numbers, also as text."""
    targets = table.targets
    if targets.dtype.kind != "U":
        return targets
    whole = whole_numbers(targets)
    try:
        values: Array = targets.astype(np.float64) if whole is None else whole
    except ValueError:
        values = np.asarray([np.nan])
    if not np.isfinite(values).all():
        hint = "leave `--loss squared` out" if loss else "number the classes"
        raise InputError("labels are words, not numbers", table.name, hint)
    return values


def _two_classes(table: Table, labels: Array, model: str, known: Classes | None) -> Encoded:
    """-1 for the smaller label, +1 for the other one; the order of two words says nothing to a trained model."""
    if len(labels) > 2:
        hint = "use `softmax`" if model == "logreg" else "use `--loss cross-entropy`"
        raise InputError(f"{len(labels)} classes, but {model} with the logistic loss takes 2", table.name, hint)
    first, second = map(_label, labels)
    if known is not None and not known.random and labels.dtype.kind == "U":
        what = f"labels {first}, {second}, and {model} does not say which of them is +1"
        raise InputError(what, table.name, "give them as -1 and 1")
    read = "" if list(labels) == [-1, 1] else f" (label {first} is -1, {second} is +1)"
    return Encoded(np.where(table.targets == labels[1], 1.0, -1.0), 1, f"2 classes{read}")


def _classes(table: Table, model: str, instead: str, known: Classes | None) -> Array:
    """The distinct labels of the training part in ascending order."""
    targets = table.targets
    if table.task == "regression":
        raise InputError(f"the targets are numbers to predict, {model} takes classes", table.name, instead)
    if targets.dtype.kind == "f" and (targets != np.rint(targets)).any():
        row = int((targets != np.rint(targets)).argmax())
        where = f"{table.place(row, 'y_test')} (counted from 1)"
        raise InputError(f"target {targets[row]:g} is not a class label", where, instead)
    labels: Array = np.unique(targets[: table.rows])
    if len(labels) == 1:
        raise InputError(f"a single class, label {_label(labels[0])}", table.name, "give rows of two classes or more")
    expected = known is not None and known.outputs is not None and len(labels) <= known.outputs
    if len(labels) > MANY and 2 * len(labels) > table.rows and not expected:
        raise InputError(f"{len(labels):,} different labels in {table.rows:,} rows", table.name, instead)
    unknown = ~np.isin(targets, labels)
    if unknown.any():
        row = int(unknown.argmax())
        what = f"label {_label(targets[row])}, which no row of the training part has"
        where = f"{table.place(row, 'y_test')} (counted from 1)"
        raise InputError(what, where, "drop such rows of the test part, or add some to the training part")
    return labels


def _label(label: object) -> str:
    return f"{label:g}" if isinstance(label, float) else printable(label)
