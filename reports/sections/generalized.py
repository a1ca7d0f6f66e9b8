"""Section 4.3: growth of curvature with the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnose.schema import Diagnosis
from reports import figures
from reports.numbers import number, percent, ratio
from reports.sections.parts import Figure, Section, cost, fewer_samples, three
from reports.tables import Quantity, Table, by_tensor, entry, quantity
from reports.text import stage_line


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
            ("l1", "L₁", number),
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
            quantity(part, "l0_l1", "‖L₀‖₁", "curvature that stays where the gradient vanishes"),
            quantity(
                part, "l1_median", "median L₁", "growth of the curvature with the gradient, median over the coordinates"
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
            *(_isotropic(isotropic) if isotropic else (missing,)),
            *(_control(control) if control else ()),
        ),
        tables=tuple(t for t in (tensors,) if t),
        cost=cost(diagnosis, "generalized_smoothness"),
    )


def _isotropic(body: Mapping[str, Any]) -> tuple[Quantity, ...]:
    return (
        entry(body, "l0", "ℓ₀", "isotropic pair: λ ≤ ℓ₀ + ℓ₁‖∇f‖₂"),
        entry(body, "l1", "ℓ₁", "isotropic pair: growth with ‖∇f‖₂"),
        entry(
            body, "coverage", "coverage, isotropic", "share of the held-out points under the isotropic line", percent
        ),
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
