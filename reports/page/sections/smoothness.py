"""Section 4.2: the smallest ‖L‖₁ and its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.page import figures, race
from reports.page.sections.parts import (
    Figure,
    Section,
    concentration_figure,
    cost,
    decile_parts,
    fewer_samples,
    tensor_parts,
)
from reports.page.tables import Quantity, Table, by_tensor, entry, of_points, quantity
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import NARROW, bracket, certified, interval, number, percent, rate, ratio
from reports.words.sentences import drawn, method_name, of_all_rows, scaled_sharpness, smoothness_side, stage_line, unit

_WANTED = {
    "gap": "width of the bracket, upper/lower − 1, that was wanted and reached",
    "thresholds": "width of the bracket, upper/lower − 1, at which it ends at the latest; its reading was certain",
    "products": "width of the bracket, upper/lower − 1, that was wanted; the products ran out before",
}


def smoothness(diagnosis: Diagnosis) -> Section:
    """The bracket on ‖L‖₁ at the start and along the runs."""
    part = diagnosis.smoothness
    drawn, sentence = concentration_figure(
        "smoothness-concentration", diagnosis.vectors.get("smoothness", {}), "the upper ‖L‖₁"
    )
    inflated = fewer_samples(diagnosis, part.samples)
    by_layer, layer_tables = tensor_parts("smoothness", "Smoothness", part.tensors, "‖L‖₁")
    by_token, token_tables, remarks = decile_parts(
        "smoothness", "Smoothness", part.token_deciles, "‖L‖₁", "L", "upper ‖L‖₁"
    )
    schedule = str(diagnosis.settings.get("schedule", "constant"))
    edge = _stability(part, diagnosis.training.methods or {}, schedule)
    tensors = by_tensor("Smoothness by tensor", part.tensors, "l1", (("l1", "‖L‖₁ of the tensor", number),))
    return Section(
        id="smoothness",
        title="Smoothness",
        question="Is the curvature concentrated in few coordinates, so that a step size for each one pays?",
        finding=f"{_finding(part, unit(diagnosis))} {sentence}".strip(),
        remarks=(*_stability_remark(edge), *remarks),
        cautions=(inflated,) if inflated else (),
        figures=(
            *_ladder(part, diagnosis.hessian_diagonal.exact is False),
            *drawn,
            *by_layer,
            *by_token,
            *_along(part),
        ),
        quantities=_quantities(part, unit(diagnosis)),
        tables=tuple(t for t in (_stability_table(edge), *layer_tables, tensors, *token_tables) if t),
        cost=cost(diagnosis, "smoothness"),
    )


def _finding(part: Any, what: str) -> str:
    if part.l1_upper is None or part.l1_lower is None or part.density is None:
        return stage_line("smoothness", part)
    low, high = bracket(part.l1_lower, part.l1_upper)
    where = f"is {high}" if part.l1_lower == part.l1_upper else f"lies between {low} and {high}"
    sure = "" if part.confidence in (None, 1) else f" (with probability {percent(part.confidence)})"
    side = smoothness_side(part.density, part.density_rotated)
    some = drawn(part)
    whose = "" if some is None else f" of the {number(some[0])} {what} drawn"
    said = (
        f"At the start the smallest ‖L‖₁{whose} {where}{sure}, d·λ is {number(scaled_sharpness(part))}, "
        f"so R_L{whose} {_where(part)}: {side}.{_ended(part)}"
    )
    return said if some is None else f"{said} ‖L‖₁ {of_all_rows(part, what)}."


def _where(part: Any) -> str:
    pair = part.density_interval
    if pair is None or pair[1] <= (1 + NARROW) * pair[0]:
        return f"is at most {number(part.density, 3)}"
    return "lies between {} and {}".format(*bracket(*pair))


def _ended(part: Any) -> str:
    """Why a wide bracket is no narrower."""
    ended = part.ended_by == "thresholds"
    return " The bracket ended there, since the reading is the same anywhere within." if ended else ""


def _quantities(part: Any, what: str) -> tuple[Quantity, ...]:
    low, high = bracket(part.l1_lower, part.l1_upper)
    known = part.sharpness is not None and part.sharpness_interval is not None
    sharpness = quantity(part, "sharpness", "λ", "largest |eigenvalue| of H, in SGD's bound")
    if known and part.sharpness_interval[0] != part.sharpness_interval[1]:
        ends = bracket(*part.sharpness_interval)
        wanted = f"; wanted to {percent(part.sharpness_wanted)}" if part.sharpness_wanted else ""
        sharpness = Quantity(
            "λ", number(part.sharpness), f"at most {ends[1]}{wanted}", "largest |eigenvalue| of H, in SGD's bound"
        )
    return (
        quantity(part, "l1_lower", "‖L‖₁ ≥", "lower bound, from a feasible point of the dual", show=lambda _: low),
        quantity(
            part, "l1_upper", "‖L‖₁ ≤", "upper bound, with the feasible vector L that is stored", show=lambda _: high
        ),
        quantity(
            part,
            "confidence",
            "1 − δ",
            "probability with which bracket and λ hold; 100% where H was formed",
            show=percent,
        ),
        sharpness,
        quantity(
            part,
            "density",
            "R_L",
            "‖L‖₁/(d·λ), from the upper bound; never above 1",
            show=lambda value: certified(value, part.density_interval),
        ),
        quantity(part, "density_rotated", "R_L, rotated", "the same after a random rotation of the coordinates"),
        quantity(part, "diagonal_sum", "Σ|hⱼ|", "of the Hessian diagonal: a lower bound of ‖L‖₁, not a valid L"),
        quantity(part, "row_norm_sum", "Σ√(H²)ⱼⱼ", "norms of the rows: a lower bound of ‖L‖₁, not a valid L"),
        quantity(
            part, "hessian_11", "Σ|Hⱼₖ|", "all entries: an upper bound of ‖L‖₁", interval_key="hessian_11_interval"
        ),
        quantity(
            part, "global_l1", "‖L‖₁, all w", "closed form of linear models: valid at every w, so it may be looser"
        ),
        _of_the_data(part, what),
        quantity(part, "gap_wanted", "gap", _WANTED.get(part.ended_by, _WANTED["gap"]), show=percent),
        quantity(part, "products", "Hv", "Hessian-vector products spent on the bracket at the start"),
        quantity(part, "samples", "n", "samples that curvature was measured on"),
    )


def _of_the_data(part: Any, what: str) -> Quantity:
    """The row of the whole data: its interval, and what that cost."""
    whole = part.whole_data
    symbol = f"‖L‖₁, all {what}"
    if whole is None:
        return quantity(part, "whole_data", symbol, "of the whole data")
    if drawn(part) is None:
        pair = bracket(*whole["interval"]) if whole.get("interval") else ("not measured",) * 2
        shown = pair[0] if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"
        return Quantity(symbol, shown, "", f"of the whole data: the bracket above, as all {what} were measured")
    meaning = (
        f"of the whole data, from directions of one half of the draw evaluated on the other; "
        f"{number(whole.get('products'), 3)} more products"
    )
    if whole.get("interval") is None:
        return entry(whole, "interval", symbol, meaning)
    return Quantity(symbol, interval(whole["interval"]), "95% interval", meaning)


@dataclass(frozen=True)
class Stability:
    """A point of a run: the sharpness in the metric of its rule, and that times the learning rate."""

    method: str
    step: int
    sharpness: float
    learning_rate: float
    """Of this step, by the schedule."""

    @property
    def scaled(self) -> float:
        return self.learning_rate * self.sharpness


def _stability(part: Any, methods: Mapping[str, Mapping[str, Any]], schedule: str) -> list[Stability]:
    """The points of the best runs at which the sharpness that rules their steps is known: SGD's metric is P = I."""
    found = []
    for point in part.points or ():
        method = point.get("method")
        eta = (methods.get(method) or {}).get("learning_rate")
        value = point.get("sharpness" if method == "sgd" else "preconditioned")
        if eta is not None and value is not None:
            step = point["step"]
            taken = eta / max(step, 1) ** 0.5 if schedule == "inverse-sqrt" else eta
            found.append(Stability(method, step, value, taken))
    return found


