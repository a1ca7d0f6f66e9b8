"""Section 4.4: the Hessian diagonal and the ends of the spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.page import figures
from reports.page.aggregates import PER_DECADE, bins, decades, picture_width, signs
from reports.page.sections.parts import Figure, Section, cost
from reports.page.tables import Quantity, Table, by_tensor, quantity
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import interval, measured, number, percent
from reports.words.sentences import above_rounding, stage_line

Array = NDArray[np.float64]
STEPS = ("steps", "of the Lanczos iteration")


def curvature(diagnosis: Diagnosis) -> Section:
    """The Hessian diagonal and the ends of the spectrum."""
    part, ends, vectors = diagnosis.hessian_diagonal, diagnosis.spectrum, diagnosis.vectors
    cautions = []
    if part.exact is False:
        cautions.append(
            "Estimated with random probes: single coordinates are noisy, and the sum of the sizes of noisy values is "
            "too large, so Σ|hⱼ| is given with an interval that allows for it. The figure shows the estimates, with "
            "each tensor's noise scaled down; bounds, trace and Σ|hⱼ| rest on the unscaled ones."
        )
    density, found = ends.eigenvalue_density, _found(diagnosis.smoothness)
    pictures = (
        *_diagonal_figure(vectors, part.negative_fraction),
        *_ritz_figure(ends),
        *_density_figure(density or {}, diagnosis.task.parameters),
    )
    tensors = by_tensor(
        "Hessian diagonal by tensor",
        part.tensors,
        "abs_sum",
        (("trace", "trace", number), ("abs_sum", "Σ|hⱼ|", number)),
    )
    return Section(
        id="curvature",
        title="Hessian diagonal and spectrum",
        question="How large is the curvature along each coordinate, and along the steepest direction?",
        finding=f"Diagonal: {stage_line('hessian_diagonal', part)}. Spectrum: {stage_line('spectrum', ends)}.",
        remarks=(),
        cautions=tuple(cautions),
        figures=pictures,
        quantities=(
            quantity(
                part,
                "abs_sum",
                "Σ|hⱼ|",
                "sum of the sizes of the diagonal: a lower bound of ‖L‖₁",
                interval_key="abs_sum_interval",
            ),
            quantity(
                part,
                "trace",
                "tr H",
                "sum of the diagonal, and of the eigenvalues" + ("" if part.exact else ", by the diagonal's products"),
                interval_key="trace_interval",
            ),
            quantity(
                part,
                "negative_fraction",
                "hⱼ < 0",
                "share of the coordinates with a negative value beyond rounding",
                show=percent,
            ),
            quantity(part, "probes", "products", "spent on random probes; none where the diagonal is exact"),
            _end(ends, "largest", (ends.largest_lower, ends.largest_upper), "λmax", f"largest {found}"),
            _end(ends, "smallest", (ends.smallest_lower, ends.smallest_upper), "λmin", f"smallest {found}"),
            quantity(ends, "confidence", "1 − δ", "probability with which both lie in their intervals", show=percent),
            quantity(ends, "rounding", "ε", "eigenvalues of a smaller size are not told from 0 in this number format"),
            quantity(ends, "steps", *(("columns", "of the formed H") if _formed(ends) else STEPS)),
            *_moments(ends),
            quantity(part, "samples", "n", "samples that the diagonal was measured on"),
        ),
        tables=tuple(t for t in (tensors, _rules(ends.directional), _kinks(ends.kinks)) if t),
        cost=cost(diagnosis, "hessian_diagonal", "spectrum"),
    )


def _found(smoothness: Any) -> str:
    """What an end of the spectrum is, and where lambda is known less well, why."""
    ends = smoothness.sharpness_interval
    wider = ends is not None and ends[0] != ends[1]
    return "eigenvalue found" + ("; in more steps than λ of the bracket, so known more closely" if wider else "")


def _end(part: Any, key: str, pair: tuple[float | None, float | None], symbol: str, meaning: str) -> Quantity:
    """An end of the spectrum with the interval that holds the true one, where both ends of that are known."""
    found, (low, high) = quantity(part, key, symbol, meaning), pair
    if low is None or high is None:
        return found
    value, rounding = getattr(part, key), part.rounding
    if not above_rounding(value, rounding):
        return replace(found, value="0", detail=f"within rounding of ±{number(rounding, 2)}")
    if low == high:
        return replace(found, detail="exact")
    if _formed(part) and rounding:
        return replace(found, detail=f"exact to ±{number(rounding, 2)}, rounding")
    return replace(found, detail=f"interval {interval((low, high))}")


def _formed(part: Any) -> bool:
    """Whether all eigenvalues are there: no bound on them then leans on chance."""
    return bool(part.confidence == 1)


def _rules(directional: Mapping[str, Mapping[str, Any]] | None) -> Table | None:
    """Curvature along the update of each rule at the start."""
    if not directional:
        return None
    rows = tuple((rule, number(of.get("sharpness")), number(of.get("decrease"))) for rule, of in directional.items())
    head = ("update of", "uᵀHu/uᵀu", "most that one step gains")
    note = "Where uᵀHu is not above 0 the quadratic model has no best step."
    return Table("Curvature along the first update", head, rows, note=note)


def _kinks(steps: Sequence[Mapping[str, Any]] | None) -> Table | None:
    """Autograd's curvature beside that of a finite step."""
    if not steps:
        return None
    rows = tuple(
        (str(of.get("direction")), number(of.get("h"), 2), number(of.get("curvature")), number(of.get("finite")))
        for of in steps
    )
    return Table("Curvature by autograd and over a finite step", ("along", "h", "autograd", "finite step"), rows)


