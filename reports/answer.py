"""The parts around the measurements: answer, strip of ratios, trust, what is missing, reproduction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diagnose.schema import NOISE_SIDES, PARTS, SMOOTHNESS_SIDES, Diagnosis
from estimators.results import ALL_ROWS, NO_EMBEDDING, NONE_MISSED, stored_keys
from reports import figures, race
from reports.curves import best_curves
from reports.figures import Reading, Zone
from reports.numbers import bracket, duration, interval, measured, number, percent, ratio, ratio_interval
from reports.sections.parts import Figure
from reports.sections.training import band
from reports.tables import Table, of_curves
from reports.text import drawn, method_name, printable, scaled_sharpness

SIDES = {
    "adagrad": "● AdaGrad",
    "sgd": "■ SGD",
    "neither": "– neither",
    "undecided": "? undecided",
    "unknown": "not known",
    "none": "takes no side",
}


@dataclass(frozen=True)
class Row:
    """One row of "why": a measured quantity, its neutral value, what it says and for which side."""

    quantity: str
    value: str
    interval: str
    neutral: str
    says: str
    side: str
    side_label: str


@dataclass(frozen=True)
class Group:
    """Quantities that were not measured for one and the same reason."""

    reason: str
    keys: tuple[str, ...]


def hero(diagnosis: Diagnosis) -> Figure | None:
    """Best SGD against best AdaGrad; None where they did not both run."""
    methods = diagnosis.training.methods or {}
    curves = best_curves(diagnosis.runs, {m: methods[m] for m in ("adagrad", "sgd") if m in methods})
    if len(curves) < 2:
        return None
    adagrad, sgd = curves
    caption = (
        f"Each at its best learning rate, AdaGrad ends at a loss of {number(float(adagrad.mean[-1]))} and SGD at "
        f"{number(float(sgd.mean[-1]))}. {band(adagrad.values.shape[0])}"
    )
    svg = race.race("answer", curves, diagnosis.training.target_loss, height=235)
    return Figure("answer", svg, caption, of_curves("Best SGD against best AdaGrad, as drawn", curves, "loss"))


def why(diagnosis: Diagnosis) -> tuple[Row, ...]:
    """The rows of evidence, as stored with the verdict."""
    rows = []
    for one in diagnosis.verdict.evidence or ():
        side = str(one.get("side", "unknown"))
        value, spread = _shown(str(one.get("quantity", "")), one.get("value"), one.get("interval"))
        rows.append(
            Row(
                quantity=printable(one.get("quantity", "")),
                value=value,
                interval=spread,
                neutral=printable(one.get("neutral", "")),
                says=printable(one.get("says", "")),
                side=side if side in SIDES else "unknown",
                side_label=SIDES.get(side, SIDES["unknown"]),
            )
        )
    return tuple(rows)


def _shown(quantity: str, value: float | None, pair: Sequence[float] | None) -> tuple[str, str]:
    """Value and interval as the other parts of the page print that kind of quantity."""
    if "speed-up" in quantity and value is not None:
        return ratio(value), "" if pair is None else f"95% interval {ratio_interval(pair)}"
    if "share" in quantity:
        return percent(value), ""
    if "R_L" in quantity and pair is not None:
        return number(value), "certified between {} and {}".format(*bracket(*pair))
    head, _, tail = measured(value, pair).partition(", ")
    return head, tail


def readings(diagnosis: Diagnosis) -> tuple[Reading, ...]:
    """Every measured ratio with the zones around its own neutral value; left of them favours AdaGrad."""
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
        neutral = (
            SMOOTHNESS_SIDES[1] if smooth.density_rotated is None else min(SMOOTHNESS_SIDES[1], smooth.density_rotated)
        )
        sides = (min(SMOOTHNESS_SIDES[0], neutral), neutral)
        found.append(
            _box(
                "curvature R_L" + (" of the draw" if drawn(smooth) else ""),
                smooth.density,
                (low, smooth.density),
                number(smooth.density, 3),
                neutral,
                sides,
            )
        )
    for label, value in (
        ("curvature, path reading", bounds.smoothness_ratio),
        ("noise, path reading", bounds.noise_ratio),
    ):
        if value:
            found.append(_open(label, value, (value, value), number(value, 3)))
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
    below = sum(r.high < r.neutral for r in found)
    caption = (
        f"{number(below)} of {number(len(found))} ratios lie on AdaGrad's side of their own neutral value (the upright "
        "mark). Blue speaks for AdaGrad, the deeper blue strongly; orange for SGD; grey for neither."
    )
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
        ("D∞", "1 by convention", number(part.d_inf)),
        ("D₂", "√d by convention", number(part.d_2)),
    )
    return Table("Two readings of the bounds", ("ratio or distance", "box", "path"), rows)


def prediction_table(diagnosis: Diagnosis) -> Table | None:
    """The prediction at each stage with the score of that stage; None where there is none."""
    part = diagnosis.prediction
    stages = [dict(s) for s in part.stages or ()]
    if part.speedup is not None and not stages:
        stages = [{"share": 0, "speedup": part.speedup, "interval": part.interval, "calibration": part.calibration}]
    if not stages:
        return None
    rows = []
    for stage in stages:
        score = stage.get("calibration") or {}
        rows.append(
            (
                percent(stage.get("share")),
                ratio(stage.get("speedup")),
                ratio_interval(stage.get("interval")),
                percent(stage.get("probability_adagrad")),
                number(score.get("tasks")),
                number(score.get("spearman"), 2),
                percent(score.get("balanced_accuracy")),
                percent(score.get("coverage")),
            )
        )
    head = (
        "share of the race",
        "speed-up",
        "interval",
        "AdaGrad wins",
        "tasks",
        "Spearman",
        "balanced accuracy",
        "coverage",
    )
    return Table("Prediction by stage, with its score on unseen families", head, tuple(rows))


def missing(diagnosis: Diagnosis) -> tuple[Group, ...]:
    """Everything that is null, grouped by reason; a part that is null as a whole counts as one entry."""
    groups: dict[str, list[str]] = {}
    for name, kind in PARTS.items():
        part = getattr(diagnosis, name)
        absent = {
            key: part.why.get(key, "no reason was recorded") for key in stored_keys(kind) if getattr(part, key) is None
        }
        if len(absent) == len(stored_keys(kind)) and len(set(absent.values())) == 1:
            groups.setdefault(next(iter(absent.values())), []).append(f"{name} (all of it)")
            continue
        for key, because in absent.items():
            if key == "token_deciles" and because == NO_EMBEDDING:
                continue  # no lack: the model has no rows of tokens
            if because == NONE_MISSED:
                continue
            groups.setdefault(because, []).append(f"{name}.{key}")
        for key in stored_keys(kind):
            for path, because in _nested(getattr(part, key), f"{name}.{key}"):
                if because in (ALL_ROWS, NONE_MISSED):
                    continue  # no lack: there was nothing to infer
                groups.setdefault(because, []).append(path)
    return tuple(Group(printable(because), tuple(printable(key) for key in keys)) for because, keys in groups.items())


def _nested(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Paths and reasons of what a ``why`` deeper down names."""
    if not isinstance(value, Mapping):
        return
    for key, because in (value.get("why") or {}).items():
        if value.get(key) is None:
            yield f"{path}.{key}", str(because)
    for key, inner in value.items():
        if key != "why":
            yield from _nested(inner, f"{path}.{key}")


