"""Arrays of a .npz file: x, y or x_train, y_train; x_test, y_test beside them are held out."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data import pixels
from diagnose.inputs.data.tables import Array, Table
from diagnose.settings import printable

TESTS = ("x_test", "y_test")
NEEDED = "save it with numpy.savez(FILE, x=..., y=...), or x_train and y_train"


def parse(content: bytes, name: str) -> Table:
    """The rows of a .npz archive, those of x_test and y_test at the end.

    Arrays of three dimensions or more are images, as :mod:`diagnose.inputs.data.pixels` reads them.

    Raises:
        InputError: not an archive of arrays, an array missing, object arrays, shapes that do not fit.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise InputError("not a .npz archive", name, NEEDED)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for x, y in (("x", "y"), ("x_train", "y_train")):
                if x in archive and y in archive:
                    rows = _part(archive, (x, y), name)
                    held = [key for key in TESTS if key in archive]
                    if len(held) == len(TESTS):
                        return _with_tests(rows, _part(archive, TESTS, name), (x, y), name)
                    left_out = tuple(f"{key} alone is no test part and is left out" for key in held)
                    return _table(*rows, (x, y), name, 0, left_out)
            names = ", ".join(archive.files) or "nothing"
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            "broken .npz archive", f"{name}: {printable(error)}", "write or fetch the file again"
        ) from None
    raise InputError("no arrays x and y", f"{name} holds {printable(names)}", NEEDED)


def _with_tests(train: tuple[Array, Array], test: tuple[Array, Array], keys: tuple[str, str], name: str) -> Table:
    """One table of both parts; InputError where they are not alike."""
    (x, y), (x_test, y_test) = train, test
    if x.shape[1:] != x_test.shape[1:] or x.dtype != x_test.dtype:
        what = f"x_test has rows of shape {x_test.shape[1:]} and type {x_test.dtype}"
        raise InputError(what, name, f"give them as those of the training part: {x.shape[1:]}, {x.dtype}")
    if len(x) != len(y):
        raise InputError(f"{len(x):,} rows of inputs and {len(y):,} targets", name, "give one target for each row")
    if len(x_test) != len(y_test):
        what = f"{len(x_test):,} rows in x_test and {len(y_test):,} in y_test"
        raise InputError(what, name, "give one target for each row")
    if not len(x):
        raise InputError("no rows", name, "give a data set with at least one row")
    if _sort(y) != _sort(y_test):
        what = f"y_test holds {_sort(y_test)}, the training part {_sort(y)}"
        raise InputError(what, name, f"save both as {y.dtype}")
    return _table(np.concatenate([x, x_test]), np.concatenate([y, y_test]), keys, name, len(x_test), ())


def _sort(targets: Array) -> str:
    """What targets are, in words."""
    return {"U": "words", "f": "floating-point numbers"}.get(targets.dtype.kind, "whole numbers")


def _array(archive: np.lib.npyio.NpzFile, key: str, name: str) -> Array:
    try:
        array: Array = archive[key]
    except ValueError:  # what numpy raises for object arrays, and for a member that is no array
        raise InputError(f"array {key} holds Python objects or no numbers", name, "save plain numeric arrays") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{key} is not an array", name, NEEDED)
    return array


def _part(archive: np.lib.npyio.NpzFile, keys: tuple[str, str], name: str) -> tuple[Array, Array]:
    """Inputs and targets under these names, of kinds that are read."""
    x, y = (_array(archive, key, name) for key in keys)
    if x.dtype.kind not in "biuf":
        raise InputError(f"array {keys[0]} holds {x.dtype}, not real numbers", name, "save plain numeric arrays")
    targets = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if targets.ndim != 1 or targets.dtype.kind not in "biufU":
        raise InputError(
            f"array {keys[1]} has shape {y.shape} and type {y.dtype}", name, "give one label or number for each row"
        )
    if not 1 <= x.ndim <= 4:
        raise InputError(f"array {keys[0]} has {x.ndim} dimensions", name, "give rows (n, d) or images (n, C, H, W)")
    return x, targets


def _table(x: Array, targets: Array, keys: tuple[str, str], name: str, tests: int, notes: tuple[str, ...]) -> Table:
    """Rows of features, or images."""
    arrays = f"arrays {keys[0]} and {keys[1]}"
    if x.ndim <= 2:
        return Table(name, x, targets, notes=(arrays, "features as they are in the file", *notes), tests=tests)
    return pixels.table(name, x, targets, (arrays, *notes), tests)
