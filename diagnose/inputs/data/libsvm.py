"""LIBSVM text: one row a line, ``label index:value index:value ...``, indices from 1."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data import memory
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
    labels, values = array("d"), array("d")  # 16 bytes for a value and its index, where lists would take 70
    counts, indices = array("q"), array("q")
    for number, line in enumerate(_lines(text), start=1):
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
        except OverflowError:
            raise InputError("an index of more than 18 digits", f"{name}, line {number}", FORM) from None
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
    memory.refuse_beyond(len(labels), width, name)
    inputs = np.zeros((len(labels), width))
    columns, numbers, start = np.asarray(indices), np.asarray(values), 0
    for row, count in zip(inputs, counts, strict=True):  # row by row: of a full table all places are twice its size
        row[columns[start : start + count] - 1] = numbers[start : start + count]
        start += count
    notes = ("LIBSVM text, features as they are in the file",)
    return Table(name, inputs, np.array(labels), notes=notes)


def _lines(text: str) -> Iterator[str]:
    """Line after line, so that no second copy of the text is made; only a newline ends one."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


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


def _check_indices(row: array[int]) -> None:
    if min(row) < 1:
        raise ValueError("index 0")
    if len(set(row)) < len(row):
        twice = next(index for index in row if row.count(index) > 1)
        raise ValueError(f"index {twice} is given twice")


def _short(word: str) -> str:
    return printable(word if len(word) <= 40 else word[:37] + "...")
