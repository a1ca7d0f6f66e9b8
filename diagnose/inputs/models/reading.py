"""What a model file holds, whatever its ending: told by its first bytes, read without running code unless trusted."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs.models import hints
from diagnose.inputs.random_state import seeded
from diagnose.settings import printable

AGAIN = "copy or save it again"
REFUSED = re.compile(r"unsupported (?:(?:global|class)\S* (?:GLOBAL )?([\w.]+)|operand)", re.IGNORECASE)
"""What torch says of a pickle that is more than tensors; an operand it does not know is one of a newer pickle."""
LFS = b"version https://git-lfs"


def read(path: Path, trust_pickle: bool) -> Any:
    """The object that a checkpoint file holds: tensors by name, a dict around them, or a pickled module.

    Args:
        trust_pickle: unpickle what is more than tensors and plain values.

    Raises:
        InputError: an empty, damaged or foreign file; Python objects without trust, or that cannot be loaded.
    """
    where = printable(path.name)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError("the file cannot be read", f"{where}: {error.strerror}") from None
    if not start:
        raise InputError("empty file", where, AGAIN)
    if start.startswith(LFS):
        raise _pointer(where)
    if _is_safetensors(start):
        return safetensors(path)
    zipped = start.startswith(b"PK")
    if not zipped and not start.startswith(b"\x80"):
        raise InputError("no checkpoint", where, "give what torch.save or safetensors wrote")
    if zipped:
        _check_archive(path, where)
    return _unpickled(path, where, zipped, trust_pickle)


def is_safetensors(path: Path) -> bool:
    """Whether a file that can be read is one of safetensors."""
    with path.open("rb") as file:
        return _is_safetensors(file.read(64))


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and start[7:8] == b"\0"


def safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: a damaged or missing file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                raise _pointer(printable(path.name)) from None
        where = f"{printable(path.name)}: {first_line(error)}"
        raise InputError("a damaged safetensors file", where, AGAIN) from None
    except OSError as error:
        what = error.strerror or first_line(error)
        raise InputError("the file cannot be read", f"{printable(path.name)}: {what}") from None


def _pointer(where: str) -> InputError:
    return InputError("a pointer to a large file, not the file", where, "fetch it with `git lfs pull`")


def check_folder(folder: Path, shown: str) -> None:
    """Refuse a folder whose files cannot be opened, under the name that is shown for it.

    Raises:
        InputError: no right to read it.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError("the folder cannot be read", shown, "check its permissions")


def plain_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: no JSON (naming the line), or no object.
    """
    where = printable(path.name)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError("broken JSON", f"{where}, line {error.lineno}: {error.msg}", AGAIN) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, nested without end
        raise InputError("no JSON", where, AGAIN) from None
    except OSError as error:
        raise InputError("the file cannot be read", f"{where}: {error.strerror}") from None
    if not isinstance(found, dict):
        raise InputError("no JSON object", where, "it is { ... }, with names and values")
    return found


@contextmanager
def importing_from_here() -> Iterator[None]:
    """The working folder comes first on the path, as with ``python -m``; the path is put back."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing."""
    text = str(error).strip()
    return printable(text.splitlines()[0]) if text else type(error).__name__


def _check_archive(path: Path, where: str) -> None:
    """Whether a zip file is whole and one of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        raise InputError("a damaged checkpoint, or a zip file of something else", where, AGAIN) from None
    if "constants.pkl" in parts:
        raise InputError(
            "a TorchScript program, no checkpoint", where, hints.factory(str(path), hints.SCRIPT, ".state_dict()")
        )
    if "data.pkl" not in parts:
        raise InputError("a zip file of something else", where, "give what torch.save or safetensors wrote")


def _unpickled(path: Path, where: str, zipped: bool, trust_pickle: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old files; what cannot be read is told below
            return torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
    except pickle.UnpicklingError as error:
        refused = REFUSED.search(str(error))
        if refused is None:
            raise InputError("no checkpoint, or a damaged one", where, AGAIN) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError("a damaged checkpoint", f"{where}: {first_line(error)}", AGAIN) from None
    if trust_pickle:
        return _trusted(path, where, zipped)
    such = f" such as {printable(refused[1])}" if refused[1] else ""
    what = f"it holds Python objects{such}, which run code when read"
    if refused[1] and refused[1].startswith("__main__."):
        raise InputError("a pickled file", f"{where}: {what}", hints.OF_A_SCRIPT)
    raise InputError("a pickled file", f"{where}: {what}", f"{hints.TENSORS}; or `--trust-pickle` if you trust it")


def _trusted(path: Path, where: str, zipped: bool) -> Any:
    try:
        with importing_from_here(), seeded(0):
            return torch.load(path, weights_only=False, map_location="cpu", mmap=zipped)
    except Exception as error:  # unpickling runs whatever the file names
        what = f"{where}: {type(error).__name__}: {first_line(error)}"
        hint = hints.OF_A_SCRIPT if "__main__" in str(error) else f"{hints.TENSORS} where it loads"
        raise InputError("the pickled objects cannot be loaded", what, hint) from error
