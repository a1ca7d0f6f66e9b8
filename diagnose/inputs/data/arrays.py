"""Arrays of a .npz file: x, y or x_train, y_train; x_test, y_test beside them are held out."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data.tables import SCALED, Array, Table, checked
from diagnose.settings import printable

CHANNELS = (1, 3, 4)
TESTS = ("x_test", "y_test")
NEEDED = "save it with numpy.savez(FILE, x=..., y=...), or x_train and y_train"


def parse(content: bytes, name: str) -> Table:
    """The rows of a .npz archive, those of x_test and y_test at the end.

    uint8 arrays of three dimensions or more are pixels and are scaled to [0, 1]; images come in NHWC or
    NCHW or without channels and leave as NCHW.

    Raises:
        InputError: not an archive of arrays, an array missing, object arrays, shapes that do not fit.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise InputError("not a .npz archive", name, NEEDED)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for x, y in (("x", "y"), ("x_train", "y_train")):
                if x in archive and y in archive:
                    table = _table(_array(archive, x, name), _array(archive, y, name), (x, y), name)
                    held = [key for key in TESTS if key in archive]
                    if len(held) < len(TESTS):
                        left_out = tuple(f"{key} alone is no test part and is left out" for key in held)
                        return replace(table, notes=(*table.notes, *left_out))
                    tests = _array(archive, TESTS[0], name), _array(archive, TESTS[1], name)
                    return _with_tests(checked(table), _table(*tests, TESTS, name))
            names = ", ".join(archive.files) or "nothing"
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            "broken .npz archive", f"{name}: {printable(error)}", "write or fetch the file again"
        ) from None
    raise InputError("no arrays x and y", f"{name} holds {printable(names)}", NEEDED)


def _with_tests(table: Table, tests: Table) -> Table:
    """One table of both parts; InputError where they are not alike."""
    if table.inputs.shape[1:] != tests.inputs.shape[1:] or table.inputs.dtype != tests.inputs.dtype:
        what = f"x_test has rows of shape {tests.inputs.shape[1:]} and type {tests.inputs.dtype}"
        raise InputError(
            what, table.name, f"give them as those of the training part: {table.inputs.shape[1:]}, {table.inputs.dtype}"
        )
    if tests.inputs.shape[:1] != tests.targets.shape[:1]:
        what = f"{tests.inputs.shape[0]:,} rows in x_test and {tests.targets.shape[0]:,} in y_test"
        raise InputError(what, table.name, "give one target for each row")
    if _sort(table.targets) != _sort(tests.targets):
        what = f"y_test holds {_sort(tests.targets)}, the training part {_sort(table.targets)}"
        raise InputError(what, table.name, f"save both as {table.targets.dtype}")
    return replace(
        table,
        inputs=np.concatenate([table.inputs, tests.inputs]),
        targets=np.concatenate([table.targets, tests.targets]),
        tests=tests.total,
    )


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


def _table(x: Array, y: Array, keys: tuple[str, str], name: str) -> Table:
    if x.dtype.kind not in "biuf":
        raise InputError(f"array {keys[0]} holds {x.dtype}, not real numbers", name, "save plain numeric arrays")
    targets = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if targets.ndim != 1 or targets.dtype.kind not in "biufU":
        raise InputError(
            f"array {keys[1]} has shape {y.shape} and type {y.dtype}", name, "give one label or number for each row"
        )
    notes = [f"arrays {keys[0]} and {keys[1]}"]
    if not 1 <= x.ndim <= 4:
        raise InputError(f"array {keys[0]} has {x.ndim} dimensions", name, "give rows (n, d) or images (n, C, H, W)")
    if x.ndim <= 2:
        notes.append("features as they are in the file")
        return Table(name, x, targets, notes=tuple(notes))
    images, layout = channels_first(x)
    notes.append(f"layout {layout}")
    if x.dtype == np.uint8:
        notes.append(SCALED)
    return Table(name, images, targets, notes=tuple(notes), divisor=255.0 if x.dtype == np.uint8 else 1.0)


def channels_first(x: Array) -> tuple[Array, str]:
    """Images as (n, C, H, W), and the layout that they had; 1, 3 or 4 at the end are channels."""
    if x.ndim == 3:
        return x[:, None], "NHW"
    if x.shape[3] in CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "NHWC"
    return x, "NCHW"
