"""Figures of the runs: losses and gradients by step, the final loss by learning rate, curvature along the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from reports.page.curves import Curve, Rate, in_order, wide
from reports.page.svg import GREY, INK, Line, draw, end_labels, label_room, line, ticks
from reports.words.sentences import method_name


def lines(methods: Sequence[str]) -> dict[str, Line]:
    """The line of each method, those other than adagrad and sgd in the order given."""
    others = [m for m in methods if m not in ("adagrad", "sgd")]
    return {m: line(m, others.index(m) if m in others else 0) for m in methods}


def race(prefix: str, curves: Sequence[Curve], target: float | None, height: float = 250) -> Markup:
    """Mean loss of each method at its best rate, the band from the lowest to the highest order."""

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        _by_step(axes, curves, log=wide(curves, 8))
        if target is not None:
            axes.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            axes.annotate(
                "target loss",
                (0.0, target),
                (3, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                fontsize=10,
            )
        axes.set_ylabel("loss")
        axes.set_xlabel("step (logarithmic)")

    return draw(prefix, height, paint, right=_room(curves), left=52)


def gradients(prefix: str, first: Sequence[Curve], second: Sequence[Curve]) -> Markup:
    """‖∇f‖₁ above ‖∇f‖₂ along the best run of each method."""

    def paint(panels: Sequence[Axes]) -> None:
        for axes, curves, label in zip(panels, (first, second), ("‖∇f‖₁", "‖∇f‖₂"), strict=True):
            _by_step(axes, curves, log=True)
            axes.set_ylabel(label)
        panels[-1].set_xlabel("step (logarithmic)")

    return draw(prefix, 320, paint, panels=2, right=_room(first), left=56)


def _room(curves: Sequence[Curve]) -> float:
    return label_room([method_name(one.method) for one in curves])


def _by_step(axes: Axes, curves: Sequence[Curve], *, log: bool) -> None:
    looks = lines([c.method for c in curves])
    later = [replace(one, steps=one.steps[one.steps >= 1], values=one.values[:, one.steps >= 1]) for one in curves]
    log = log and min((float(one.values.min()) for one in later), default=0.0) > 0
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
    for one in later:
        look = looks[one.method]
        axes.fill_between(
            one.steps,
            one.values.min(axis=0),
            one.values.max(axis=0),
            color=look.colour,
            alpha=0.25 if len(curves) < 3 else 0.13,
            linewidth=0,
        )
        axes.plot(one.steps, one.mean, color=look.colour, dashes=look.dash or (None, None))
    labels = []
    for one in curves:
        last = float(one.mean[-1])
        axes.plot(
            one.steps[-1], last, looks[one.method].marker, color=looks[one.method].colour, markersize=6, clip_on=False
        )
        labels.append((last, method_name(one.method)))
    steps = [step for one in later for step in one.steps] or [1.0, 10.0]
    axes.set_xlim(min(steps), max(max(steps), 2 * min(steps)))
    axes.set_xlabel("")
    ticks(axes, "x", log=True)
    ticks(axes, "y", log=log)
    end_labels(axes, labels)


@dataclass(frozen=True)
class Chosen:
    """The learning rates of a method that a figure marks: the one that meets the target first, and the lowest end."""

    first: float | None
    lowest: float | None


def tuning(
    prefix: str, rates: Mapping[str, Sequence[Rate]], chosen: Mapping[str, Chosen], initial: float | None
) -> Markup:
    """Final loss of each rate of each method; rates at which a run diverged are crosses on the upper edge.

    Of each method the rate that meets the target first is a large mark, the one that ends lowest a ring.
    """
    looks = lines(list(rates))
    finals = [r.final_loss for series in rates.values() for r in series if r.final_loss is not None]
    best = min(finals, default=0.0)
    ceiling = max(finals, default=1.0) if initial is None else min(max(finals, default=initial), 1.15 * initial)
    ceiling = best + 1.06 * max(ceiling - best, 1e-12 + 1e-6 * abs(best))
    wide = best > 0 and ceiling / best > 30

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        axes.set_xscale("log")
        if wide:
            axes.set_yscale("log")
        best_of: dict[str, tuple[float, float]] = {}
        rings: list[tuple[float, float]] = []
        for method, series in rates.items():
            look = looks[method]
            seen = [
                (r.learning_rate, r.final_loss) for r in series if r.final_loss is not None and r.final_loss <= ceiling
            ]
            outside = [r.learning_rate for r in series if r.final_loss is None or r.final_loss > ceiling]
            axes.plot(
                [x for x, _ in seen],
                [y for _, y in seen],
                color=look.colour,
                dashes=look.dash or (None, None),
                marker=look.marker,
                markersize=4,
                linewidth=1.6,
            )
            axes.plot(outside, [ceiling] * len(outside), "x", color=look.colour, markersize=6, clip_on=False)
            for at, ring in ((chosen[method].first, False), (chosen[method].lowest, True)):
                found = [point for point in seen if at is not None and math.isclose(point[0], at, rel_tol=1e-6)]
                if found and ring:
                    axes.plot(*found[0], "o", color=INK, markerfacecolor="none", markersize=12, markeredgewidth=1)
                    rings.append(found[0])
                elif found:
                    axes.plot(*found[0], look.marker, color=look.colour, markersize=9)
                    best_of[method] = found[0]
        span = ceiling - best
        axes.set_ylim(best / (ceiling / best) ** 0.3 if wide else best - 0.35 * span, ceiling)
        every = [r.learning_rate for series in rates.values() for r in series]
        axes.set_xlim(min(every) / 1.6, max(every) * 1.6)
        axes.set_xlabel("learning rate (logarithmic)")
        axes.set_ylabel("final loss")
        ticks(axes, "x", log=True)
        ticks(axes, "y", log=wide)
        _below(axes, best_of, rings)

    return draw(prefix, 240, paint, left=52)


def batch_sizes(prefix: str, found: Sequence[Mapping[str, Any]]) -> Markup:
    """Final loss of SGD and AdaGrad by batch size, with intervals."""
    methods = [m for m in ("adagrad", "sgd") if any(m in one["methods"] for one in found)]
    looks = lines(methods)

    def paint(panels: Sequence[Axes]) -> None:
        axes, labels, every = panels[0], [], []
        axes.set_xscale("log")
        for method in methods:
            bodies = [(one["batch_size"], one["methods"][method]) for one in found]
            known = [(size, body) for size, body in bodies if body.get("final_loss") is not None]
            if not known:
                continue
            look = looks[method]
            finals = [body["final_loss"] for _, body in known]
            ends = [body.get("final_loss_interval") or (body["final_loss"],) * 2 for _, body in known]
            below = [final - low for final, (low, _) in zip(finals, ends, strict=True)]
            above = [high - final for final, (_, high) in zip(finals, ends, strict=True)]
            axes.errorbar(
                [size for size, _ in known],
                finals,
                yerr=[below, above],
                color=look.colour,
                marker=look.marker,
                markersize=5,
                linewidth=1.8,
                linestyle=(0, look.dash) if look.dash else "-",
                elinewidth=1,
                capsize=3,
            )
            labels.append((finals[-1], method_name(method)))
            every += [size for size, _ in known]
        if every:
            axes.set_xlim(min(every) / 1.3, max(every) * 1.3)
        axes.set_xlabel("batch size (logarithmic)")
        axes.set_ylabel("final loss")
        ticks(axes, "x", log=True)
        ticks(axes, "y", log=False)
        end_labels(axes, labels)

    return draw(prefix, 250, paint, right=label_room([method_name(m) for m in methods]), left=52)


def _below(axes: Axes, points: Mapping[str, tuple[float, float]], besides: Sequence[tuple[float, float]] = ()) -> None:
    """Name each marked point below it, further down where another name or a mark is in the way."""
    scale = 72 / axes.get_figure().dpi  # type: ignore[union-attr]
    at = {name: axes.transData.transform(point) * scale for name, point in points.items()}
    taken = [(x, y, 9.0) for x, y in (*at.values(), *(axes.transData.transform(point) * scale for point in besides))]
    for name in sorted(at, key=lambda key: at[key][1]):
        x, y = at[name]
        half, drop = 3.4 * len(method_name(name)), 15.0
        while any(abs(x - u) < half + w and abs(y - drop - v) < 12.5 for u, v, w in taken):
            drop += 3.0
        taken.append((x, y - drop, half))
        axes.annotate(
            method_name(name),
            points[name],
            (0, -drop),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10,
        )


def along_methods(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The points of each method's run; those of the start, which belong to no run, begin every run."""
    start = [p for p in points if p.get("method") in (None, "", "start")]
    methods = in_order(dict.fromkeys(str(p["method"]) for p in points if p not in start))
    return {m: [*start, *(p for p in points if p.get("method") == m)] for m in methods} or {"start": start}


