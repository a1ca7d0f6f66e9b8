"""What the theory says: the ratios of the bounds in both readings of the distances, and the side of the box reading.

Box: D_2^2 = d D_inf^2, so the ratios are R_L = ||L||_1/(d lambda) and phi(sigma) = ||sigma||_1/(sqrt(d) ||sigma||_2).
They never exceed 1 and cannot speak for SGD. Path: D_inf and D_2 as measured on the best runs. It said SGD in every run
that it was held against, of which SGD won none: it is a number, and takes no side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diagnose.training.pairs import best_rates
from diagnose.training.runs import Race
from estimators.results import Finding, Noise, Smoothness
from reports.record.diagnosis import NOISE_SIDES, SMOOTHNESS_SIDES, Bounds
from reports.words.sentences import method_name, noise_reading, smoothness_reading

Side = Literal["adagrad", "sgd", "neither", "undecided", "unknown"]
OFF = "needs trained runs, and training was off"


@dataclass(frozen=True)
class Theory:
    """The side of curvature and of noise, of both together, and that in a sentence."""

    curvature: Side
    noise: Side
    side: Side
    sentence: str


def bounds(noise: Noise, smoothness: Smoothness, race: Race | None) -> Bounds:
    """Ratios of AdaGrad's bound to SGD's, term by term, in both readings.

    d_inf is the largest max-norm distance from the start on the best AdaGrad run, d_2 the largest Euclidean one on
    the best SGD run; the best run is that of the lowest final loss at the method's best rate. ||L||_1 is the
    certified upper bound.
    """
    why: dict[str, str] = {}
    d_inf = _distance(race, "adagrad", "d_inf", why)
    d_2 = _distance(race, "sgd", "d_2", why)
    smoothness_ratio = noise_ratio = None
    missing = why.get("d_inf") or why.get("d_2")
    if missing or d_inf is None or d_2 is None:
        why["smoothness_ratio"] = why["noise_ratio"] = missing or "no distance was measured"
    elif not d_2:
        why["smoothness_ratio"] = why["noise_ratio"] = "the best SGD run never left the start"
    else:
        if smoothness.l1_upper is None:
            why["smoothness_ratio"] = smoothness.why.get("l1_upper", "the bracket was not measured")
        elif not smoothness.sharpness:
            why["smoothness_ratio"] = smoothness.why.get("sharpness", "the Hessian is 0 at the start")
        else:
            smoothness_ratio = smoothness.l1_upper * d_inf**2 / (smoothness.sharpness * d_2**2)
        if noise.l1 is None or not noise.l2:
            why["noise_ratio"] = noise.why.get("l1", "the samples' gradients are all equal: there is no noise")
        else:
            noise_ratio = noise.l1 * d_inf / (noise.l2 * d_2)
    for key, part in (("smoothness_ratio_box", smoothness), ("noise_ratio_box", noise)):
        if part.density is None:
            why[key] = part.why.get("density", "the density was not measured")
    return Bounds(
        d_inf=d_inf,
        d_2=d_2,
        smoothness_ratio=smoothness_ratio,
        noise_ratio=noise_ratio,
        smoothness_ratio_box=smoothness.density,
        noise_ratio_box=noise.density,
        why=why,
    )


def _distance(race: Race | None, method: str, key: Literal["d_inf", "d_2"], why: dict[str, str]) -> float | None:
    if race is None:
        why[key] = OFF
        return None
    if method not in race.settings.optimizers:
        why[key] = f"{method} did not run"
        return None
    rate = best_rates(race).get(method)
    if rate is None:
        why[key] = f"every learning rate of {method} diverged"
        return None
    best = min(race.full(method)[rate], key=lambda leg: leg.final)
    distance = best.d_inf if key == "d_inf" else best.d_2
    if distance is None:
        why[key] = f"the best {method} run went further than the number format reaches"
    return distance


def noise_side(density: float | None) -> Side:
    """Which method phi(sigma) speaks for."""
    if density is None:
        return "unknown"
    return "adagrad" if density < NOISE_SIDES[1] else "neither"


def smoothness_side(density: float | None, rotated: float | None) -> Side:
    """Which method R_L speaks for; none where it is not below its value after a random rotation."""
    if density is None:
        return "unknown"
    aligned = density < SMOOTHNESS_SIDES[1] and (rotated is None or density < rotated)
    return "adagrad" if aligned else "neither"


def read(noise: Noise, smoothness: Smoothness) -> Theory:
    """The theory's side: that of curvature and noise where they agree or one alone is known, else undecided.

    The bound is a sum of two terms, and which of them is the larger depends on the number of steps.
    """
    curvature, noisy = smoothness_side(smoothness.density, smoothness.density_rotated), noise_side(noise.density)
    sides = {curvature, noisy} - {"unknown"}
    side: Side = "unknown" if not sides else "undecided" if len(sides) > 1 else sides.pop()
    return Theory(curvature, noisy, side, _sentence(noise, smoothness, side))


def _sentence(noise: Noise, smoothness: Smoothness, side: Side) -> str:
    if side == "unknown":
        return "Neither noise nor curvature could be read: the theory says nothing."
    noisy = "noise was not measured" if noise.density is None else noise_reading(noise.density)
    curved = "curvature was not measured"
    if smoothness.density is not None:
        curved = smoothness_reading(smoothness)
    said = f"{noisy}, {curved}: the theory {favours(side)}"
    half = noise.density is None or smoothness.density is None
    return f"{said[0].upper()}{said[1:]}{', as far as it was measured' if half else ''}."


def favours(side: Side) -> str:
    """What the theory does, as a predicate."""
    if side == "undecided":
        return "is undecided"
    return f"favours {'neither method' if side == 'neither' else method_name(side)}"


def findings(theory: Theory, noise: Noise, smoothness: Smoothness, trained: bool) -> tuple[Finding, ...]:
    """readings-disagree, where curvature and noise speak for different sides."""
    if theory.side != "undecided" or noise.density is None or smoothness.density is None:
        return ()
    curved = smoothness_reading(smoothness)
    alone = "curvature" if theory.curvature == "adagrad" else "noise"
    return (
        Finding(
            code="readings-disagree",
            severity="note",
            stage="verdict",
            found=f"{noise_reading(noise.density)}, {curved}",
            meaning=f"of the two terms of the bounds only that of {alone} favours AdaGrad, and which is the larger "
            "depends on how long training runs: the theory is undecided",
            action="nothing to do: the answer rests on the race"
            if trained
            else "train both: the race tells, the theory does not",
        ),
    )