def _ritz_figure(part: Any) -> tuple[Figure, ...]:
    """All eigenvalues of the formed Hessian, or Ritz values."""
    values = sorted(part.eigenvalues or (), reverse=True)
    if len(values) < 3:
        return ()
    formed = _formed(part)
    name = "eigenvalue" if formed else "Ritz value"
    told = [v for v in values if above_rounding(v, part.rounding)]
    zeros = f", {number(len(values) - len(told))} zero within rounding" if len(told) < len(values) else ""
    caption = (
        f"The largest of {number(len(values))} {name}s is {number(values[0])}, the smallest {number(values[-1])}; "
        f"{number(sum(v < 0 for v in told))} are negative{zeros}. "
        + ("They are all eigenvalues of the formed H." if formed else "Only the ends approximate eigenvalues.")
    )
    ranked = list(enumerate(values, start=1))
    note = ""
    if len(ranked) > 60:
        ranked, note = [*ranked[:30], *ranked[-30:]], f"The 30 largest and the 30 smallest of {number(len(values))}."
    rows = tuple((number(rank), number(value)) for rank, value in ranked)
    data = Table(f"{'Eigenvalues' if formed else 'Ritz values'}, as drawn", ("rank", "value"), rows, note=note)
    return (Figure("ritz", figures.ritz("ritz", values, name), caption, data),)


def _moments(ends: Any) -> tuple[Quantity, ...]:
    """Means of the eigenvalues and of their squares, by the starts of the density; or why it is not there."""
    density = ends.eigenvalue_density
    if not density:
        return (quantity(ends, "eigenvalue_density", "density", "of all eigenvalues"),)
    source = "" if density.get("starts") is None else f", from {number(density['starts'])} Lanczos starts"
    apart = source and "; tr H above is from other products, so the two intervals differ"
    return tuple(
        Quantity(symbol, *_split(measured(density.get(key), density.get(f"{key}_interval"))), meaning)
        for key, symbol, meaning in (
            ("mean", "tr H/d", f"mean of the eigenvalues{source}{apart}"),
            ("mean_square", "tr H²/d", f"mean of their squares{source}"),
        )
    )


def _split(text: str) -> tuple[str, str]:
    head, _, tail = text.partition(", ")
    return head, tail


