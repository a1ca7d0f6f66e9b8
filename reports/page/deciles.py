"""A quantity over the rows of tokens, by how often these occur: names of the groups, the finding.

Rows of a token embedding are counted among what the model reads, those of an output head among the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.words.numbers import number, percent

Group = Mapping[str, Any]
TENTHS = 10


def by_tensor(table: Sequence[Group] | None) -> dict[str, list[Group]]:
    """The groups of each embedding and output head, tokens without a count first, then from the rarest on."""
    found: dict[str, list[Group]] = {}
    for row in table or ():
        found.setdefault(str(row.get("tensor", "")), []).append(row)
    return {name: sorted(rows, key=lambda row: int(row.get("decile") or 0)) for name, rows in found.items()}


def is_output(group: Group) -> bool:
    """Whether tokens are counted as labels."""
    return group.get("role") == "output"


def group_name(group: Group) -> str:
    """ "never seen", of an output head "never a label"; "1st tenth (rarest)" … "10th tenth (most frequent)"."""
    decile = int(group.get("decile") or 0)
    if decile == 0:
        return "never a label" if is_output(group) else "never seen"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(decile, "th")
    extra = {1: " (rarest)", TENTHS: " (most frequent)"}.get(decile, "")
    return f"{decile}{ending} tenth{extra}"


def occurrences(group: Group) -> str:
    """How often the tokens of a group occur, from the least to the most frequent: "3–17×"."""
    least, most = group.get("least"), group.get("most")
    return f"{number(most)}×" if least == most else f"{number(least)}–{number(most)}×"


def finding(groups: Sequence[Group], what: str) -> str:
    """Where ``what`` of a tensor sits, in one sentence.

    Args:
        groups: those of one tensor, in order.
        what: "the embedding's noise".
    """
    top = groups[-1]
    seen, never_seen, always = (
        ("that are labels most often", "is never a label", "every token is a label somewhere")
        if is_output(top)
        else ("seen most often", "never occurs in the samples", "every token occurs in the samples")
    )
    vocabulary = sum(int(one.get("tokens") or 0) for one in groups)
    never = sum(int(one.get("tokens") or 0) for one in groups if not one.get("decile"))
    absent = f"{percent(never / vocabulary)} of the vocabulary {never_seen}" if never else always
    if top.get("share") is None or never == vocabulary:
        return f"{absent[0].upper()}{absent[1:]}."
    if top["decile"] == TENTHS:
        most = f"tenth of the tokens {seen} holds"
    elif top["tokens"] == 1:
        most = "token that is a label most often holds" if is_output(top) else f"token {seen} holds"
    else:
        most = f"tokens {seen} hold"
    rows = percent(top["tokens"] / vocabulary)
    return f"The {most} {percent(top['share'])} of {what} with {rows} of its rows; {absent}."


def silent(groups: Sequence[Group], name: str, symbol: str) -> str | None:
    """What the rows of tokens without a count do: in an output head, which may be the embedding, they are not dead."""
    dead = groups[0].get("dead_fraction")
    if groups[0].get("decile") or dead is None:
        return None
    which, softmax = (
        ("are never a label", "The softmax over the vocabulary touches every token in every sample.")
        if is_output(groups[0])
        else (
            "never occur",
            "Where an embedding is also the output head, the softmax touches every token in every sample.",
        )
    )
    if dead == 1:
        return f"In {name} the rows of tokens that {which} have {symbol} = 0: no sample touches them."
    return (
        f"In {name} tokens that {which} are not silent: {percent(1 - dead)} of the coordinates of their rows have "
        f"{symbol} > 0. {softmax}"
    )
