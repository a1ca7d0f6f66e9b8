"""What a result can hold: numbers that a file and a page can show. Others become null, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from estimators.results import Finding, stored_keys
from reports.record.checks import LARGEST

LISTED = 6
"""Places that a finding names, at most."""
Part = TypeVar("Part")


def storable(part: Part, name: str, dtype: str) -> tuple[Part, list[str]]:
    """The part with null in place of every number that is not finite or too large to be shown, and ``why`` beside it.

    An interval or a list of numbers is one value: it is null where one of its numbers is. The reason stands in the
    object that holds the key.

    Args:
        part: of a diagnosis, as a stage returns it.
        name: under which it is stored.
        dtype: number format of the run, for the reason.

    Returns:
        The part, and the paths of what was taken out.
    """
    body: dict[str, Any] = {key: getattr(part, key) for key in stored_keys(part)}
    body["why"] = getattr(part, "why")  # noqa: B009
    kept, places = _object(body, name, dtype)
    changed: Any = replace(part, **kept) if places else part  # type: ignore[type-var]
    return changed, places


def finite(vectors: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[dict[str, Mapping[str, np.ndarray]], list[str]]:
    """The kinds of vectors, all of whose numbers are finite, and the names of the other kinds."""
    whole = {kind: part for kind, part in vectors.items() if all(bool(np.isfinite(a).all()) for a in part.values())}
    return whole, [kind for kind in vectors if kind not in whole]


def not_finite(stage: str, places: Sequence[str], dtype: str) -> tuple[Finding, ...]:
    """not-finite, where a stage left such numbers."""
    if not places:
        return ()
    listed = ", ".join(f"`{place}`" for place in places[:LISTED])
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    wider = "" if dtype == "float64" else ", or use `--dtype float64`"
    return (
        Finding(
            code="not-finite",
            severity="warning",
            stage=stage,
            found=f"{len(places)} value{'s are' if len(places) > 1 else ' is'} not finite: {listed}{more}",
            meaning=f"sums or products left the range of {dtype}: these values are null, and nothing is known of them",
            action=f"bring inputs and targets to a common scale{wider}",
        ),
    )


def _object(body: Mapping[str, Any], path: str, dtype: str) -> tuple[dict[str, Any], list[str]]:
    kept: dict[str, Any] = {}
    why: dict[str, str] = {}
    places: list[str] = []
    for key, value in body.items():
        if key == "why":
            continue
        place = f"{path}.{key}"
        if isinstance(value, Mapping):
            kept[key], inner = _object(value, place, dtype)
            places += inner
        elif _rows(value):
            rows = [_object(row, f"{place}[{number}]", dtype) for number, row in enumerate(value)]
            kept[key] = [row for row, _ in rows]
            places += [inner for _, found in rows for inner in found]
        elif (reason := _reason(value, dtype)) is not None:
            kept[key], why[key] = None, reason
            places.append(place)
        else:
            kept[key] = value
    said = {**(body.get("why") or {}), **why}
    if said or "why" in body:
        kept["why"] = said
    return kept, places


def _rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _reason(value: Any, dtype: str) -> str | None:
    """Why a number, or one in a list, cannot be stored; None where all can."""
    sizes = list(_numbers(value))
    if any(math.isnan(size) for size in sizes):
        return f"not a number: a ratio of zeros, or of values beyond the range of {dtype}"
    if any(math.isinf(size) for size in sizes):
        return f"infinite: a sum, product or ratio left the range of {dtype}"
    if any(abs(size) >= LARGEST for size in sizes):
        return f"{LARGEST:g} or more in size: no page can show it"
    return None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
