"""Rows of text from JSON: a list of objects, or one object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diagnose.errors import InputError
from diagnose.inputs.data import instructions, values
from diagnose.inputs.data.tables import Rows
from diagnose.settings import printable

Kind = Literal["instruction", "text", "labelled"]
NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "instruction": instructions.NEEDS,
    "labelled": ("text", "label"),
    "text": ("text",),
}
OPTIONAL: Mapping[Kind, tuple[str, ...]] = {
    "instruction": instructions.OPTIONAL,
    "labelled": ("text_pair",),
    "text": (),
}
FORM = (
    "a row has `instruction` and `output` (and `input`, `system`, `history`), or `text` and `label` (and `text_pair`), "
    "or `text` alone"
)


@dataclass(frozen=True)
class _Found:
    """A value of the file and its place in words: "alpaca.json, row 17"."""

    value: Any
    place: str


def parse(content: bytes, name: str, one_a_line: bool) -> Rows:
    """Rows of a JSON file; the keys of the first row say of which kind all are.

    A file of one object a line is read as such under any name; blank lines, CRLF and a byte-order mark are skipped.

    Args:
        one_a_line: the file is a ``.jsonl``.

    Raises:
        InputError: not UTF-8 or broken JSON (with the line), no rows, a top-level value that holds no rows, a
            row without its keys or with a value of the wrong type (with the row, counted from 1, or the line).
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8 text", f"{name}, line {line}", "save the file as UTF-8") from None
    found = _lines(text, name) if one_a_line else _list(text, name)
    if not found:
        raise InputError("no rows", name, "give a file with at least one row")
    kind = _kind(_object(found[0]), found[0].place)
    for one in found:
        _check(_object(one), kind, one.place)
    objects = [one.value for one in found]
    notes = values.unused(objects, (*NEEDS[kind], *OPTIONAL[kind]))
    if kind == "instruction":
        prompts = tuple(instructions.prompt(row) for row in objects)
        more = values.holding(objects, ("system", "history"))
        notes = (*([f"with {' and '.join(more)} rows"] if more else []), *notes)
        return Rows(name, kind, prompts, answers=tuple(row["output"] for row in objects), notes=notes)
    texts = tuple(row["text"] for row in objects)
    if kind == "text":
        return Rows(name, kind, texts, notes=notes)
    _check_labels(found)
    pairs = tuple(row.get("text_pair") for row in objects) if any(row.get("text_pair") for row in objects) else ()
    return Rows(name, kind, texts, labels=tuple(row["label"] for row in objects), notes=notes, pairs=pairs)


def _list(text: str, name: str) -> list[_Found]:
    """Objects of a list; of lines where the file holds an object a line after all."""
    try:
        value = _decoded(text, name)
    except InputError:
        if text.lstrip().startswith("{") and _several(text):
            return _lines(text, name)
        raise
    if isinstance(value, dict) and any(key in value for keys in NEEDS.values() for key in keys):
        return [_Found(value, f"{name}, row 1")]
    if not isinstance(value, list):
        raise InputError(f"{values.named(value)}, not a list of rows", name, "give a list of objects: " + FORM)
    return [_Found(row, f"{name}, row {number}") for number, row in enumerate(value, start=1)]


def _several(text: str) -> bool:
    """Whether the first line that is not blank is a whole object by itself."""
    try:
        return isinstance(json.loads(text.lstrip().partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def _lines(text: str, name: str) -> list[_Found]:
    """One object a line. Only a newline ends a line: JSON text may hold the other separators of Unicode."""
    return [
        _Found(_decoded(line, name, number), f"{name}, line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _decoded(text: str, name: str, line: int | None = None) -> Any:
    """The value of a JSON text: the whole file, or one line of it."""
    hint = "" if line is None else "a file of lines holds one whole object a line; a list of objects is a `.json` file"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place, fault = f"{name}, line {line or error.lineno}", error.msg[:1].lower() + error.msg[1:]
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        place = name if line is None else f"{name}, line {line}"
        fault = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
    raise InputError(f"broken JSON ({fault})", place, hint)


def _object(found: _Found) -> Mapping[str, Any]:
    if not isinstance(found.value, dict):
        raise InputError(f"{values.named(found.value)}, not an object", found.place, FORM)
    return found.value


def _kind(row: Mapping[str, Any], place: str) -> Kind:
    if all(key in row for key in NEEDS["instruction"]):
        return "instruction"
    if "text" in row:
        return "labelled" if "label" in row else "text"
    if any(key in row for key in NEEDS["instruction"]):
        return "instruction"
    raise InputError(f"no row of a known kind (its keys: {_keys(row)})", place, FORM)


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(f'"{printable(key)[:40]}"' for key in list(row)[:8]) or "none"


def _check(row: Mapping[str, Any], kind: Kind, place: str) -> None:
    """Hold the keys and the types of a row against its kind."""
    needs = NEEDS[kind]
    for key in needs:
        if key not in row:
            article = "an" if kind == "instruction" else "a"
            what = f'"{key}" is missing ({article} {kind} row needs {", ".join(needs)})'
            raise InputError(what, place, f"rename the key that holds it; those of the row are {_keys(row)}")
        value = row[key]
        if key == "label" and not isinstance(value, str):
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(f'"label" is {values.named(value)}, neither text nor a whole number', place)
        else:
            values.check_text(value, key, place)
    if kind == "instruction":
        instructions.check(row, place)
    if kind == "labelled":
        values.check_text(row.get("text_pair"), "text_pair", place, optional=True)


def _check_labels(found: Sequence[_Found]) -> None:
    """Labels are all words or all numbers: 1 and "1" in one file would pass as two classes."""
    first = type(found[0].value["label"])
    for one in found:
        if type(one.value["label"]) is not first:
            here, before = values.named(one.value["label"]), values.named(found[0].value["label"])
            raise InputError(f'"label" is {here}, but {before} in the first row', one.place)
