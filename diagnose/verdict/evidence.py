"""The rows of "why": each measured quantity, its own neutral value, and the side it speaks for."""

from __future__ import annotations

import math

from diagnose.verdict.theory import noise_side, smoothness_side
from estimators.results import GeneralizedSmoothness, Noise, Smoothness
from reports.record.diagnosis import NOISE_SIDES, SMOOTHNESS_SIDES, Answer, Bounds, Evidence, Prediction, Training
from reports.words.numbers import number, percent
from reports.words.sentences import drawn, unless_rare
from reports.words.sentences import noise_side as noise_words
from reports.words.sentences import smoothness_side as smoothness_words


def evidence(
    noise: Noise,
    smoothness: Smoothness,
    generalized: GeneralizedSmoothness,
    ratios: Bounds,
    prediction: Prediction,
    training: Training,
    answer: Answer,
) -> list[Evidence]:
    """One row each for noise, curvature and training; for the readings that take no side and the prediction where they
    were measured."""
    rows = [
        _noise(noise),
        _smoothness(smoothness),
        _path("curvature with the distances of the runs", ratios.smoothness_ratio),
        _path("noise with the distances of the runs", ratios.noise_ratio),
        _generalized(generalized),
        _prediction(prediction),
        _training(training, answer),
    ]
    return [row for row in rows if row is not None]


def _noise(noise: Noise) -> Evidence:
    says = noise.why.get("density", "not measured") if noise.density is None else noise_words(noise.density)
    if noise.density_interval is not None and noise.rare_rows:
        says += f"; the interval holds {unless_rare(noise.rare_rows, 'the noise')}"
    return Evidence(
        quantity="noise density φ(σ)",
        value=noise.density,
        interval=noise.density_interval,
        neutral=f"{NOISE_SIDES[1]:g}; strong below {NOISE_SIDES[0]:g}",
        says=says,
        side=noise_side(noise.density),
    )


def _smoothness(part: Smoothness) -> Evidence:
    neutral = f"{SMOOTHNESS_SIDES[1]:g}; strong below {SMOOTHNESS_SIDES[0]:g}"
    if part.density_rotated is not None:
        neutral = f"{number(part.density_rotated, 2)}, its value after a random rotation; {neutral}"
    says = part.why.get("density", "not measured")
    if part.density is not None:
        says = smoothness_words(part.density, part.density_rotated)
        some = drawn(part)
        if part.ended_by == "thresholds":
            says += ", and so it is wherever in its bracket R_L lies: that was narrowed no further"
        says += "" if some is None else f"; this is R_L of {number(some[0])} of the {number(some[1])} rows of the data"
    return Evidence(
        quantity="curvature density R_L",
        value=part.density,
        interval=part.density_interval,
        neutral=neutral,
        says=says,
        side=smoothness_side(part.density, part.density_rotated),
    )


def _path(quantity: str, value: float | None) -> Evidence | None:
    if value is None:
        return None
    return Evidence(
        quantity=quantity,
        value=value,
        interval=None,
        neutral="none",
        says="AdaGrad's term of the bound over SGD's, with D∞ and D₂ as far as the runs went; on other tasks this did "
        "not tell the winner",
        side="none",
    )


def _generalized(part: GeneralizedSmoothness) -> Evidence | None:
    if part.helps_fraction is None:
        return None
    return Evidence(
        quantity="generalized smoothness: share of coordinates where L₁ helps",
        value=part.helps_fraction,
        interval=None,
        neutral="none",
        says=f"a bound that grows with the gradient is tighter on {percent(part.helps_fraction)} of the coordinates "
        f"and holds at {percent(part.coverage)} of the points left out of the fit; it says which assumption fits, not "
        "which method wins",
        side="none",
    )


def _prediction(part: Prediction) -> Evidence | None:
    if part.speedup is None:
        return None
    low, high = part.interval or (0.0, math.inf)
    return Evidence(
        quantity="predicted speed-up",
        value=part.speedup,
        interval=part.interval,
        neutral="1",
        says="AdaGrad's speed-up before any training",
        side="adagrad" if low > 1 else "sgd" if high < 1 else "undecided",
    )


def _training(part: Training, answer: Answer) -> Evidence:
    words = {
        "adagrad": "AdaGrad needs fewer steps to the same loss",
        "sgd": "SGD needs fewer steps to the same loss",
        "no-difference": "the two need the same number of steps, for practical purposes",
        "undecided": "the race does not tell the two apart",
    }
    return Evidence(
        quantity="measured speed-up of AdaGrad over SGD",
        value=part.speedup,
        interval=part.speedup_interval,
        neutral="1; level from 0.8 to 1.25",
        says=part.why.get("speedup", "not measured") if part.speedup is None else words[answer],
        side="unknown" if part.speedup is None else "neither" if answer == "no-difference" else answer,
    )
