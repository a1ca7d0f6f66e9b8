"""What the theory says: the ratios of the bounds in both readings of the distances, and the side each is on.

Box: D_2^2 = d D_inf^2, so the ratios are R_L = ||L||_1/(d lambda) and phi(sigma) = ||sigma||_1/(sqrt(d) ||sigma||_2).
They never exceed 1 and cannot speak for SGD. Path: D_inf and D_2 as measured on the best runs; below 1 favours
AdaGrad, above 1 SGD. The two are never averaged: where they disagree the theory is undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diagnose.schema import NOISE_SIDES, SMOOTHNESS_SIDES, Bounds
from diagnose.training.legs import Race
from estimators.results import Finding, Noise, Smoothness
from reports.numbers import number

Side = Literal["adagrad", "sgd", "neither", "undecided", "unknown"]
NAMES: dict[Side, str] = {
    "adagrad": "AdaGrad",
    "sgd": "SGD",
    "neither": "neither method",
    "undecided": "now one method, now the other",
}
OFF = "needs trained runs, and training was off"


@dataclass(frozen=True)
class Theory:
    """The side of each reading, of both together, and that in a sentence."""

    box: Side
    path: Side
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
    legs = race.best(method)
    if not legs:
        why[key] = f"every learning rate of {method} diverged"
        return None
    best = min(legs, key=lambda leg: leg.final)
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


def path_side(ratio: float | None) -> Side:
    """Which method a ratio with measured distances speaks for."""
    if ratio is None:
        return "unknown"
    return "adagrad" if ratio < 1 else "sgd" if ratio > 1 else "neither"


def read(noise: Noise, smoothness: Smoothness, ratios: Bounds) -> Theory:
    """The theory's side.

    The box reading favours AdaGrad when curvature and noise both do: the bound is a sum, and a uniform noise or an
    isotropic curvature leaves no advantage in its term. The path reading is undecided when its terms differ.
    """
    box = _box([smoothness_side(smoothness.density, smoothness.density_rotated), noise_side(noise.density)])
    path = _path([path_side(ratios.smoothness_ratio), path_side(ratios.noise_ratio)])
    side = _together(box, path)
    return Theory(box, path, side, _sentence(box, path, side))


def _box(sides: list[Side]) -> Side:
    known = [side for side in sides if side != "unknown"]
    if not known:
        return "unknown"
    return "adagrad" if all(side == "adagrad" for side in known) else "neither"


def _path(sides: list[Side]) -> Side:
    known = {side for side in sides if side != "unknown"}
    if not known:
        return "unknown"
    if known == {"adagrad", "sgd"}:
        return "undecided"
    return next((side for side in ("adagrad", "sgd") if side in known), "neither")


def _together(box: Side, path: Side) -> Side:
    if path == "unknown":
        return box
    if box in ("unknown", path):
        return path
    # A box without a side cannot contradict a path that speaks for SGD: only the path may do so.
    if box == "neither" and path == "sgd":
        return "sgd"
    return "undecided"


def _sentence(box: Side, path: Side, side: Side) -> str:
    if side == "unknown":
        return "The theory says nothing: neither curvature nor noise was measured."
    if side == "undecided":
        return (
            f"The theory is undecided here: read as a box its bounds favour {_named(box)}, with the distances of "
            f"the runs {_named(path)}."
        )
    readings = "in both readings" if box == path else "as a box" if path == "unknown" else "with the measured distances"
    return f"The theory favours {NAMES[side]} ({readings})."


def _named(side: Side) -> str:
    return NAMES.get(side, "no method")


def findings(theory: Theory, ratios: Bounds) -> tuple[Finding, ...]:
    """readings-disagree, where the theory is undecided although it was measured."""
    if theory.side != "undecided":
        return ()
    box = f"curvature {_short(ratios.smoothness_ratio_box)}, noise {_short(ratios.noise_ratio_box)}"
    path = f"curvature {_short(ratios.smoothness_ratio)}, noise {_short(ratios.noise_ratio)}"
    return (
        Finding(
            code="readings-disagree",
            severity="note",
            stage="verdict",
            found=f"read as a box the bounds favour {_named(theory.box)} ({box}), with the distances of the runs "
            f"{_named(theory.path)} ({path})",
            meaning="the theory is undecided here: its side hangs on how the distance to the solution is measured",
            action="rest on the race, not on the bounds",
        ),
    )


def _short(value: float | None) -> str:
    return number(value, 2)
