"""Tensors by layer of the network, from their names alone.

A list of layers is a numbered list whose members repeat a structure (``transformer.h.3.mlp.c_fc.weight``); the
outermost such list counts, so the parts inside of a block stay together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

FEWEST = 3
"""With fewer groups than this the table of tensors says it all."""


@dataclass(frozen=True)
class Place:
    """Where a tensor sits.

    ``layer`` is "transformer.h.3", or outside of every list the module below the ones that hold the lists
    ("transformer.wte", "lm_head"); ``kind`` the rest of the name with "*" for numbers; ``of`` the list
    ("transformer.h") or None; ``index`` the layer's number in it.
    """

    layer: str
    kind: str
    of: str | None = None
    index: int = 0


@dataclass(frozen=True)
class Layer:
    """Sums over the tensors of a layer, or of neighbours in a list.

    ``size`` and ``share`` are the shares of all parameters and of the whole sum; ``l2`` is None where it is not
    known of every tensor.
    """

    name: str
    tensors: int
    parameters: int
    size: float
    l1: float
    share: float
    l2: float | None
    of: str | None
    index: int

    @property
    def density(self) -> float | None:
        """l1/(√d·l2)."""
        return self.l1 / (math.sqrt(self.parameters) * self.l2) if self.l2 else None


def places(names: Sequence[str]) -> tuple[Place, ...]:
    """The place of each name, in their order; none without a list of layers or with fewer than three groups."""
    split = [tuple(name.split(".")) for name in names]
    repeated = Counter(
        (parts[:k], parts[k + 1 :]) for parts in split for k in range(len(parts) - 2) if _is_number(parts[k])
    )
    lists = {stem for (stem, _), count in repeated.items() if count > 1}
    ends = [_end(parts, lists) for parts in split]
    above = {parts[:k] for parts, end in zip(split, ends, strict=True) if end for k in range(end - 1)}
    found = tuple(_place(parts, end, above) for parts, end in zip(split, ends, strict=True))
    return found if any(ends) and len({place.layer for place in found}) >= FEWEST else ()


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 9


def _end(parts: tuple[str, ...], lists: set[tuple[str, ...]]) -> int:
    """How many parts name the layer; 0 outside of the lists."""
    return next((k + 1 for k in range(len(parts) - 1) if parts[:k] in lists and _is_number(parts[k])), 0)


def _place(parts: tuple[str, ...], end: int, above: set[tuple[str, ...]]) -> Place:
    if end:
        kind = ".".join("*" if _is_number(part) else part for part in parts[end:])
        return Place(".".join(parts[:end]), kind, ".".join(parts[: end - 1]), int(parts[end - 1]))
    own = next((k for k in range(1, len(parts)) if parts[:k] not in above), len(parts))
    return Place(".".join(parts[:own]), ".".join(parts[own:]))


def by_layer(table: Sequence[Mapping[str, Any]] | None) -> tuple[Layer, ...]:
    """The layers in the network's order, from rows with name, parameters, l1 and, where known, l2."""
    placed = _placed(table)
    size, total = sum(row["parameters"] for row, _ in placed), sum(row["l1"] for row, _ in placed)
    if not total:
        return ()
    grouped: dict[Place, list[Mapping[str, Any]]] = {}
    for row, place in placed:
        grouped.setdefault(replace(place, kind=""), []).append(row)
    made = []
    for place, rows in grouped.items():
        parameters, l1 = sum(row["parameters"] for row in rows), sum(row["l1"] for row in rows)
        l2 = None if any(r.get("l2") is None for r in rows) else math.hypot(*(row["l2"] for row in rows))
        made.append(
            Layer(place.layer, len(rows), parameters, parameters / size, l1, l1 / total, l2, place.of, place.index)
        )
    return tuple(made)


def largest_kind(table: Sequence[Mapping[str, Any]] | None) -> tuple[str, float] | None:
    """Which kind of tensor of the numbered layers holds most of the whole sum, and its share; None for one kind."""
    sums: dict[str, float] = {}
    total = 0.0
    for row, place in _placed(table):
        total += row["l1"]
        if place.of is not None:
            sums[place.kind] = sums.get(place.kind, 0.0) + row["l1"]
    if len(sums) < 2 or not total:
        return None
    kind, most = max(sums.items(), key=lambda item: item[1])
    return kind, most / total


def _placed(table: Sequence[Mapping[str, Any]] | None) -> list[tuple[Mapping[str, Any], Place]]:
    """The rows that count, each with its place; none where tensors are not grouped."""
    known = [row for row in table or () if row.get("l1") is not None and row.get("parameters")]
    found = places([str(row.get("name", "")) for row in known])
    return list(zip(known, found, strict=True)) if found else []


def joined(layers: Sequence[Layer], most: int) -> tuple[Layer, ...]:
    """At most ``most`` groups for a picture: as many neighbours of one list together as that takes.

    Where groups outside of the lists alone are too many, the largest of them stay, in the network's order.
    """
    longest = max((layer.index for layer in layers if layer.of is not None), default=0) + 1
    found, width = tuple(layers), 1
    while len(found) > most and width < longest:
        width *= 2
        found = _joined(layers, width)
    if len(found) <= most:
        return found
    kept = sorted(range(len(found)), key=lambda k: -found[k].share)[:most]
    return tuple(found[k] for k in sorted(kept))


def _joined(layers: Sequence[Layer], width: int) -> tuple[Layer, ...]:
    runs = groupby(layers, key=lambda one: (one.name,) if one.of is None else (one.of, one.index // width))
    return tuple(_sum(tuple(run)) for _, run in runs)


def _sum(run: Sequence[Layer]) -> Layer:
    first, last = run[0], run[-1]
    if len(run) == 1:
        return first
    return Layer(
        name=f"{first.name}–{last.index}",
        tensors=sum(one.tensors for one in run),
        parameters=sum(one.parameters for one in run),
        size=sum(one.size for one in run),
        l1=sum(one.l1 for one in run),
        share=sum(one.share for one in run),
        l2=None if any(one.l2 is None for one in run) else math.hypot(*(one.l2 or 0.0 for one in run)),
        of=first.of,
        index=first.index,
    )
