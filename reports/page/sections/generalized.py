"""Section 4.3: growth of curvature with the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reports.page import figures
from reports.page.sections.parts import Figure, Section, cost, fewer_samples, three
from reports.page.tables import Quantity, Table, by_tensor, entry, quantity
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import interval, number, percent, ratio
from reports.words.sentences import printable, reason, stage_line

CHANCE = 0.05
"""Above this share of random orders the growth with the gradient may be chance."""


def generalized(diagnosis: Diagnosis) -> Section:
    """The pair (L₀, L₁) and the isotropic pair beside it."""
    part, d = diagnosis.generalized_smoothness, diagnosis.task.parameters
    isotropic, control = part.isotropic or {}, part.control or {}
    finding = stage_line("generalized_smoothness", part)
    remarks: list[str] = []
    cautions: list[str] = []
    if part.l0_l1 is not None:
        finding += "."
        if isotropic.get("l0") and d:
            share = ratio(part.l0_l1 / (d * isotropic["l0"]))
            finding += (
                f" Where the gradient vanishes, ‖L₀‖₁ is {share} d·ℓ₀ of the isotropic pair: below 1 the assumption "
                "by coordinate is the tighter one there, above 1 the isotropic one."
            )
    if control.get("l1_median") is not None and part.l1_median is not None:
        slope, null = isotropic.get("l1") or 0.0, control.get("isotropic_l1") or 0.0
        beyond = bool(part.helps_fraction) or part.l1_median > control["l1_median"] or slope > null
        (remarks if beyond else cautions).append(
            "Control: on the frozen quadratic at the first point, where the true L₁ is 0, the same fit gives a "
            f"median L₁ of {number(control['l1_median'])}, here {number(part.l1_median)}"
            + ("." if beyond else ": the fit shows no growth of curvature with the gradient.")
        )
    if part.helps_fraction and part.permutation_p is not None and part.permutation_p > CHANCE:
        orders = percent(part.permutation_p)
        cautions.append(
            f"L₁ helps as much in {orders} of random orders of the gradients: growth with the gradient is not shown."
        )
    if part.tighter:
        remarks.append(tighter(part.tighter))
    inflated = fewer_samples(diagnosis, diagnosis.smoothness.samples)
    if inflated and part.l0_l1 is not None:
        cautions.append(f"{inflated.split('.')[0]}, which inflates curvature (see Smoothness).")
    points = [p for p in part.points or () if (p.get("gradient_l2") or 0) > 0 and (p.get("sharpness") or 0) > 0]
    pictures: tuple[Figure, ...] = ()
    if len(points) > 1:
        known = isotropic.get("l0") is not None
        pair = (float(isotropic["l0"]), float(isotropic.get("l1") or 0.0)) if known else None
        svg = figures.growth(
            "growth", [(p["gradient_l2"], p["sharpness"], bool(p.get("fitted"))) for p in points], pair
        )
        gradients = [p["gradient_l2"] for p in points]
        span = number(max(gradients) / min(gradients), 2)
        caption = f"λ at {number(len(points))} points whose gradients span a factor of {span}"
        caption += (
            f"; the isotropic pair is λ ≤ {number(pair[0], 3)} + {number(pair[1], 3)}·‖∇f‖₂ (dashed)."
            if pair
            else "; no isotropic pair was fitted."
        )
        pictures = (Figure("growth", svg, caption, _growth_table(part.points)),)
    missing = Quantity(
        "ℓ₀, ℓ₁", "not measured", str(part.why.get("isotropic", "no reason was recorded")), "isotropic pair"
    )
    tensors = by_tensor(
        "Generalized smoothness by tensor",
        part.tensors,
        "l0_l1",
        (
            ("l0_l1", "‖L₀‖₁", number),
            ("l1_median", "median L₁", number),
            ("l1", "L₁ of the sum", number),
            ("gradient_range", "gradient range", three),
        ),
    )
    return Section(
        id="generalized",
        title="Generalized smoothness",
        question="Does curvature grow with the gradient, coordinate by coordinate?",
        finding=finding,
        remarks=tuple(remarks),
        cautions=tuple(cautions),
        figures=pictures,
        quantities=(
            ranged(part, "l0_l1", "l0_l1_interval", "‖L₀‖₁", "curvature that stays where the gradient vanishes"),
            ranged(
                part,
                "l1_median",
                "l1_median_interval",
                "median L₁",
                "growth of the curvature with the gradient, median over the coordinates",
            ),
            quantity(
                part,
                "identified_fraction",
                "identified",
                "share of the coordinates whose gradients span a decade: elsewhere L₁ is not told from L₀",
                show=percent,
            ),
            quantity(
                part,
                "helps_fraction",
                "L₁ > 0",
                "share of the coordinates where L₁ makes the bound tighter",
                show=percent,
            ),
            quantity(
                part, "coverage", "coverage", "share of the held-out points at which the pair is feasible", show=percent
            ),
            quantity(part, "tightness", "tightness", "Σ(L₀ + L₁|∇f|) over ‖L‖₁ at held-out points, mean", show=ratio),
            quantity(
                part,
                "permutation_p",
                "p",
                "share of random orders of the gradients in which L₁ helps as much",
                show=three,
            ),
            *(_whole(part.whole) if part.whole else ()),
            *(_isotropic(isotropic) if isotropic else (missing,)),
            *(_control(control) if control else ()),
        ),
        tables=tuple(t for t in (_groups(part.l1_by_group) if part.l1_by_group else None, tensors) if t),
        cost=cost(diagnosis, "generalized_smoothness"),
    )


def ranged(part: Any, key: str, interval_key: str, symbol: str, meaning: str) -> Quantity:
    """A quantity with its interval, which may be a point without the value being exact."""
    plain, pair = quantity(part, key, symbol, meaning), getattr(part, interval_key)
    if plain.value == "not measured":
        return plain
    detail = f"no interval: {reason(part, interval_key)}" if pair is None else f"95% interval {interval(pair)}"
    return replace(plain, detail=detail)


def tighter(body: Mapping[str, Any]) -> str:
    """Which of the two assumptions bounds the curvature more closely, as a sentence."""
    which, factor = body.get("assumption"), body.get("factor")
    if which is None:
        because = (body.get("why") or {}).get("assumption", "no reason was recorded")
        return f"Which of the two assumptions is the tighter one is not known: {because}."
    if which == "neither":
        return "At the held-out points the two assumptions bound the curvature equally closely."
    name = "the one by coordinate" if which == "coordinate-wise" else "the isotropic one"
    by = "" if factor is None else f", by a factor of {number(factor, 3)}"
    return f"Of the two assumptions {name} bounds the curvature more closely at the held-out points{by}."


def _groups(found: Sequence[Mapping[str, Any]]) -> Table:
    """The fits of each run and of the sphere: a true L₁ moves with no learning rate and no batch size."""
    rows = tuple(
        (
            printable(one.get("group", "")),
            number(one.get("points")),
            number(one.get("gradient_range"), 3),
            number(one.get("isotropic_l1"), 3),
            interval(one.get("isotropic_l1_interval")),
            number(one.get("l1_median"), 3),
            interval(one.get("l1_median_interval")),
        )
        for one in found
    )
    head = ("points of", "points", "gradient range", "ℓ₁", "95% interval of ℓ₁", "median L₁", "95% interval of L₁")
    note = (
        "A true L₁ moves with no learning rate and no batch size. Not measured: too few points or too narrow a range."
    )
    return Table("Growth with the gradient, run by run", head, rows, note=note, stacked=True)


def _isotropic(body: Mapping[str, Any]) -> tuple[Quantity, ...]:
    return (
        entry(body, "l0", "ℓ₀", "isotropic pair: λ ≤ ℓ₀ + ℓ₁‖∇f‖₂"),
        entry(body, "l1", "ℓ₁", "isotropic pair: growth with ‖∇f‖₂"),
        entry(body, "tightness", "tightness, isotropic", "(ℓ₀ + ℓ₁‖∇f‖₂) over λ at held-out points, mean", ratio),
        entry(body, "permutation_p", "p, isotropic", "the same test of the isotropic pair", three),
        entry(
            body, "coverage", "coverage, isotropic", "share of the held-out points under the isotropic line", percent
        ),
    )


def _whole(body: Mapping[str, Any]) -> tuple[Quantity, ...]:
    return (
        entry(body, "l0", "L₀ of the sum", "‖L‖₁ ≤ L₀ + L₁‖∇f‖₁ over all coordinates together"),
        entry(body, "l1", "L₁ of the sum", "growth of ‖L‖₁ with ‖∇f‖₁"),
    )


def _control(body: Mapping[str, Any]) -> tuple[Quantity, ...]:
    return (
        entry(body, "l1_median", "median L₁, control", "the same fit on a frozen quadratic, true value 0"),
        entry(body, "isotropic_l1", "ℓ₁, control", "the isotropic fit on that quadratic, true value 0"),
    )


def _growth_table(points: Any) -> Table:
    rows = tuple(
        (
            "fitted" if p.get("fitted") else "held out",
            number(p.get("gradient_l1")),
            number(p.get("gradient_l2")),
            number(p.get("sharpness")),
            number(p.get("l1_upper")),
        )
        for p in points
    )
    return Table("Points of the fit, as drawn", ("point", "‖∇f‖₁", "‖∇f‖₂", "λ", "‖L‖₁ at most"), rows)
