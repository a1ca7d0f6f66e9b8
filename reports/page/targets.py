"""The speed-up by target: how many of AdaGrad's steps SGD needs to each loss on the way down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from reports.page.svg import ADAGRAD, INK, draw, ticks
from reports.page.tables import Table
from reports.words.numbers import number, ratio, ratio_interval

BEYOND = 4.0
"""A band is drawn up to this factor beyond the speed-ups themselves."""


def measured(rows: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """The rows that have a speed-up, the largest loss first."""
    return sorted((row for row in rows or () if row.get("speedup")), key=lambda row: -float(row["loss"]))


def drawing(prefix: str, rows: Sequence[Mapping[str, Any]], target: float | None, speedup: float | None) -> Markup:
    """Speed-up over the target loss, which falls to the right; the band is the interval, the ring the headline's."""
    losses = [float(row["loss"]) for row in rows]
    ratios = [float(row["speedup"]) for row in rows]
    if target is not None and speedup is not None:
        losses, ratios = [*losses, target], [*ratios, speedup]
    low, high = min(*ratios, 1.0) / BEYOND, max(*ratios, 1.0) * BEYOND
    ends = [(float(pair[0]), float(pair[1])) for row in rows if (pair := row.get("interval"))]
    within = [*ratios, 1.0, *(float(np.clip(end, low, high)) for pair in ends for end in pair)]

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        log = min(losses) > 0
        if log:
            axes.set_xscale("log")
        axes.set_yscale("log")
        known = [row for row in rows if row.get("interval")]
        axes.fill_between(
            [float(row["loss"]) for row in known],
            [float(row["interval"][0]) for row in known],
            [float(row["interval"][1]) for row in known],
            color=ADAGRAD,
            alpha=0.2,
            linewidth=0,
        )
        axes.axhline(1, color=INK, linewidth=0.8)
        axes.plot(losses[: len(rows)], ratios[: len(rows)], "o-", color=ADAGRAD, markersize=4, linewidth=2)
        if len(losses) > len(rows):
            axes.plot(losses[-1], ratios[-1], "o", color=INK, markerfacecolor="none", markersize=11, clip_on=False)
        _range(axes, losses, log)
        axes.set_ylim(min(within) / 1.25, max(within) * 1.25)
        for text, y, side in (("AdaGrad sooner", 0.98, "top"), ("SGD sooner", 0.02, "bottom")):
            axes.text(0.02, y, text, transform=axes.transAxes, va=side, fontsize=10)
        axes.set_xlabel("target loss: training goes to the right →")
        axes.set_ylabel("SGD's steps over AdaGrad's")
        ticks(axes, "x", log=log)
        ticks(axes, "y", log=True)

    return draw(prefix, 216, paint, left=52)


def _range(axes: Axes, losses: Sequence[float], log: bool) -> None:
    """Losses from the largest at the left to the smallest at the right."""
    high, low = max(losses), min(losses)
    if log:
        room = max((high / low) ** 0.05, 1.02)
        axes.set_xlim(high * room, low / room)
    else:
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_xlim(high + room, low - room)


def caption(rows: Sequence[Mapping[str, Any]], target: float | None, speedup: float | None) -> str:
    """What the figure shows, as a sentence, and how it is to be read."""
    first, last = rows[0], rows[-1]
    largest, smallest = (pick(rows, key=lambda row: float(row["speedup"])) for pick in (max, min))
    text = f"SGD's steps over AdaGrad's: {ratio(first['speedup'])} to a loss of {number(float(first['loss']), 3)}"
    if len(rows) > 1:
        text += f", {ratio(last['speedup'])} to {number(float(last['loss']), 3)}"
        if not {id(largest), id(smallest)} <= {id(first), id(last)}:
            text += f", between {ratio(smallest['speedup'])} and {ratio(largest['speedup'])} on the way"
    read = [] if target is None or speedup is None else ["the ring is the target of the headline"]
    if any(row.get("interval") for row in rows):
        read.append("the band is the 95% interval at each target")
    read.append("on the line both need as many steps")
    return f"{text}. {'; '.join(read)[:1].upper()}{'; '.join(read)[1:]}."


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The numbers of the figure."""
    cells = tuple(
        (
            number(float(row["loss"])),
            ratio(row["speedup"]),
            "—" if row.get("interval") is None else ratio_interval(row["interval"]),
        )
        for row in rows
    )
    return Table("Speed-up by target, as drawn", ("target loss", "SGD's steps over AdaGrad's", "95% interval"), cells)


def drawable(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a line to draw."""
    return len(rows) > 1 and all(math.isfinite(float(row["loss"])) for row in rows)
