"""Drawing to inline SVG: one look for all figures, unique ids, the page's own text colour and font.

A figure is drawn in a sentinel ink that becomes ``currentColor``, so it follows light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from reports.words.numbers import rate
from reports.words.sentences import printable

ADAGRAD, SGD, THIRD, GREY = "#0173b2", "#d55e00", "#029e73", "#808080"
INK = "#0d0e0f"
"""The sentinel: no other colour of a figure may be this one."""
PAPER = "#f0f1f2"
"""The sentinel of the page's own ground, for what must cover a line below it."""
WIDTH = 420
"""Width of every figure in its own units (points); a phone shows it almost at this size."""
ROW = 36
"""Height of one row of a figure made of labelled rows."""
_SIZE, SMALL = 11, 10
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.labelsize": _SIZE,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": _SIZE,
    "hatch.linewidth": 0.7,
    "lines.linewidth": 2.0,
    "path.simplify": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "diagnose",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.color": INK,
    "ytick.labelsize": SMALL,
}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True)
class Line:
    """How a method is drawn; colour is never the only sign."""

    colour: str
    dash: tuple[float, ...]
    marker: str


_OTHERS = (
    Line(THIRD, (1, 1.2), "^"),
    Line(GREY, (5, 1.5, 1, 1.5), "D"),
    Line("#6f6f6f", (2.5, 1), "v"),
    Line("#949494", (7, 2), "P"),
)


def line(method: str, rank: int = 0) -> Line:
    """The line of a method; ``rank`` counts the methods other than adagrad and sgd."""
    if method == "adagrad":
        return Line(ADAGRAD, (), "o")
    if method == "sgd":
        return Line(SGD, (4, 2), "s")
    return _OTHERS[rank % len(_OTHERS)]


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures; the caller's matplotlib settings come back afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def draw(
    prefix: str, height: float, paint: Callable[[Sequence[Axes]], None], *, panels: int = 1, **margins: float
) -> Markup:
    """Draw one figure of ``WIDTH`` by ``height`` points and return it as inline SVG.

    Args:
        prefix: name of the figure, unique in the page; every id inside starts with it.
        paint: draws on the axes, one for each panel, stacked with a common horizontal axis.
        margins: left (at least), right, bottom, top in points; the left one grows with the numbers of the axis.
    """
    edge = {"left": 46.0, "right": 14.0, "bottom": 38.0, "top": 12.0} | margins
    with style():
        figure, axes = _laid_out(height, edge, panels)
        paint(axes)
        if (room := max(map(_left_room, axes))) > edge["left"]:
            figure, axes = _laid_out(height, edge | {"left": room}, panels)
            paint(axes)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return inline(out.getvalue(), prefix)


def _laid_out(height: float, edge: Mapping[str, float], panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    FigureCanvasSVG(figure)
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False)
    figure.subplots_adjust(
        left=edge["left"] / WIDTH,
        right=1 - edge["right"] / WIDTH,
        bottom=edge["bottom"] / height,
        top=1 - edge["top"] / height,
        hspace=0.22,
    )
    return figure, list(grid[:, 0])


def _left_room(axes: Axes) -> float:
    """Points at the left of the axes for the numbers and the name of the vertical axis."""
    numbers = [text_width(text.get_text(), SMALL) for text in axes.get_yticklabels()]
    if not numbers:
        return 0.0
    return 8.0 + max(numbers) + (6.0 + 1.25 * _SIZE if axes.get_ylabel() else 0.0)


