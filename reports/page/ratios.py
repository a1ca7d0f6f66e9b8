"""Ratios of the bounds against their neutral values: the strip of all that were measured, and both readings."""

from __future__ import annotations

from collections.abc import Sequence

from reports.page import figures
from reports.page.figures import Reading, Zone
from reports.page.sections.parts import Figure
from reports.page.tables import Table
from reports.record.diagnosis import NOISE_SIDES, SMOOTHNESS_SIDES, Diagnosis
from reports.words.numbers import certified, interval, number
from reports.words.sentences import drawn, scaled_sharpness


def readings(diagnosis: Diagnosis) -> tuple[Reading, ...]:
    """Every measured ratio with the zones around its own neutral value, left of which it favours AdaGrad.

    Ratios with the distances of the runs take no side: they have neither.
    """
    found = []
    noise, smooth, bounds, training = diagnosis.noise, diagnosis.smoothness, diagnosis.bounds, diagnosis.training
    if noise.density:
        pair = noise.density_interval or (noise.density, noise.density)
        found.append(
            _box("noise density φ(σ)", noise.density, pair, number(noise.density, 3), NOISE_SIDES[1], NOISE_SIDES)
        )
    if smooth.density:
        whole = scaled_sharpness(smooth)
        low = smooth.l1_lower / whole if smooth.l1_lower and whole else smooth.density
        pair = smooth.density_interval or (low, smooth.density)
        neutral = (
            SMOOTHNESS_SIDES[1] if smooth.density_rotated is None else min(SMOOTHNESS_SIDES[1], smooth.density_rotated)
        )
        sides = (min(SMOOTHNESS_SIDES[0], neutral), neutral)
        found.append(
            _box(
                "curvature R_L" + (" of the draw" if drawn(smooth) else ""),
                smooth.density,
                pair,
                certified(smooth.density, pair, 3),
                neutral,
                sides,
            )
        )
    for label, value in (
        ("curvature with the runs' distances", bounds.smoothness_ratio),
        ("noise with the runs' distances", bounds.noise_ratio),
    ):
        if value:
            found.append(Reading(label, value, value, value, number(value, 3), None, "none", ()))
    if training.speedup:
        pair = training.speedup_interval or (training.speedup, training.speedup)
        value = 1 / training.speedup
        found.append(_open("measured: AdaGrad's steps over SGD's", value, (1 / pair[1], 1 / pair[0]), number(value, 3)))
    return tuple(found)


def _box(
    label: str, value: float, pair: Sequence[float], shown: str, neutral: float, sides: tuple[float, float]
) -> Reading:
    zones = (Zone(0, sides[0], "adagrad-strong"), Zone(sides[0], sides[1], "adagrad"), Zone(sides[1], 1, "neither"))
    return Reading(label, value, pair[0], pair[1], shown, neutral, number(neutral, 2), zones)


def _open(label: str, value: float, pair: Sequence[float], shown: str) -> Reading:
    zones = (Zone(0, 1, "adagrad"), Zone(1, float("inf"), "sgd"))
    return Reading(label, value, pair[0], pair[1], shown, 1.0, "1", zones)


def strip(diagnosis: Diagnosis) -> Figure | None:
    """Each measured ratio against its own neutral value."""
    found = readings(diagnosis)
    if not found:
        return None
    sided = [one for one in found if one.neutral is not None]
    below = sum(one.neutral is not None and one.high < one.neutral for one in sided)
    caption = (
        f"{number(below)} of {number(len(sided))} ratios lie on AdaGrad's side of their own neutral value (the upright "
        "mark). Blue speaks for AdaGrad, the deeper blue strongly; orange for SGD; grey for neither."
    )
    if len(sided) < len(found):
        caption += " Ratios with the distances of the runs are numbers alone and take no side."
    rows = tuple(
        (r.label, r.shown, interval((r.low, r.high)) if r.low != r.high else "—", r.neutral_label) for r in found
    )
    data = Table("Ratios against their neutral values, as drawn", ("ratio", "value", "drawn from, to", "neutral"), rows)
    return Figure("strip", figures.strip("strip", found), caption, data)


def bounds_table(diagnosis: Diagnosis) -> Table:
    """Both readings of the two bound ratios."""
    part = diagnosis.bounds
    rows = (
        ("curvature, ‖L‖₁D∞²/(λD₂²)", number(part.smoothness_ratio_box), number(part.smoothness_ratio)),
        ("noise, ‖σ‖₁D∞/(‖σ‖₂D₂)", number(part.noise_ratio_box), number(part.noise_ratio)),
        ("D∞", "1, a convention", number(part.d_inf)),
        ("D₂", "√d, a convention", number(part.d_2)),
    )
    return Table(
        "Two readings of the bounds",
        ("ratio or distance", "distances alike in all coordinates", "distances of the runs"),
        rows,
    )
