"""What a data set holds before a model has seen it, and the checks that hold for every one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diagnose.errors import InputError

Array = NDArray[Any]
SCALED = "pixels scaled to [0, 1]"


@dataclass(frozen=True)
class Table:
    """Rows of numbers with one target each.

    Args:
        name: what the data set is called.
        inputs: shape (n, d), or for images (n, C, H, W).
        targets: shape (n,): class labels as in the file (numbers or words), or the numbers to predict.
        task: "regression" where the set is known to be one, else what the labels allow.
        columns: number of each column in its file, counted from 1, where some were left out.
        notes: in words, how the file was read.
        divisor: what the inputs are divided by when they are used (255 for pixels of one byte).
        images: the same rows as pixels, shape (n, C, H, W), where ``inputs`` is a flat form of them.
        tests: how many of the last rows are the file's test part: never trained on, and not counted in ``rows``.
        layout: of images among arrays, how they lay in the file: "NHW", "NHWC" or "NCHW".
        width: columns in the file, where some were left out.
    """

    name: str
    inputs: Array
    targets: Array
    task: Literal["regression", "any"] = "any"
    columns: Array | None = None
    notes: tuple[str, ...] = ()
    divisor: float = 1.0
    images: Array | None = None
    tests: int = 0
    layout: str = ""
    width: int | None = None

    @property
    def rows(self) -> int:
        """Rows of the whole data set, the test part apart."""
        return self.total - self.tests

    @property
    def total(self) -> int:
        """Rows with those of the test part."""
        return int(self.inputs.shape[0])

    def place(self, row: int, test_array: str) -> str:
        """Where a row is, counted from 1; those of the test part by the array that the file has them in."""
        if row < self.rows:
            return f"{self.name}, row {row + 1}"
        return f"{self.name}, {test_array}, row {row - self.rows + 1}"


@dataclass(frozen=True)
class Text:
    """A stream of tokens.

    Args:
        name: what the data set is called.
        tokens: shape (tokens,): the bytes of a file, or what a tokenizer made of them.
        notes: in words, how the file was read.
        title: the name that was given, with the file's where that says more; empty: as ``name``.
        unit: what a token is, "bytes" or "tokens".
    """

    name: str
    tokens: NDArray[Any]
    notes: tuple[str, ...] = ()
    title: str = ""
    unit: str = "bytes"


@dataclass(frozen=True)
class Rows:
    """Rows of text from a JSON file.

    Args:
        name: what the data set is called.
        kind: "instruction" (prompt and answer), "text" (text alone) or "labelled" (text and class).
        texts: the prompt of an instruction row, made from the template; else the text.
        answers: of instruction rows, else empty.
        labels: of labelled rows, as in the file (numbers or words), else empty.
        notes: in words, how the file was read.
        title: the name that was given, with the file's where that says more; empty: as ``name``.
        whole: rows of the set that this file is a part of, None where the file is all of it.
        pairs: the second text of each labelled row, None or empty for none; empty where no row has one.
    """

    name: str
    kind: Literal["instruction", "text", "labelled"]
    texts: tuple[str, ...]
    answers: tuple[str, ...] = ()
    labels: tuple[int | str, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""
    whole: int | None = None
    pairs: tuple[str | None, ...] = ()


def checked(table: Table) -> Table:
    """The table, once it is known to hold rows of finite numbers with a target each.

    Raises:
        InputError: no rows, lengths that differ, NaN or infinity (naming row and column).
    """
    if table.inputs.shape[:1] != table.targets.shape[:1]:
        raise InputError(
            f"{table.inputs.shape[0]:,} rows of inputs and {table.targets.shape[0]:,} targets",
            table.name,
            "give one target for each row",
        )
    if not table.rows:
        raise InputError("no rows", table.name, "give a data set with at least one row")
    if table.inputs.ndim < 2 or 0 in table.inputs.shape:
        raise InputError(f"inputs of shape {table.inputs.shape}", table.name, "give rows of features, shape (n, d)")
    _refuse_non_finite(table)
    return table


def _refuse_non_finite(table: Table) -> None:
    hint = "drop these rows or fill in the values"
    if table.inputs.dtype.kind == "f" and not np.isfinite(table.inputs).all():
        flat = table.inputs.reshape(table.total, -1)
        bad = ~np.isfinite(flat)
        row = int(bad.any(axis=1).argmax())
        column = int(bad[row].argmax())
        number = column + 1 if table.columns is None else int(table.columns[column])
        word = "NaN" if np.isnan(flat[row, column]) else "infinity"
        raise InputError(f"{word} in the data", f"{table.place(row, 'x_test')}, column {number} (counted from 1)", hint)
    if table.targets.dtype.kind == "f" and not np.isfinite(table.targets).all():
        row = int((~np.isfinite(table.targets.reshape(table.total, -1)).all(axis=1)).argmax())
        raise InputError("NaN or infinity among the targets", f"{table.place(row, 'y_test')} (counted from 1)", hint)
