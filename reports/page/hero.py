"""The first figure: the loss of every method by step, and how many steps the same loss takes with each of the pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from reports.page.curves import Curve, wide
from reports.page.svg import GREY, INK, PAPER, SMALL, Line, draw, end_labels, label_room, line, text_width, ticks
from reports.record.diagnosis import PAIR
from reports.words.numbers import number
from reports.words.sentences import method_name

_DASHES = ((1.0, 1.2), (5.0, 1.5, 1.0, 1.5), (2.5, 1.0), (7.0, 2.0))
_MARKERS = "^DvPX*<"


@dataclass(frozen=True)
class Meeting:
    """Where the pair meets the target loss, the sooner method first, and that in words."""

    target: float
    steps: tuple[float, float]
    methods: tuple[str, str]
    words: str


def look(method: str, rank: int) -> Line:
    """AdaGrad and SGD in their colours, the others in grey."""
    if method in PAIR:
        return line(method)
    return Line(GREY, _DASHES[rank % len(_DASHES)], _MARKERS[rank % len(_MARKERS)])


def losses(
    prefix: str,
    curves: Sequence[Curve],
    initial: float | None,
    target: float | None,
    meeting: Meeting | None,
    height: float = 236,
) -> Markup:
    """Mean loss of each method over linear steps, the band from the lowest to the highest order of the batches."""
    others = [one.method for one in curves if one.method not in PAIR]

    def paint(panels: Sequence[Axes]) -> None:
        axes = panels[0]
        log = wide(curves, 2.0)
        if log:
            axes.set_yscale("log")
        labels = []
        for rank, one in sorted(enumerate(curves), key=lambda pair: (pair[1].method in PAIR, -pair[0])):
            style = look(one.method, others.index(one.method) if one.method in others else rank)
            strong = one.method in PAIR
            axes.fill_between(
                one.steps,
                one.values.min(axis=0),
                one.values.max(axis=0),
                color=style.colour,
                alpha=0.22 if strong else 0.1,
                linewidth=0,
                zorder=1.5,
            )
            axes.plot(
                one.steps,
                one.mean,
                color=style.colour,
                dashes=style.dash or (None, None),
                linewidth=2.2 if strong else 1.2,
                zorder=3 if strong else 2,
            )
            end = (one.steps[-1], float(one.mean[-1]))
            axes.plot(*end, style.marker, color=style.colour, markersize=6 if strong else 4.5, clip_on=False, zorder=3)
            labels.append((end[1], method_name(one.method)))
        last = max(float(one.steps[-1]) for one in curves)
        axes.set_xlim(0, last)
        axes.set_ylim(*_limits(curves, initial, target, log))
        axes.set_xlabel("step")
        axes.set_ylabel("loss (logarithmic)" if log else "loss")
        ticks(axes, "x", log=False)
        ticks(axes, "y", log=log)
        if initial is not None:
            axes.plot(0, initial, "D", color=INK, markersize=5, clip_on=False, zorder=4)
            axes.annotate(
                f"f(w₀) = {number(initial, 3)}",
                (0, initial),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
                zorder=5,
            )
        if target is not None:
            axes.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        if meeting is not None:
            _bracket(axes, meeting, curves, last)
        end_labels(axes, labels)

    return draw(prefix, height, paint, right=label_room([method_name(c.method) for c in curves]), left=52)


def _limits(curves: Sequence[Curve], initial: float | None, target: float | None, log: bool) -> tuple[float, float]:
    """From below all means, with room for a line of text, to above the start: what overshoots leaves the frame."""
    lows = [float(one.mean.min()) for one in curves] + ([] if target is None else [target])
    highs = [float(one.mean.max()) for one in curves]
    top = max(highs) if initial is None else min(max(highs), initial + 0.35 * abs(initial - min(lows)))
    top = max(top, initial) if initial is not None else top
    if log:
        span = max(float(np.log(top / min(lows))), 1e-9)
        return min(lows) * float(np.exp(-0.16 * span)), top * float(np.exp(0.08 * span))
    span = max(top - min(lows), 1e-12 + 1e-6 * abs(top))
    return min(lows) - 0.16 * span, top + 0.08 * span


def _bracket(axes: Axes, meeting: Meeting, curves: Sequence[Curve], last: float) -> None:
    """A double-ended mark on the target line from the sooner to the later method, its words beside it."""
    sooner, later = meeting.steps
    for at, method in zip(meeting.steps, meeting.methods, strict=True):
        style = line(method)
        axes.plot(at, meeting.target, style.marker, color=style.colour, markersize=7, clip_on=False, zorder=6)
    axes.plot([sooner, later], [meeting.target] * 2, color=INK, linewidth=1.8, zorder=5)
    middle, rise = _place(axes, meeting, curves, last, text_width(meeting.words, SMALL))
    axes.annotate(
        meeting.words,
        (middle, meeting.target),
        (0, rise),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=SMALL,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        zorder=7,
    )


def _place(axes: Axes, meeting: Meeting, curves: Sequence[Curve], last: float, width: float) -> tuple[float, float]:
    """Where the words cover least of the curves: their middle as a share of the axis, and points above the line."""
    box, scale = axes.get_window_extent(), 72 / axes.get_figure().dpi  # type: ignore[union-attr]
    half = 0.5 * width / (box.width * scale)
    span = half + 0.01, max(half + 0.01, 0.99 - half)
    wished = float(np.clip(sum(meeting.steps) / 2 / last, *span))
    line_at = axes.transData.transform((0, meeting.target))[1]
    marks = []
    for one in curves:
        at = np.linspace(0, last, 400)
        heights = np.interp(at, one.steps, one.mean)
        marks.append(np.column_stack([at / last, heights]))
    points = np.concatenate(marks)
    rises = (axes.transData.transform(np.column_stack([0 * points[:, 0], points[:, 1]]))[:, 1] - line_at) * scale
    room = (box.y0 - line_at) * scale + 7, (box.y1 - line_at) * scale - 7
    best = (float("inf"), wished, 12.0)
    for rise in (-11.0, 11.0, -24.0, 24.0, -37.0):
        for middle in (wished, *span):
            if room[0] <= rise <= room[1]:
                covered = (np.abs(points[:, 0] - middle) < half) & (np.abs(rises - rise) < 8)
                best = min(best, (float(covered.sum()) + 0.4 * abs(rise) + 30 * abs(middle - wished), middle, rise))
    return best[1], best[2]