def _density_figure(density: Mapping[str, Any], d: int | None) -> tuple[Figure, ...]:
    """The density with its spread; nothing where it was not measured."""
    if not density.get("grid") or not density.get("density") or not density.get("width") or not d:
        return ()
    grid, values = np.asarray(density["grid"], dtype=float), np.asarray(density["density"], dtype=float)
    lower, upper = _band(density, values)
    width, starts = float(density["width"]), density.get("starts")
    size = float(np.abs(grid[[0, -1]]).max()) - 4 * width
    inside = np.abs(grid) <= size / 20
    share = float((values * inside).sum() / values.sum())
    caption = (
        f"{percent(share)} of the eigenvalues lie within a twentieth of the largest size around 0, "
        f"smoothed with a kernel of width {number(width, 2)}"
    )
    caption += (
        ": all eigenvalues of the formed H."
        if starts is None
        else f", from {number(starts)} Lanczos runs. {_resolved(density)}"
    )
    drawn = (curve[::5] for curve in (grid, values, lower, upper))
    rows = tuple(tuple(number(float(x), 3) for x in row) for row in zip(*drawn, strict=True))
    head = ("eigenvalue", "density", "from", "to")
    data = Table("Density of the eigenvalues, as drawn", head, rows, note="Every fifth point of the line.")
    single = 1 / (d * width * (2 * np.pi) ** 0.5)
    return (Figure("density", figures.density("density", grid, values, lower, upper, float(single)), caption, data),)


def _band(density: Mapping[str, Any], values: Array) -> tuple[Array, Array]:
    """Its 95% band; in files of earlier versions the standard error."""
    if density.get("lower") and density.get("upper"):
        return np.asarray(density["lower"], dtype=float), np.asarray(density["upper"], dtype=float)
    spread = np.asarray(density.get("spread") or np.zeros(len(values)), dtype=float)
    return values - spread, values + spread


def _resolved(density: Mapping[str, Any]) -> str:
    """What the band holds, and what the steps tell apart."""
    resolution, apart = density.get("resolution"), density.get("outliers")
    if resolution is None:
        return "The band is one standard error over the starts; it leaves out what the steps did not resolve."
    counted = f" {number(apart)} eigenvalues at the ends are known one by one." if apart else ""
    return (
        "The band holds the density of the exact eigenvalues under the same kernel with 95% at each point. "
        f"The steps resolve {number(resolution, 2)}: eigenvalues closer than that are not told apart.{counted}"
    )


def _diagonal_figure(vectors: Mapping[str, Mapping[str, Any]], negative_fraction: float | None) -> tuple[Figure, ...]:
    vector = vectors.get("hessian_diagonal", {})
    positive, negative = bins(vector, 1), bins(vector, -1)
    total = sum(int(getattr(v, "size", 0)) for v in vector.values())
    if not positive.size + negative.size:
        return ()
    below = negative.size / total if negative_fraction is None else negative_fraction
    caption = f"{percent(positive.size / total)} of the values are positive and {percent(below)} negative."
    resolved = signs(vectors.get("hessian_diagonal_lower", {}), vectors.get("hessian_diagonal_upper", {}))
    if resolved is not None:
        above, beneath, unresolved = resolved
        caption += (
            f" By the bounds of each coordinate {percent(above)} are surely positive, {percent(beneath)} surely "
            f"negative, and {percent(unresolved)} of unresolved sign or zero."
        )
    width = picture_width(positive, negative)
    step = 10 ** (width / PER_DECADE)
    rows = tuple(
        (sign, number(float(edge), 3), number(float(edge) * step, 3), percent(float(count) / total))
        for sign, binned in (("positive", positive), ("negative", negative))
        for edge, count in zip(*decades(binned, width), strict=True)
        if count
    )
    head = ("sign", "size from", "size to", "share of the coordinates")
    data = Table("Sizes of the Hessian diagonal, as drawn", head, rows)
    return (Figure("diagonal", figures.signed("diagonal", positive, negative, total), caption, data),)
