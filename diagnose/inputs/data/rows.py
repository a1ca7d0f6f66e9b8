"""Rows of text from JSON: a list of objects, or one object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diagnose.errors import InputError
from diagnose.inputs.data.tables import Rows
from diagnose.settings import printable

Kind = Literal["instruction", "text", "labelled"]
NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "instruction": ("instruction", "output"),
    "labelled": ("text", "label"),
    "text": ("text",),
}
FORM = "a row has `instruction` and `output` (and `input`), or `text` and `label`, or `text` alone"
PREAMBLE = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
WITH_INPUT = (
    f"{PREAMBLE}, paired with an input that provides further context. {REQUEST}\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = f"{PREAMBLE}. {REQUEST}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n"


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
    if kind == "instruction":
        prompts = tuple(prompt(row["instruction"], row.get("input") or "") for row in objects)
        return Rows(name, kind, prompts, answers=tuple(row["output"] for row in objects))
    texts = tuple(row["text"] for row in objects)
    if kind == "text":
        return Rows(name, kind, texts)
    _check_labels(found)
    return Rows(name, kind, texts, labels=tuple(row["label"] for row in objects))


def prompt(instruction: str, context: str) -> str:
    """The template of Stanford Alpaca, up to where the answer starts."""
    template = WITH_INPUT if context else WITHOUT_INPUT
    return template.format(instruction=instruction, input=context)


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
        raise InputError(f"{_kind_of_value(value)}, not a list of rows", name, "give a list of objects: " + FORM)
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
        raise InputError(f"{_kind_of_value(found.value)}, not an object", found.place, FORM)
    return found.value


def _kind(row: Mapping[str, Any], place: str) -> Kind:
    if all(key in row for key in NEEDS["instruction"]):
        return "instruction"
    if "text" in row:
        return "labelled" if "label" in row else "text"
    if any(key in row for key in NEEDS["instruction"]):
        return "instruction"
    keys = ", ".join(f'"{printable(key)[:40]}"' for key in list(row)[:8]) or "none"
    raise InputError(f"no row of a known kind (its keys: {keys})", place, FORM)


def _check(row: Mapping[str, Any], kind: Kind, place: str) -> None:
    """Hold the keys and the types of a row against its kind."""
    needs = NEEDS[kind]
    for key in needs:
        if key not in row:
            article = "an" if kind == "instruction" else "a"
            raise InputError(f'"{key}" is missing ({article} {kind} row needs {", ".join(needs)})', place)
        value = row[key]
        if key == "label":
            if not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputError(f'"label" is {_kind_of_value(value)}, neither text nor a whole number', place)
        elif not isinstance(value, str):
            raise InputError(f'"{key}" is {_kind_of_value(value)}, not text', place)
    if kind == "instruction" and not isinstance(row.get("input"), (str, type(None))):
        raise InputError(f'"input" is {_kind_of_value(row["input"])}, not text', place)
    for key in (*needs, "input") if kind == "instruction" else needs:
        if isinstance(row.get(key), str) and not _encodable(row[key]):
            raise InputError(f'"{key}" holds half of a surrogate pair, which is no character', place)


def _check_labels(found: Sequence[_Found]) -> None:
    """Labels are all words or all numbers: 1 and "1" in one file would pass as two classes."""
    first = type(found[0].value["label"])
    for one in found:
        if type(one.value["label"]) is not first:
            here, before = _kind_of_value(one.value["label"]), _kind_of_value(found[0].value["label"])
            raise InputError(f'"label" is {here}, but {before} in the first row', one.place)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind_of_value(value: Any) -> str:
    """A JSON value in words, without its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, word in ((str, "text"), ((int, float), "a number"), (list, "a list")):
        if isinstance(value, kind):
            return word
    return "an object"
