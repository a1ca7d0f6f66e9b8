"""The rows of "why": each measured quantity, its own neutral value, and the side it speaks for."""

from __future__ import annotations

from diagnose.schema import NOISE_SIDES, SMOOTHNESS_SIDES, Answer, Bounds, Evidence, Prediction, Training
from diagnose.verdict.theory import noise_side, path_side, smoothness_side
from estimators.results import GeneralizedSmoothness, Interval, Noise, Smoothness
from reports.numbers import number, percent
from reports.text import drawn, unless_rare
from reports.text import noise_side as noise_words
from reports.text import smoothness_side as smoothness_words


def evidence(
    noise: Noise,
    smoothness: Smoothness,
    generalized: GeneralizedSmoothness,
    ratios: Bounds,
    prediction: Prediction,
    training: Training,
    answer: Answer,
) -> list[Evidence]:
    """One row each for noise, curvature, the two path readings, generalized smoothness, prediction and training."""
    return [
        _noise(noise),
        _smoothness(smoothness),
        _path("curvature with the distances of the runs", ratios, "smoothness_ratio"),
        _path("noise with the distances of the runs", ratios, "noise_ratio"),
        _generalized(generalized),
        _prediction(prediction),
        _training(training, answer),
    ]


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
    interval: Interval | None = None
    if part.density is not None and part.l1_lower is not None and part.l1_upper:
        loosest = part.sharpness / part.sharpness_interval[1] if part.sharpness and part.sharpness_interval else 1.0
        interval = loosest * part.density * part.l1_lower / part.l1_upper, part.density
    neutral = f"{SMOOTHNESS_SIDES[1]:g}; strong below {SMOOTHNESS_SIDES[0]:g}"
    if part.density_rotated is not None:
        neutral = f"{number(part.density_rotated, 2)}, its value after a random rotation; {neutral}"
    says = part.why.get("density", "not measured")
    if part.density is not None:
        says = smoothness_words(part.density, part.density_rotated)
        some = drawn(part)
        says += "" if some is None else f"; this is R_L of {number(some[0])} of the {number(some[1])} rows of the data"
    return Evidence(
        quantity="curvature density R_L",
        value=part.density,
        interval=interval,
        neutral=neutral,
        says=says,
        side=smoothness_side(part.density, part.density_rotated),
    )


def _path(quantity: str, ratios: Bounds, key: str) -> Evidence:
    value: float | None = getattr(ratios, key)
    side = path_side(value)
    words = {
        "adagrad": "with these distances AdaGrad's term of the bound is the smaller one",
        "sgd": "with these distances SGD's term of the bound is the smaller one",
        "neither": "with these distances the two terms are equal",
        "unknown": ratios.why.get(key, "not measured"),
    }
    return Evidence(
        quantity=quantity,
        value=value,
        interval=None,
        neutral="1; below favours AdaGrad, above SGD",
        says=words[side],
        side=side,
    )


def _generalized(part: GeneralizedSmoothness) -> Evidence:
    says = part.why.get("helps_fraction", "not measured")
    if part.helps_fraction is not None:
        says = (
            f"a bound that grows with the gradient is tighter on {percent(part.helps_fraction)} of the coordinates and "
            f"holds at {percent(part.coverage)} of the points left out of the fit; it says which assumption fits, not "
            "which method wins"
        )
    return Evidence(
        quantity="generalized smoothness: share of coordinates where L₁ helps",
        value=part.helps_fraction,
        interval=None,
        neutral="none",
        says=says,
        side="unknown" if part.helps_fraction is None else "neither",
    )


def _prediction(part: Prediction) -> Evidence:
    return Evidence(
        quantity="predicted speed-up",
        value=part.speedup,
        interval=part.interval,
        neutral="1",
        says=part.why.get("speedup", "not made") if part.speedup is None else "AdaGrad's speed-up before any training",
        side="unknown"
        if part.speedup is None or part.interval is None
        else "adagrad"
        if part.interval[0] > 1
        else "sgd"
        if part.interval[1] < 1
        else "undecided",
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
