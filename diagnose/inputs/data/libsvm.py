"""LIBSVM text: one row a line, ``label index:value index:value ...``, indices from 1."""

from __future__ import annotations

import math
import os

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Table
from diagnose.settings import printable

FORM = "a LIBSVM line is `label index:value index:value ...` with indices from 1"


def parse(text: str, name: str, features: int | None = None) -> Table:
    """Rows of LIBSVM text as a dense table.

    Comments (from ``#``) and blank lines are skipped. An index that is written counts for the number of
    features d, also with the value 0; a row may have no feature.

    Args:
        features: d, where the file's largest index is not it.

    Raises:
        InputError: a malformed line (with its number), NaN or infinity, ``features`` below the largest
            index, no rows, no features, more numbers than the memory holds.
    """
    labels: list[float] = []
    counts: list[int] = []
    indices: list[int] = []
    values: list[float] = []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            labels.append(_number(words[0]))
            before = len(indices)
            for word in words[1:]:
                index, colon, value = word.partition(":")
                if not colon or not (index.isascii() and index.isdigit()):
                    raise ValueError(f"`{_short(word)}` is not index:value")
                indices.append(int(index))
                values.append(_number(value))
            counts.append(len(indices) - before)
            if counts[-1]:
                _check_indices(indices[before:])
        except ValueError as error:
            raise InputError(str(error), f"{name}, line {number}", FORM) from None
    if not labels:
        raise InputError("no rows", name, FORM)
    largest = max(indices, default=0)
    if features is not None and features < largest:
        raise InputError(
            f"`{features}` is below the largest index, {largest}",
            "--features",
            f"use at least {largest}, or leave it out",
        )
    width = features or largest
    if not width:
        raise InputError("no features", name, FORM)
    _check_memory(len(labels), width, name)
    inputs = np.zeros((len(labels), width))
    inputs[np.repeat(np.arange(len(labels)), counts), np.asarray(indices, dtype=np.int64) - 1] = values
    return Table(name, inputs, np.asarray(labels), notes=("LIBSVM text, features as they are in the file",))


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"`{_short(word)}` is not a number") from None
    if "_" in word:  # Python reads 1_000, LIBSVM does not
        raise ValueError(f"`{_short(word)}` is not a number")
    if not math.isfinite(value):
        raise ValueError(f"NaN or infinity in the data, `{_short(word)}`")
    return value


def _check_indices(row: list[int]) -> None:
    if min(row) < 1:
        raise ValueError("index 0")
    if len(set(row)) < len(row):
        twice = next(index for index in row if row.count(index) > 1)
        raise ValueError(f"index {twice} is given twice")


def _check_memory(rows: int, width: int, name: str) -> None:
    """A dense table larger than half of the memory would end in the kernel killing the process without a word."""
    need = rows * width * 8
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else need * 2
    if need > memory / 2:
        raise InputError(
            f"{rows:,} rows of {width:,} features need {need / 1e9:,.0f} GB as a dense table",
            name,
            "use a file with fewer rows or features",
        )


def _short(word: str) -> str:
    return printable(word if len(word) <= 40 else word[:37] + "...")
