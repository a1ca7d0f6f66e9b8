"""Values of a JSON row: what they are in words, whether they are text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from diagnose.errors import InputError
from diagnose.settings import printable

LISTED = 6
"""Keys that a note names."""
SHOWN = 40
"""Characters of a key."""


def check_text(value: Any, key: str, place: str, optional: bool = False) -> None:
    """Raises InputError for what is no text, or text that cannot be encoded; null is none where it is optional."""
    if optional and value is None:
        return
    if not isinstance(value, str):
        raise InputError(f'"{key}" is {named(value)}, not text', place)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f'"{key}" holds half of a surrogate pair, which is no character', place) from None


def named(value: Any) -> str:
    """A JSON value in words, without its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, word in ((str, "text"), ((int, float), "a number"), (list, "a list")):
        if isinstance(value, kind):
            return word
    return "an object"


def holding(rows: Iterable[Mapping[str, Any]], keys: Collection[str]) -> tuple[str, ...]:
    """How many rows hold text under each of these keys, in words; nothing for a key that none has."""
    counts = Counter(key for row in rows for key in keys if _has_text(row.get(key)))
    return tuple(f"`{key}` in {counts[key]:,}" for key in keys if counts[key])


def unused(rows: Iterable[Mapping[str, Any]], used: Collection[str]) -> tuple[str, ...]:
    """The note that names the keys whose text is not used, and in how many rows; none where there is no such key."""
    counts = Counter(key for row in rows for key, value in row.items() if key not in used and _has_text(value))
    if not counts:
        return ()
    words = [f"`{printable(key)[:SHOWN]}` ({count:,} row{'s' * (count > 1)})" for key, count in counts.items()]
    more = f" and {len(words) - LISTED:,} more keys" if len(words) > LISTED else ""
    return (f"not used: {', '.join(words[:LISTED])}{more}",)


def _has_text(value: Any) -> bool:
    """Whether a value is text, or a list or an object with text in it, at any depth that JSON of this size has."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) and one.strip():
            return True
        if isinstance(one, (list, dict)):
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return False
