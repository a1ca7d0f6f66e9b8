"""What was not measured, in words, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from estimators.results import ALL_ROWS, NO_EMBEDDING, NONE_MISSED, stored_keys
from reports.record.diagnosis import NOT_YET, PARTS, Diagnosis
from reports.words.glossary import PARTS as PART_NAMES
from reports.words.glossary import interval_of, named
from reports.words.sentences import printable

NO_LACK = (NOT_YET, ALL_ROWS, NO_EMBEDDING, NONE_MISSED)
"""Reasons of what is no lack: this version has no such part, or there was nothing to infer or to group."""
BESIDE_ITSELF = ("training", "methods", "adagrad")
"""AdaGrad has no speed-up over itself."""
Path = tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Quantities that were not measured for one and the same reason, in words."""

    reason: str
    what: tuple[str, ...]


def missing(diagnosis: Diagnosis) -> tuple[Group, ...]:
    """Everything that is null and should not be, grouped by reason; a part that is null as a whole is one entry."""
    groups: dict[str, list[Path]] = {}
    for name, kind in PARTS.items():
        part, keys = getattr(diagnosis, name), stored_keys(kind)
        absent = {key: part.why.get(key, "no reason was recorded") for key in keys if getattr(part, key) is None}
        if len(absent) == len(keys) and len(set(absent.values())) == 1:
            groups.setdefault(next(iter(absent.values())), []).append((name,))
            continue
        for key, because in absent.items():
            groups.setdefault(because, []).append((name, key))
        for key in keys:
            for path, because in _nested(getattr(part, key), (name, key)):
                groups.setdefault(because, []).append(path)
    return tuple(
        Group(printable(because), in_words(paths)) for because, paths in groups.items() if because not in NO_LACK
    )


def in_words(paths: list[Path]) -> tuple[str, ...]:
    """The names of the keys; one name for a value and its interval, and one for the same value of several methods."""
    listed = set(paths)
    said: dict[str, list[str]] = {}
    for path in paths:
        value = interval_of(path[-1])
        if value is not None and (*path[:-1], value) in listed:
            continue
        what, whose = (f"{PART_NAMES[path[0]]}, all of it", "") if len(path) == 1 else named(path)
        said.setdefault(what, []).append(whose)
    return tuple(
        f"{what} of {' and '.join(', '.join(owners).rsplit(', ', 1))}" if all(owners) else what
        for what, owners in said.items()
    )


def _nested(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Paths and reasons of what a ``why`` deeper down names."""
    if not isinstance(value, Mapping):
        return
    for key, because in (value.get("why") or {}).items():
        if value.get(key) is None and not (path == BESIDE_ITSELF and key.startswith("adagrad_")):
            yield (*path, key), str(because)
    for key, inner in value.items():
        if key != "why":
            yield from _nested(inner, (*path, key))
