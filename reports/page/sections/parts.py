"""What the sections share: their shape, their cost, cautions and the figures that several of them draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reports.page import figures
from reports.page.aggregates import bins, concentration, share_holding
from reports.page.deciles import by_tensor, finding, silent
from reports.page.layers import by_layer, joined, largest_kind
from reports.page.tables import Quantity, Table, of_decile_means, of_deciles, of_layers, of_shares, shares
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import duration, number, percent, ratio
from reports.words.sentences import printable, unit


@dataclass(frozen=True)
class Figure:
    """An inline SVG, its caption (a sentence that states the finding) and the plotted numbers."""

    id: str
    svg: Markup
    caption: str
    data: Table


@dataclass(frozen=True)
class Section:
    """A section of measurements; the fixed words (assumption, why it may be wrong) are in templates/notes/ID.html."""

    id: str
    title: str
    question: str
    finding: str
    remarks: tuple[str, ...]
    cautions: tuple[str, ...]
    figures: tuple[Figure, ...]
    quantities: tuple[Quantity, ...]
    tables: tuple[Table, ...]
    cost: str


def cost(diagnosis: Diagnosis, *stages: str) -> str:
    """Seconds of the named stages, where they are known."""
    known = diagnosis.cost.stages or {}
    spent = [f"{stage.replace('_', ' ')} {duration(known[stage])}" for stage in stages if stage in known]
    return ", ".join(spent) if spent else "not recorded"


def fewer_samples(diagnosis: Diagnosis, used: int | None) -> str | None:
    """A caution where curvature was measured on a part of the data, which inflates ‖L‖₁."""
    whole, what = diagnosis.task.rows, unit(diagnosis)
    if whole is None:
        whole, what = diagnosis.task.samples, "samples"
    used = diagnosis.task.curvature_samples if used is None else used
    if used is None or whole is None or used >= whole:
        return None
    text = (
        f"Measured on {number(used)} of the {number(whole)} {what}. ‖L‖₁ is a convex function of the Hessian, so a "
        "draw inflates it: bracket, vector L, λ and R_L are those of the draw."
    )
    inflation = (diagnosis.smoothness.whole_data or {}).get("inflation")
    if inflation is None:
        return f"{text} For all {what} ‖L‖₁ is likely to be lower."
    return (
        f"{text} Fitted on one half of the draw and measured on the other, ‖L‖₁ comes out "
        f"{_inflated(diagnosis.smoothness)} lower; the interval for all {what} allows for that."
    )


def _inflated(part: Any) -> str:
    """By how much the draw inflates its own Lambda, from both ends of the bracket where that is wide."""
    most, mean = part.whole_data["inflation"], part.whole_data.get("mean")
    if not mean or part.ended_by != "thresholds":
        return ratio(most)
    least = ratio(part.l1_lower / mean)
    return ratio(most) if least == ratio(most) else f"{least} to {ratio(most)}"


def tensor_figure(prefix: str, table: Sequence[Mapping[str, Any]] | None, key: str, symbol: str) -> tuple[Figure, ...]:
    """Shares of a quantity by tensor; no figure for a single tensor."""
    found = shares(table, key)
    if not found:
        return ()
    _, size, mass = found[0]
    caption = f"The tensor that holds most of {symbol} has {percent(mass)} of it and {percent(size)} of the parameters."
    if len(table or ()) > len(found):
        caption += f" Shown are the {len(found)} largest of {number(len(table or ()))} tensors."
    svg = figures.tensors(prefix, found, symbol)
    return (Figure(prefix, svg, caption, of_shares(f"{symbol} by tensor, as drawn", found, symbol)),)


MOST_LAYERS = 40
"""A figure by layer has at most this many rows; neighbours in a list are joined until it has."""


def tensor_parts(
    prefix: str, title: str, table: Sequence[Mapping[str, Any]] | None, symbol: str, density: str = ""
) -> tuple[tuple[Figure, ...], tuple[Table, ...]]:
    """Figure and table by layer; for a network without numbered layers the figure by tensor and no table."""
    layers = by_layer(table)
    if not layers:
        return tensor_figure(f"{prefix}-tensors", table, "l1", symbol), ()
    drawn = joined(layers, MOST_LAYERS)
    top = max(layers, key=lambda layer: layer.share)
    caption = (
        f"{printable(top.name)} holds most of {symbol}: {percent(top.share)} of it, with {percent(top.size)} of the "
        "parameters."
    )
    kind = largest_kind(table)
    if kind:
        caption += f" Of the kinds of tensors in the layers, {printable(kind[0])} holds most: {percent(kind[1])}."
    if sum(one.tensors for one in drawn) < sum(one.tensors for one in layers):
        caption += f" Shown are the {number(len(drawn))} groups that hold most."
    elif len(drawn) < len(layers):
        caption += " Neighbouring layers are drawn together."
    portions = [(one.name, one.size, one.share) for one in drawn]
    data = of_shares(f"{symbol} by layer, as drawn", portions, symbol, "layer")
    svg = figures.layers(f"{prefix}-layers", portions, symbol)
    return (Figure(f"{prefix}-layers", svg, caption, data),), (of_layers(f"{title} by layer", layers, symbol, density),)


def decile_parts(
    prefix: str, title: str, table: Sequence[Mapping[str, Any]] | None, symbol: str, entry: str, what: str
) -> tuple[tuple[Figure, ...], tuple[Table, ...], tuple[str, ...]]:
    """Figure, table and remarks of each token embedding and output head; ``entry`` is the symbol of one coordinate."""
    pictures, tables, remarks = [], [], []
    for k, (name, groups) in enumerate(by_tensor(table).items()):
        whose = printable(name)
        whole = of_deciles(f"{title} by token frequency: {whose}", groups, symbol, entry)
        said = finding(groups, f"the {what} of {whose}")
        if any(one.get("mean") for one in groups):
            svg = figures.deciles(f"{prefix}-tokens-{k}", groups, f"mean {entry} of a coordinate", symbol)
            plotted = of_decile_means(f"{whole.caption}, as drawn", groups, symbol, entry)
            pictures.append(Figure(f"{prefix}-tokens-{k}", svg, said, plotted))
        else:
            remarks.append(said)
        note = silent(groups, whose, entry)
        remarks += [note] if note else []
        tables.append(whole)
    return tuple(pictures), tuple(tables), tuple(remarks)


def concentration_figure(prefix: str, vector: Mapping[str, Any], symbol: str) -> tuple[tuple[Figure, ...], str]:
    """How few coordinates hold most of the sum, and the same as a sentence; nothing without the vector."""
    curve = concentration(bins(vector)) if vector else None
    if curve is None or not curve[0].size:
        return (), ""
    half, ninety = share_holding(curve, 0.5), share_holding(curve, 0.9)
    sentence = f"Half of {symbol} lies in {percent(half)} of the coordinates, nine tenths in {percent(ninety)}."
    marks = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    data = Table(
        f"Concentration of {symbol}, as drawn",
        (f"share of {symbol}", "share of the coordinates that holds it"),
        tuple((percent(m), percent(share_holding(curve, m))) for m in marks),
    )
    return (Figure(prefix, figures.concentrated(prefix, curve, symbol), sentence, data),), sentence


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    start = text[:1].upper() + text[1:] if text[:1] != "‖" else text
    return start if start.endswith((".", "?")) else start + "."


def three(value: float | None) -> str:
    """A number to three digits."""
    return number(value, 3)