def along(prefix: str, points: Sequence[Mapping[str, Any]]) -> Markup:
    """‖L‖₁ (bracket) above R_L at points along the best runs, by step; step 0 stands at the left edge."""
    by_method = along_methods(points)
    looks = lines(list(by_method))
    shift = [max(float(p["step"]), 0.7) for p in points]

    def paint(panels: Sequence[Axes]) -> None:
        for axes, low, high, label in (
            (panels[0], "l1_lower", "l1_upper", "‖L‖₁"),
            (panels[1], "density", "density", "R_L"),
        ):
            axes.set_xscale("log")
            axes.set_yscale("log")
            labels, every = [], []
            for method, found in by_method.items():
                known = sorted((p for p in found if p.get(high) and p.get(low)), key=lambda p: p["step"])
                if not known:
                    continue
                steps = [max(float(p["step"]), 0.7) for p in known]
                tops = [float(p[high]) for p in known]
                lows = [float(p[low]) for p in known]
                if high == "density":
                    lows = [float((p.get("density_interval") or (p[low],))[0]) for p in known]
                look = looks[method]
                axes.fill_between(steps, lows, tops, color=look.colour, alpha=0.25, linewidth=0)
                axes.plot(
                    steps,
                    tops,
                    color=look.colour,
                    dashes=look.dash or (None, None),
                    marker=look.marker,
                    markersize=5,
                    clip_on=False,
                    linewidth=1.8,
                )
                labels.append((tops[-1], method_name(method)))
                every += tops + lows
            axes.set_xlim(min(shift), max(max(shift), 2 * min(shift)))
            if every:
                axes.set_ylim(min(every) / 1.25, max(every) * 1.25)
            axes.set_ylabel(label)
            ticks(axes, "x", log=True)
            ticks(axes, "y", log=True)
            end_labels(axes, labels)
        if panels[1].get_ylim()[0] < 0.55 < panels[1].get_ylim()[1]:
            panels[1].axhline(0.55, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        panels[1].set_xlabel("step (logarithmic; the start at the left edge)")

    return draw(prefix, 320, paint, panels=2, right=label_room([method_name(m) for m in by_method]), left=56)
