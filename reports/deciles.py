"""A quantity over the rows of a token embedding, by how often the tokens occur: names of the groups, the finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.numbers import number, percent

Group = Mapping[str, Any]
TENTHS = 10


def by_embedding(table: Sequence[Group] | None) -> dict[str, list[Group]]:
    """The groups of each embedding, never-seen tokens first, then from the rarest to the most frequent."""
    found: dict[str, list[Group]] = {}
    for row in sorted(table or (), key=lambda row: int(row.get("decile") or 0)):
        found.setdefault(str(row.get("tensor", "")), []).append(row)
    return found


def group_name(group: Group) -> str:
    """ "never seen", "1st tenth (rarest)" … "10th tenth (most frequent)"."""
    decile = int(group.get("decile") or 0)
    if decile == 0:
        return "never seen"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(decile, "th")
    extra = {1: " (rarest)", TENTHS: " (most frequent)"}.get(decile, "")
    return f"{decile}{ending} tenth{extra}"


def occurrences(group: Group) -> str:
    """How often the tokens of a group occur, from the least to the most frequent: "3–17×"."""
    least, most = group.get("least"), group.get("most")
    return f"{number(most)}×" if least == most else f"{number(least)}–{number(most)}×"


def finding(groups: Sequence[Group], what: str) -> str:
    """Where ``what`` of an embedding sits, in one sentence.

    Args:
        groups: those of one embedding, in order.
        what: "the embedding's noise".
    """
    vocabulary = sum(int(one.get("tokens") or 0) for one in groups)
    never = sum(int(one.get("tokens") or 0) for one in groups if not one.get("decile"))
    absent = (
        f"{percent(never / vocabulary)} of the vocabulary never occurs in the samples"
        if never
        else "every token occurs in the samples"
    )
    top = groups[-1]
    if top.get("share") is None or never == vocabulary:
        return f"{absent[0].upper()}{absent[1:]}."
    seen = "tenth of the tokens seen most often holds"
    if top["decile"] != TENTHS:
        seen = "token seen most often holds" if top["tokens"] == 1 else "tokens seen most often hold"
    rows = percent(top["tokens"] / vocabulary)
    return f"The {seen} {percent(top['share'])} of {what} with {rows} of its rows; {absent}."


def silent(groups: Sequence[Group], name: str, symbol: str) -> str | None:
    """What the rows of never-seen tokens do, which depends on whether the embedding is also the output head."""
    dead = groups[0].get("dead_fraction")
    if groups[0].get("decile") or dead is None:
        return None
    if dead == 1:
        return f"In {name} the rows of tokens that never occur have {symbol} = 0: no sample touches them."
    return (
        f"In {name} tokens that never occur are not silent: {percent(1 - dead)} of the coordinates of their rows have "
        f"{symbol} > 0. Where an embedding is also the output head, the softmax touches every token in every sample."
    )
