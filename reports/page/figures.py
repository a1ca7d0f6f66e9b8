"""Figures of the measured quantities: ratios against their neutral values, bounds, concentration, tensors, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import seaborn
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from reports.page.aggregates import PER_DECADE, Array, Bins, decades, picture_width
from reports.page.deciles import Group, group_name, occurrences
from reports.page.svg import ADAGRAD, GREY, INK, ROW, SGD, THIRD, beside, draw, row_text, rows, short, ticks
from reports.words.numbers import percent, rate

LINE, NAMES, SIDE, NAME = 17, 164, 48, 28
"""Figures of many rows: height of a row, width of the names and of the numbers beside the axes, letters of a name."""


@dataclass(frozen=True)
class Zone:
    """A stretch of a ratio's axis that speaks for one side: adagrad-strong, adagrad, sgd or neither."""

    low: float
    high: float
    side: str


@dataclass(frozen=True)
class Reading:
    """A ratio with its interval, its own neutral value and the zones around that; without a side it has neither."""

    label: str
    value: float
    low: float
    high: float
    shown: str
    neutral: float | None
    neutral_label: str
    zones: tuple[Zone, ...]


@dataclass(frozen=True)
class Bound:
    """A mark on a common axis: a value, or a stretch from low to high; ``main`` is the quantity asked for."""

    label: str
    low: float
    high: float
    shown: str
    main: bool = False


_ZONES = {"adagrad-strong": (ADAGRAD, 0.42), "adagrad": (ADAGRAD, 0.18), "sgd": (SGD, 0.18), "neither": (GREY, 0.16)}


def strip(prefix: str, readings: Sequence[Reading]) -> Markup:
    """One row for each ratio on a common logarithmic axis; zones and neutral value are the row's own."""
    low = min(0.04, min(r.low for r in readings) / 1.4)
    high = max(2.0, max(r.high for r in readings) * 1.4)

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        rows(axes, len(readings))
        for k, one in enumerate(readings):
            for zone in one.zones:
                colour, alpha = _ZONES[zone.side]
                start, end = max(zone.low, low), min(zone.high, high)
                if start < end:
                    axes.fill_between([start, end], k - 0.13, k + 0.21, color=colour, alpha=alpha, linewidth=0)
            if one.neutral is not None:
                axes.plot([one.neutral] * 2, [k - 0.19, k + 0.27], color=INK, linewidth=1.6, solid_capstyle="butt")
            axes.plot([one.low, one.high], [k + 0.04] * 2, color=INK, linewidth=2.2, solid_capstyle="butt")
            axes.plot(one.value, k + 0.04, "o", color=INK, markersize=6.5)
            neutral = "takes no side" if one.neutral is None else f"neutral {one.neutral_label}"
            row_text(axes, k, one.label, f"{one.shown} ({neutral})")
        axes.set_xlabel("← favours AdaGrad\u2003ratio (logarithmic)\u2003favours SGD →")
        ticks(axes, "x", log=True)

    return draw(prefix, 44 + ROW * 1.1 * len(readings), paint, left=14, top=4)


def ladder(prefix: str, bounds: Sequence[Bound], label: str) -> Markup:
    """Bounds of one quantity from the smallest to the largest, on a logarithmic axis."""
    values = [v for b in bounds for v in (b.low, b.high) if v > 0]

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.5, max(values) * 1.5)
        rows(axes, len(bounds))
        for k, one in enumerate(bounds):
            axes.axhline(k + 0.05, color=GREY, linewidth=0.5, alpha=0.6)
            colour = ADAGRAD if one.main else INK
            if one.low > 0:
                axes.plot([one.low, one.high], [k + 0.05] * 2, color=colour, linewidth=4 if one.main else 2)
            axes.plot(one.high, k + 0.05, "o" if one.main else "D", color=colour, markersize=7 if one.main else 5)
            row_text(axes, k, one.label, one.shown)
        axes.set_xlabel(label)
        ticks(axes, "x", log=True)

    return draw(prefix, 44 + ROW * len(bounds), paint, left=14, top=4)


def concentrated(prefix: str, curve: tuple[Array, Array], quantity: str) -> Markup:
    """Share of the sum held by the largest coordinates; the dotted diagonal is a uniform vector."""

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate("uniform", (0.62, 0.62), (6, -6), textcoords="offset points", va="top", fontsize=10)
        axes.plot(curve[0], curve[1], color=ADAGRAD, linewidth=2.2, clip_on=False)
        axes.fill_between(curve[0], curve[1], curve[0], color=ADAGRAD, alpha=0.1, linewidth=0)
        half = float(np.interp(0.5, curve[1], curve[0]))
        axes.plot([0, half, half], [0.5, 0.5, 0], color=INK, linewidth=0.8)
        axes.annotate(
            f"half in {percent(half)}", (half, 0.5), (6, -2), textcoords="offset points", va="top", fontsize=10
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("share of the coordinates, largest first")
        axes.set_ylabel(f"share of {quantity}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25%", "50%", "75%", "100%"])

    return draw(prefix, 212, paint, left=56, right=24)