def _stability_remark(points: Sequence[Stability]) -> tuple[str, ...]:
    """What the last point of AdaGrad's run says."""
    own = [one for one in points if one.method == "adagrad"]
    if not own:
        return ()
    last = max(own, key=lambda one: one.step)
    side = "below 2: stable along every direction" if last.scaled < 2 else "above 2: some direction is unstable"
    return (
        f"Edge of stability: at step {number(last.step)} of AdaGrad's best run η·‖P^−½HP^−½‖ with P = diag(√v) is "
        f"{number(last.scaled, 3)}, {side}.",
    )


def _stability_table(points: Sequence[Stability]) -> Table | None:
    if not points:
        return None
    rows = tuple(
        (
            method_name(one.method),
            number(one.step),
            number(one.sharpness),
            rate(one.learning_rate),
            number(one.scaled, 3),
        )
        for one in points
    )
    note = (
        "Largest curvature in the metric of the rule, ‖P^−½HP^−½‖: P = diag(√v) for AdaGrad, I for SGD. A rule that "
        "moves by −ηP⁻¹g is stable along every direction while η times it stays below 2; runs that hover near 2 are at "
        "the edge of stability. Coordinates that no batch has moved yet keep v = 10⁻¹⁰ and can rule AdaGrad's value in "
        "the first steps."
    )
    return Table(
        "Edge of stability along the runs", ("run", "step", "sharpness", "η", "η × sharpness"), rows, note=note
    )


