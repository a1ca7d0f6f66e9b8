"""Data files: bytes off the disk (unpacked where they are gzipped), read by the kind of the file."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from diagnose.errors import InputError
from diagnose.inputs.data import arrays, formats, libsvm, rows
from diagnose.inputs.data.tables import Rows, Table, Text
from diagnose.settings import printable
from reports.record.diagnosis import NOT_YET

GZIP = b"\x1f\x8b"
JSON = (".json", ".jsonl")
LATER = (".csv",)
READ_HERE = "LIBSVM text under any name, `.npz`, `.txt`, `.json` or `.jsonl`, each but `.npz` also with `.gz`"


def load(path: Path, features: int | None = None) -> Table | Text | Rows:
    """A data file by its ending: .npz arrays, .txt bytes, .json and .jsonl rows, else LIBSVM text; also with .gz.

    Raises:
        InputError: missing, a folder, empty, unreadable, broken, or not of a kind that is read.
    """
    shown = printable(path)
    ending = _ending(path)
    if ending in LATER:
        raise InputError(f"`{ending}` data: {shown}", NOT_YET, f"this version reads {READ_HERE}")
    formats.refuse_ending(ending, shown)
    content = read(path)
    if ending == ".npz":
        return arrays.parse(content, shown)
    formats.refuse_packed(content, shown)
    if ending == ".txt":
        return Text(shown, np.frombuffer(content, dtype=np.uint8))
    formats.refuse_binary(content, shown)
    if ending in JSON:
        return rows.parse(content, shown, one_a_line=ending == ".jsonl")
    try:
        text = content.decode("utf-8-sig")
        del content  # the text is as large, and the table is yet to come
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError("not a text file", f"{shown}, line {line}", libsvm.FORM) from None
    return libsvm.parse(text, shown, features)


def takes_features(path: Path) -> bool:
    """Whether --features means something for this file: it holds LIBSVM text."""
    return _ending(path) not in (".npz", ".txt", *JSON)


def read(path: Path) -> bytes:
    """Content of a file, unpacked where it is gzipped.

    Raises:
        InputError: missing, a folder, empty, not readable, a broken gzip stream.
    """
    shown = printable(path)
    if path.is_dir():
        raise InputError("a folder, not a data file", shown, "name one file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", shown, "check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError("the file cannot be read", f"{shown}: {printable(reason)}") from None
    if path.suffix.lower() == ".gz" and content and not content.startswith(GZIP):
        raise InputError("not a gzip file", shown, "drop the `.gz` from its name, or fetch it again")
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise InputError("broken gzip file", shown, "write or fetch it again") from None
    if not content.strip():
        raise InputError("empty file", shown, "give a file with at least one row")
    return content


def _ending(path: Path) -> str:
    """The ending that tells the kind of a file, ``.gz`` aside."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
