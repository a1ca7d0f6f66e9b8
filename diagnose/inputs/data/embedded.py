"""Data that needs no file: the sets that ship with scikit-learn, and Python's own documentation as text."""

from __future__ import annotations

import platform
from collections.abc import Callable

import numpy as np

from diagnose.inputs.data.tables import Array, Table, Text

TOPICS = "pydoc-topics"
TABLES = ("breast-cancer", "digits", "wine", "iris", "diabetes")
NAMES = (*TABLES, TOPICS)


def load(name: str) -> Table | Text:
    """An embedded data set by one of :data:`NAMES`."""
    return topics() if name == TOPICS else table(name)


def table(name: str) -> Table:
    """A set of scikit-learn, features standardised without their constant columns.

    ``digits`` keeps its 8 x 8 pixels, scaled to [0, 1], for models that take images; the targets of
    ``diabetes`` are standardised too, since they run from 25 to 346 in no unit.
    """
    from sklearn import datasets

    readers: dict[str, Callable[..., tuple[Array, Array]]] = {
        "breast-cancer": datasets.load_breast_cancer,
        "digits": datasets.load_digits,
        "wine": datasets.load_wine,
        "iris": datasets.load_iris,
        "diabetes": datasets.load_diabetes,
    }
    raw, targets = readers[name](return_X_y=True)
    inputs, kept = standardised(np.asarray(raw, dtype=np.float64))
    width = int(raw.shape[1])
    dropped = sorted(set(range(1, width + 1)).difference((kept + 1).tolist()))
    columns = f"constant column{'s' if len(dropped) > 1 else ''} ({', '.join(map(str, dropped))} of {width})"
    how = f"without {len(dropped)} {columns}" if dropped else "(no constant columns)"
    notes: tuple[str, ...] = (f"features standardised {how}",)
    if name == "diabetes":
        values = np.asarray(targets, dtype=np.float64)
        return Table(
            name=name,
            inputs=inputs,
            targets=(values - values.mean()) / values.std(),
            task="regression",
            columns=kept + 1,
            width=width,
            notes=(*notes, "targets standardised"),
        )
    images = (raw / 16.0).reshape(-1, 1, 8, 8) if name == "digits" else None
    return Table(name=name, inputs=inputs, targets=targets, columns=kept + 1, notes=notes, images=images, width=width)


def standardised(raw: Array) -> tuple[Array, Array]:
    """Columns with mean 0 and variance 1 (divisor n), and the numbers of those kept: constant ones are left out."""
    kept = np.flatnonzero(raw.max(axis=0) > raw.min(axis=0))
    moving = raw[:, kept]
    return (moving - moving.mean(axis=0)) / moving.std(axis=0), kept


def topics() -> Text:
    """The topics of Python's ``help()``, sorted by name, joined by a newline, as UTF-8 bytes."""
    from pydoc_data.topics import topics as pages

    text = "\n".join(pages[key] for key in sorted(pages)).encode()
    source = f"help topics of Python {platform.python_version()}"
    return Text(TOPICS, np.frombuffer(text, dtype=np.uint8), (source,))