def reproduction(diagnosis: Diagnosis) -> tuple[Table, ...]:
    """Settings, versions and cost."""
    task, spent = diagnosis.task, diagnosis.cost
    settings = [
        ("model", printable(task.model or "not recorded")),
        ("data", printable(task.data or "not recorded")),
        ("loss", printable(task.loss or "not recorded")),
        ("parameters d", number(task.parameters)),
        ("rows of the data", number(task.rows)),
        ("samples n", number(task.samples)),
        ("samples for curvature", number(task.curvature_samples)),
        ("batch size M", number(task.batch_size)),
        ("seed", number(task.seed)),
        ("seeds (batch orders)", number(task.seeds)),
        ("methods", ", ".join(method_name(m) for m in diagnosis.training.methods or ()) or "none ran"),
        ("dtype, device", f"{printable(task.dtype or 'not recorded')}, {printable(task.device or 'not recorded')}"),
        ("fingerprint of data and weights", printable(task.fingerprint or "not recorded")),
    ]
    versions = [("diagnose-optimizer", printable(diagnosis.tool_version or "not recorded"))]
    versions += [
        (printable(k), printable(v)) for k, v in sorted(diagnosis.versions.items()) if k != "diagnose-optimizer"
    ]
    costs = [(stage.replace("_", " "), duration(seconds)) for stage, seconds in (spent.stages or {}).items()]
    costs += [
        ("all stages", duration(spent.seconds)),
        ("forward+backward passes over the samples", number(spent.forward_backward_passes)),
        ("attempts", number(spent.attempts)),
    ]
    return (
        Table("Settings", ("setting", "value"), tuple(settings), text=2),
        Table("Versions", ("package", "version"), tuple(versions), text=2),
        Table("Cost", ("stage", "spent"), tuple(costs)),
    )
