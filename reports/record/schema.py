"""The check of a result.json that was read, against the types of a diagnosis down to its rows.

Keys may be missing (older files) and unknown ones are left alone; a key that is there must have its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from estimators.results import Finding, stored_keys
from reports.record.checks import impossible
from reports.record.rows import Files, Inputs, Settings


def fault(text: str, kind: type[Any]) -> str | None:
    """The first key of a result.json whose value is of another type than was written, or impossible
    (``checks``), with what it should be.

    Args:
        text: the file, known to be JSON.
        kind: ``Diagnosis``.
    """
    try:
        body = _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"`{_path(first['loc']) or 'the whole'}`: {first['msg'].removeprefix('Input ').lower()}"
    return impossible(body)


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    special = {
        "warnings": list[_object(Finding)],  # type: ignore[misc]
        "settings": Settings | None,
        "inputs": dict[str, Inputs] | None,
        "files": Files | None,
    }
    result: Any = _object(kind, special)
    result.__pydantic_config__ = ConfigDict(allow_inf_nan=False)
    return TypeAdapter(result)


def _object(kind: type[Any], special: Mapping[str, Any] | None = None) -> Any:
    """The type of a dataclass' JSON object."""
    hints = get_type_hints(kind, include_extras=True)
    keys = {key: _type(hints[key]) for key in stored_keys(kind)}
    why = {"why": hints["why"] | None} if "why" in hints else {}
    return TypedDict(kind.__name__, keys | why | dict(special or {}), total=False)  # type: ignore[operator]


def _type(hint: Any) -> Any:
    """Of a key, by the annotation of its field: its rows stand beside what code sees of them."""
    if is_dataclass(hint):
        return _object(hint) | None  # type: ignore[arg-type]
    return hint.__metadata__[0] | None if get_origin(hint) is Annotated else hint


def _path(place: Sequence[str | int]) -> str:
    """noise.tensors[3].l1 from the pieces of a place."""
    text = ""
    for piece in place:
        text += f"[{piece}]" if isinstance(piece, int) else f".{piece}" if text else piece
    return text