def _ladder(part: Any, estimated: bool) -> tuple[Figure, ...]:
    """Every known bound of ‖L‖₁ on one axis; ``estimated`` says that the lower ones come from random probes."""
    kind = "an estimated lower bound" if estimated else "a lower bound"
    lowers = [(f"Σ|hⱼ|, {kind}", part.diagonal_sum), (f"Σ√(H²)ⱼⱼ, {kind}", part.row_norm_sum)]
    uppers = [
        ("closed form for all w, an upper bound", part.global_l1),
        ("Σ|Hⱼₖ|, an upper bound", part.hessian_11),
        ("d·λ, an upper bound; in SGD's bound", scaled_sharpness(part)),
    ]
    below, above = (
        [figures.Bound(label, value, value, number(value)) for label, value in marks if value]
        for marks in (lowers, uppers)
    )
    if not part.l1_upper or not part.l1_lower or not below + above:
        return ()
    low, high = bracket(part.l1_lower, part.l1_upper)
    shown = high if part.l1_lower == part.l1_upper else f"{low} to {high}"
    some = drawn(part)
    whose = "the smallest that the assumption allows" if some is None else f"of the {number(some[0])} samples drawn"
    asked = figures.Bound(f"‖L‖₁, {whose}", part.l1_lower, part.l1_upper, shown, True)
    data_set = [] if some is None else _data_bound(part.whole_data)
    ordered = [*below, *data_set, asked, *sorted(above, key=lambda b: b.high)]
    said = []
    if part.diagonal_sum:
        source = "the estimated" if estimated else "the"
        said.append(f"{ratio(part.l1_upper / part.diagonal_sum)} {source} sum of the Hessian diagonal")
    if part.density:
        said.append(f"{percent(part.density)} of d·λ")
    caption = f"The upper end of the bracket on ‖L‖₁ is {' and '.join(said) or shown}."
    data = Table("Bounds of ‖L‖₁, as drawn", ("quantity", "value"), tuple((b.label, b.shown) for b in ordered))
    svg = figures.ladder("smoothness-bounds", ordered, "‖L‖₁ and its bounds (logarithmic)")
    return (Figure("smoothness-bounds", svg, caption, data),)


def _data_bound(whole: Mapping[str, Any]) -> list[figures.Bound]:
    """The mark of the whole data's interval, where there is one."""
    if not whole.get("interval"):
        return []
    low, high = whole["interval"]
    return [figures.Bound(f"‖L‖₁ of all {number(whole['rows'])}, 95% interval", low, high, interval((low, high)))]


def _overlap(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Said of a change that wide brackets do not certify."""
    one, other = first.get("density_interval"), last.get("density_interval")
    if not one or not other or "thresholds" not in (first.get("ended_by"), last.get("ended_by")):
        return ""
    apart = one[1] < other[0] or other[1] < one[0]
    return "" if apart else "; those of R_L overlap, so that it may not have moved at all"


def _along(part: Any) -> tuple[Figure, ...]:
    """The bracket and R_L along the runs; nothing where only the start was measured."""
    points = [p for p in part.points or () if p.get("l1_upper") and p.get("l1_lower") and p.get("density")]
    if len({p["step"] for p in points}) < 2:
        return ()
    first, last = min(points, key=lambda p: p["step"]), max(points, key=lambda p: p["step"])
    ends = f"{number(first['l1_upper'])} to {number(last['l1_upper'])}"
    caption = (
        f"From the start to step {number(last['step'])} of the {method_name(last.get('method'))} run "
        f"‖L‖₁ goes from {ends} and R_L from {number(first['density'], 3)} to {number(last['density'], 3)} "
        f"(upper bounds; bands reach down to the lower bounds{_overlap(first, last)})."
    )
    data = of_points("Along the runs, as drawn", points)
    return (Figure("smoothness-points", race.along("smoothness-points", points), caption, data),)
