"""Targets as a loss takes them: class numbers, -1 and +1, or numbers to predict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Array, Table
from diagnose.settings import listed, printable

MANY = 20
"""With more labels than this, and a different one for every second row, they are numbers and no classes."""
GENERIC = re.compile(r"LABEL_\d+")
"""What transformers calls classes that nobody named."""
LISTED = 4


@dataclass(frozen=True)
class Encoded:
    """Targets of shape (n,), the outputs that a model needs for them, and how they were read."""

    values: Array
    outputs: int
    note: str


@dataclass(frozen=True)
class Classes:
    """What a classifier that exists tells apart: its number of outputs, and their names where it has any."""

    outputs: int
    names: Mapping[str, int] = field(default_factory=dict)


def encode(table: Table, loss: str | None, model: str, instead: str, known: Classes | None = None) -> Encoded:
    """The targets of a table for a loss; None: a function, which takes the numbers of the file.

    Classes are numbered by :func:`class_numbers` for a model that exists, else in the order of their labels; for
    the logistic loss the smaller label is -1.

    Args:
        model: name of the model, for messages.
        instead: what to use when the targets turn out to be numbers to predict.
        known: classes of a model that exists.

    The classes are those of the training part alone.

    Raises:
        InputError: labels that do not fit the loss, a single class, a label that only the test part has.
    """
    if loss is None or loss == "squared":
        if table.targets.dtype.kind == "U":
            hint = "leave `--loss squared` out" if loss else "number the classes"
            raise InputError("labels are words, not numbers", table.name, hint)
        whole = loss is None and table.targets.dtype.kind != "f"
        note = "numbers to predict" if loss else "targets as in the file"
        return Encoded(table.targets.astype(np.int64 if whole else np.float64), 1, note)
    labels = _classes(table, model, instead)
    count = len(labels)
    if loss == "logistic":
        if count > 2:
            hint = "use `softmax`" if model == "logreg" else "use `--loss cross-entropy`"
            raise InputError(f"{count} classes, but {model} with the logistic loss takes 2", table.name, hint)
        values = np.where(table.targets == labels[1], 1.0, -1.0)
        read = f" (label {_label(labels[0])} is -1, {_label(labels[1])} is +1)"
        return Encoded(values, 1, "2 classes" + ("" if list(labels) == [-1, 1] else read))
    if known is not None:
        values, note = class_numbers(table.targets, known, model, table.name)
        return Encoded(values, known.outputs, note)
    return Encoded(np.searchsorted(labels, table.targets).astype(np.int64), count, f"{count} classes")


def class_numbers(labels: Array, known: Classes, model: str, name: str) -> tuple[NDArray[np.int64], str]:
    """The output of a model that each label stands for, and how it was found.

    By the model's own names where these hold all labels; else whole numbers as they are, where all are outputs;
    else in the order of the labels, where that is no guess against anything that the model says.

    Args:
        labels: shape (n,), whole numbers or words.
        name: of the data, for messages.

    Raises:
        InputError: a model with one output, more classes than outputs, labels that the model can't place.
    """
    if known.outputs == 1:
        raise InputError(f"{model} has one output", name, "give a classifier with two classes or more")
    distinct, which = np.unique(labels, return_inverse=True)
    words = labels.dtype.kind == "U"
    classes: list[int | str] = [str(label) if words else int(label) for label in distinct]
    count = f"{len(classes):,} classes"
    if len(classes) > known.outputs:
        raise InputError(f"{count}, {model} has {known.outputs}", name, "use a model with as many outputs")
    if all(str(label) in known.names for label in classes):
        numbers, how = [known.names[str(label)] for label in classes], "numbered by the model's names"
    elif not words and all(0 <= int(label) < known.outputs for label in classes):
        numbers, how = [int(label) for label in classes], "numbered as in the file"
    else:
        _refuse_a_guess(classes, words, known, model, name)
        numbers, how = list(range(len(classes))), "numbered in sorted order"
    return np.asarray(numbers, dtype=np.int64)[which], f"{count}, {how}"


def _refuse_a_guess(classes: list[int | str], words: bool, known: Classes, model: str, name: str) -> None:
    """The order of the labels says nothing where the model names its classes or has more of them."""
    named = [word for word in known.names if not GENERIC.fullmatch(word)]
    if words and named:
        what = f"labels {listed(classes, LISTED)}, {model} knows {listed(named, LISTED)}"
        raise InputError(what, name, "name the classes as the model does, or by their numbers from 0")
    if not words and len(classes) != known.outputs:
        what = f"labels {listed(classes, LISTED)}, {model} has the outputs 0 to {known.outputs - 1}"
        raise InputError(what, name, "number the classes as the model does")


def _classes(table: Table, model: str, instead: str) -> Array:
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
    if len(labels) > MANY and 2 * len(labels) > table.rows:
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