def inline(document: str, prefix: str) -> Markup:
    """An SVG document as an element for HTML: no namespaces, metadata or fixed size; ids and references prefixed."""
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag.removeprefix(_SVG) in ("metadata", "title")]:
            parent.remove(child)
    known = {element.get("id") for element in root.iter() if element.get("id")}
    used = {name for element in root.iter() for value in element.attrib.values() for name in _references(value)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        attributes = {key.removeprefix(_XLINK): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                if value in used:
                    element.set("id", f"{prefix}-{value}")
            elif key == "href":
                element.set("href", f"#{prefix}-{value[1:]}" if value[1:] in known else "")
            elif key == "style":
                element.set("style", _restyle(value, prefix))
            else:
                element.set(key, re.sub(r"url\(#", f"url(#{prefix}-", value).replace(INK, "currentColor"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-caption")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _references(value: str) -> list[str]:
    return re.findall(r"url\(#([^)]+)\)", value) + ([value[1:]] if value.startswith("#") else [])


def _restyle(value: str, prefix: str) -> str:
    value = re.sub(r"font-family: [^;]*; ?", "", value)  # the page's own
    value = value.replace(PAPER, "var(--paper)")
    return re.sub(r"url\(#", f"url(#{prefix}-", value).replace(INK, "currentColor")


def short(name: str, length: int = 42) -> str:
    """A name that fits a figure: printable, its middle replaced by "…" where it is long."""
    name = printable(name)
    head = (length - 1) // 3
    return name if len(name) <= length else f"{name[:head]}…{name[-(length - 1 - head) :]}"


def text_width(text: str, size: float = _SIZE) -> float:
    """Points that a text takes in the figures' own font, which is wider than most of a page's fonts."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) if text.strip() else 0.0


def label_room(labels: Sequence[str]) -> float:
    """Points at the right of the axes for the labels at the ends of the lines."""
    return 12.0 + max((text_width(text) for text in labels), default=0.0)


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights in [0, 1] moved as little as keeps neighbours ``gap`` apart, and inside where there is room."""
    gap = min(gap, 1 / (len(heights) - 1)) if len(heights) > 1 else gap
    at = [min(max(height, 0.0), 1.0) for height in heights]
    for _ in range(100):
        for k in range(len(at) - 1):
            lacking = gap - (at[k + 1] - at[k])
            if lacking > 0:
                at[k], at[k + 1] = at[k] - lacking / 2, at[k + 1] + lacking / 2
        at = [min(max(height, 0.0), 1.0) for height in at]
    for k in range(1, len(at)):
        at[k] = max(at[k], at[k - 1] + gap)
    for k in reversed(range(len(at))):
        at[k] = min(at[k], 1.0 if k == len(at) - 1 else at[k + 1] - gap)
    return at


def end_labels(axes: Axes, labels: Sequence[tuple[float, str]]) -> None:
    """Write labels at the right edge, each at its height, pushed apart until none overlap."""
    box = axes.get_window_extent()
    gap = _SIZE * 1.25 * axes.get_figure().dpi / 72 / box.height  # type: ignore[union-attr]
    at = [(axes.transAxes.inverted().transform(axes.transData.transform((1.0, y)))[1], text) for y, text in labels]
    at.sort()
    for height, (_, text) in zip(spread_out([float(y) for y, _ in at], gap), at, strict=True):
        axes.text(1.02, height, text, transform=axes.transAxes, va="center", ha="left", fontsize=_SIZE, clip_on=False)


def row_text(axes: Axes, row: int, left: str, right: str = "") -> None:
    """Label of one row, above its mark: a name at the left edge, a value at the right edge."""
    for x, text, side in ((0.0, left, "left"), (1.0, right, "right")):
        axes.text(
            x,
            row - 0.36,
            text,
            transform=axes.get_yaxis_transform(),
            ha=side,
            va="center",
            fontsize=SMALL,
            clip_on=False,
        )


def rows(axes: Axes, count: float, above: float = 0.62, below: float = 0.5) -> None:
    """Axes of labelled rows, the first on top, without a vertical axis; room above the first and below the last."""
    axes.set_ylim(count - 1 + below, -above)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def beside(axes: Axes, at: float, left: str, right: str) -> None:
    """A name and a number on the line of a row, outside of the axes at the left and at the right."""
    for x, offset, text, side in ((0.0, -10, left, "right"), (1.0, 10, right, "left")):
        axes.annotate(
            text,
            (x, at),
            (offset, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=SMALL,
            annotation_clip=False,
        )


def ticks(axes: Axes, which: str, *, log: bool) -> None:
    """Few ticks with plain labels ("0.01", "1,000") on the x or y axis, whose limits are already set."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if log:
        axis.set_major_locator(FixedLocator(log_ticks(low, high, 5 if which == "x" else 4)))
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: rate(float(value)) if value else "0"))


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round numbers inside [low, high]; over long ranges powers of ten."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    found: list[float] = []
    for steps, every in (
        ((1, 1.5, 2, 3, 4, 5, 6, 8), 1),
        ((1, 2, 5), 1),
        ((1, 3), 1),
        *(((1,), k) for k in range(1, 100)),
    ):
        found = [m * 10.0**e for e in range(first, last + 1) if e % every == 0 for m in steps]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    return found