def tensors(prefix: str, shares: Sequence[tuple[str, float, float]], quantity: str) -> Markup:
    """For each tensor its share of the parameters (open) and of the quantity (filled)."""

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        rows(axes, len(shares))
        for k, (name, size, mass) in enumerate(shares):
            axes.plot([size, mass], [k + 0.05] * 2, color=INK, linewidth=1)
            axes.plot(size, k + 0.05, "o", color=GREY, markerfacecolor="none", markersize=7, clip_on=False)
            axes.plot(mass, k + 0.05, "o", color=ADAGRAD, markersize=7, clip_on=False)
            row_text(axes, k, short(name), f"{percent(mass)} of {quantity}")
        most = max(max(size, mass) for _, size, mass in shares)
        axes.set_xlim(0, most * 1.04)
        axes.set_xlabel(f"○ share of the parameters\u2003● share of {quantity}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.xaxis.set_major_locator(MaxNLocator(4))

    return draw(prefix, 44 + ROW * len(shares), paint, left=14, right=18, top=4)


def layers(prefix: str, shares: Sequence[tuple[str, float, float]], quantity: str) -> Markup:
    """For each layer, in the network's order, its share of the quantity (bar) and of the parameters (open mark)."""

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        for k, (name, size, mass) in enumerate(shares):
            axes.barh(k, mass, height=0.56, color=ADAGRAD, linewidth=0)
            axes.plot(size, k, "o", color=INK, markerfacecolor="none", markersize=5.5, markeredgewidth=1, clip_on=False)
            beside(axes, k, short(name, NAME), percent(mass))
        axes.set_xlim(0, max(max(size, mass) for _, size, mass in shares) * 1.04)
        axes.set_xlabel(f"▬ share of {quantity}\u2003○ of the parameters")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        rows(axes, len(shares), 0.6, 0.6)

    return draw(prefix, 48 + LINE * len(shares), paint, left=NAMES, right=SIDE, top=6)


def deciles(prefix: str, groups: Sequence[Group], label: str, quantity: str) -> Markup:
    """The mean of a coordinate in each group of tokens: never seen (open square) apart from the ten tenths (dots).

    Groups without a mean are left out; on a logarithmic axis a mean of 0 stands at the left edge.
    """
    known = [one for one in groups if one.get("mean") is not None]
    means = [float(one["mean"]) for one in known]
    positive = [value for value in means if value > 0]
    log = max(positive) > 8 * min(positive)
    apart = 0.6 if len(known) > 1 and not known[0]["decile"] else 0.0

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        low, high = (min(positive) / 1.5, max(positive) * 1.5) if log else (0.0, max(positive) * 1.06)
        if log:
            axes.set_xscale("log")
        axes.set_xlim(low, high)
        for k, (one, mean) in enumerate(zip(known, means, strict=True)):
            seen = bool(one["decile"])
            at, x = k + (apart if seen else 0.0), max(mean, low)
            axes.plot([low, high], [at, at], color=GREY, linewidth=0.5, alpha=0.6)
            look = {"color": ADAGRAD} if seen else {"color": INK, "markerfacecolor": "none", "markeredgewidth": 1.2}
            axes.plot(x, at, "o" if seen else "s", markersize=6.5, clip_on=False, **look)
            if not mean and log:
                axes.annotate("0", (x, at), (7, 0), textcoords="offset points", va="center", fontsize=10)
            name = f"{group_name(one).partition(' (')[0]}, {occurrences(one)}" if seen else group_name(one)
            beside(axes, at, name, percent(one.get("share")))
        axes.set_xlabel(f"{label}{' (logarithmic)' if log else ''}; right: share of {quantity}", loc="right")
        ticks(axes, "x", log=log)
        rows(axes, len(known) + apart, 0.6, 0.6)

    return draw(prefix, 48 + LINE * (len(known) + apart), paint, left=NAMES, right=SIDE, top=6)


def signed(prefix: str, positive: Bins, negative: Bins, total: int) -> Markup:
    """Shares of the coordinates by the size of their value: positive upwards, negative downwards."""

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.set_xscale("log")
        width = picture_width(positive, negative)
        step = 10 ** (width / PER_DECADE)
        for binned, sign, colour, hatch in ((positive, 1, THIRD, ""), (negative, -1, GREY, "////")):
            edges, counts = decades(binned, width)
            if not counts.size:
                continue
            seaborn.histplot(
                x=edges * step**0.5,
                weights=sign * counts / total,
                bins=list(np.log10(np.append(edges, edges[-1] * step))),
                log_scale=True,
                color=colour,
                alpha=0.75,
                edgecolor=INK,
                linewidth=0.4,
                hatch=hatch,
                ax=axes,
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("size of the value (logarithmic)")
        axes.set_ylabel("share of the coordinates")
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(100 * value):g}%")
        low, high = axes.get_ylim()
        axes.set_ylim(low * 1.18, high * 1.18)
        axes.set_yticks([mark for mark in axes.get_yticks() if low <= mark <= min(high, 1)])
        left, right = axes.get_xlim()
        if right < 10 * left:
            axes.set_xlim((left * right / 10) ** 0.5, (left * right * 10) ** 0.5)
        ticks(axes, "x", log=True)
        for text, y, side, shown in (("positive", 0.99, "top", positive), ("negative", 0.02, "bottom", negative)):
            if shown.size:
                axes.text(0.02, y, text, transform=axes.transAxes, va=side, fontsize=10)

    return draw(prefix, 224, paint, left=56)


def ritz(prefix: str, values: Sequence[float], name: str = "Ritz value") -> Markup:
    """Ritz values, or all eigenvalues, in descending order on an axis that is logarithmic away from zero."""
    found = np.sort(np.asarray(values, dtype=float))[::-1]
    kept = np.unique(np.linspace(0, found.size - 1, min(found.size, 160)).round().astype(int))

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        largest = float(np.abs(found).max()) or 1.0
        axes.set_yscale("symlog", linthresh=largest * 1e-4, linscale=0.3)
        for chosen, colour, marker in ((found[kept] >= 0, THIRD, "o"), (found[kept] < 0, GREY, "s")):
            axes.plot(kept[chosen] + 1, found[kept][chosen], marker, color=colour, markersize=4)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("rank")
        axes.set_ylabel(name)
        powers = [float(10.0 ** (np.floor(np.log10(largest)) + k)) for k in range(-3, 1)]
        marks = [*[-p for p in powers[::-2] if -p >= found.min() * 1.5], 0.0, *powers[1::2]]
        axes.set_yticks(sorted(marks))
        axes.yaxis.set_major_formatter(lambda value, _: rate(float(value)))
        axes.yaxis.set_minor_locator(NullLocator())

    return draw(prefix, 250, paint, left=60)


def density(prefix: str, grid: Array, values: Array, lower: Array, upper: Array, single: float) -> Markup:
    """Smoothed density with its band on a logarithmic axis, which ends at a tenth of one eigenvalue's height."""
    floor = single / 10

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.set_yscale("log")
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        low, high = (np.maximum(end, floor) for end in (lower, upper))
        axes.fill_between(grid, low, high, color=THIRD, alpha=0.3, linewidth=0)
        axes.plot(grid, np.maximum(values, floor), color=THIRD, linewidth=1.6)
        axes.axhline(single, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.set_xlim(grid[0], grid[-1])
        axes.set_ylim(floor, max(float(high.max()), 2 * single) * 1.6)
        axes.set_xlabel("eigenvalue\u2003– – height of a single one")
        axes.set_ylabel("density (logarithmic)")
        ticks(axes, "x", log=False)
        ticks(axes, "y", log=True)

    return draw(prefix, 250, paint, left=60)


def growth(prefix: str, points: Sequence[tuple[float, float, bool]], pair: tuple[float, float] | None) -> Markup:
    """λ against ‖∇f‖₂ at each point, fitted (filled) and held out (open), with the line l0 + l1·‖∇f‖₂."""
    x, y = np.array([p[0] for p in points]), np.array([p[1] for p in points])

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.set_xscale("log")
        axes.set_yscale("log")
        grid = np.geomspace(x.min() / 1.3, x.max() * 1.3, 80)
        if pair is not None:
            axes.plot(grid, pair[0] + pair[1] * grid, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        fitted = np.array([p[2] for p in points])
        axes.plot(x[fitted], y[fitted], "o", color=THIRD, markersize=6)
        axes.plot(x[~fitted], y[~fitted], "s", color=GREY, markerfacecolor="none", markersize=6)
        axes.set_xlim(grid[0], grid[-1])
        tops = [y.max()] + ([] if pair is None else [pair[0] + pair[1] * grid[-1]])
        axes.set_ylim(y.min() / 1.4, max(tops) * 1.3)
        legend = "‖∇f‖₂\u2003\u2003● fitted\u2003□ held out"
        axes.set_xlabel(legend if pair is None else f"{legend}\u2003– – isotropic pair")
        axes.set_ylabel("λ")
        ticks(axes, "x", log=True)
        ticks(axes, "y", log=True)

    return draw(prefix, 216, paint, left=56)
