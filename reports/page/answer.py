"""The parts around the measurements: the answer's figure, the evidence, the assumptions, trust, reproduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.page import hero, targets
from reports.page.curves import best_curves, orders
from reports.page.methods import further_decimals, steps_of_pair
from reports.page.sections.parts import Figure
from reports.page.tables import Table, of_curves
from reports.record.diagnosis import NOT_YET, Diagnosis
from reports.words.numbers import bracket, duration, measured, number, percent, rate, ratio, ratio_interval, steps
from reports.words.sentences import method_name, printable, reason

SIDES = {
    "adagrad": "● AdaGrad",
    "sgd": "■ SGD",
    "neither": "– neither",
    "undecided": "? undecided",
    "unknown": "not known",
    "none": "takes no side",
}
MARKS = {"supported": "✓", "not supported": "✗", "not testable here": "?"}


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
class Assumed:
    """One assumption of the theory: its status in words with a mark, the number that this rests on, what it says."""

    assumption: str
    status: str
    status_label: str
    measure: str
    value: str
    detail: str
    says: str


def losses(diagnosis: Diagnosis) -> Figure | None:
    """Every method at its best rate, and the steps of the pair to the same loss; None where nothing was trained."""
    part = diagnosis.training
    curves = best_curves(diagnosis.runs, part.methods)
    if not curves:
        return None
    meeting = _meeting(diagnosis)
    svg = hero.losses("answer", curves, part.initial_loss, part.target_loss, meeting)
    caption = f"{_finding(diagnosis, meeting)} {orders(curves)}"
    return Figure("answer", svg, caption, of_curves("Losses of all methods at their best rates, as drawn", curves))


def _meeting(diagnosis: Diagnosis) -> hero.Meeting | None:
    """Where the pair meets the target, the sooner first; None where one never does or both need as many steps."""
    part = diagnosis.training
    pair = steps_of_pair(part.methods or {})
    if pair is None or part.target_loss is None or pair[0] == pair[1]:
        return None
    more = further_decimals(diagnosis)
    order = ("adagrad", "sgd") if pair[1] < pair[0] else ("sgd", "adagrad")
    taken = (min(pair), max(pair))
    words = "the same loss after {} steps instead of {}".format(*(steps(count, more) for count in taken))
    return hero.Meeting(part.target_loss, taken, order, words)


def _finding(diagnosis: Diagnosis, meeting: hero.Meeting | None) -> str:
    """What the figure shows: which of the pair is sooner, or why there is nothing to compare."""
    part, methods = diagnosis.training, diagnosis.training.methods or {}
    target = "" if part.target_loss is None else f" of {number(part.target_loss, 3)} (dotted)"
    if meeting is not None:
        rates = [rate((methods[m] or {}).get("learning_rate")) for m in meeting.methods]
        return (
            f"{method_name(meeting.methods[0])} at a rate of {rates[0]} reaches {meeting.words} with "
            f"{method_name(meeting.methods[1])} at {rates[1]}: the target{target}."
        )
    pair = steps_of_pair(methods)
    if pair is not None:
        return f"SGD and AdaGrad reach the target loss{target} after as many steps, {steps(pair[0])}."
    known = reason(part, "speedup") if part.speedup is None else "one of the two never meets the target"
    return f"Each method is drawn at its best rate; steps to the same loss are not compared: {known}."


def by_target(diagnosis: Diagnosis) -> Figure | None:
    """The speed-up at targets along the decrease; None with fewer than two of them."""
    part = diagnosis.training
    rows = targets.measured(part.speedup_by_target)
    if not targets.drawable(rows):
        return None
    svg = targets.drawing("by-target", rows, part.target_loss, part.speedup)
    return Figure("by-target", svg, targets.caption(rows, part.target_loss, part.speedup), targets.table(rows))


def assumptions(diagnosis: Diagnosis) -> tuple[Assumed, ...]:
    """What the theory assumes and whether it was seen to hold here, as stored with the verdict."""
    rows = []
    for one in diagnosis.verdict.assumptions or ():
        status = str(one.get("status", ""))
        value, spread = _shown(str(one.get("measure", "")), one.get("value"), one.get("interval"))
        counted = None if one.get("n") is None else f"n = {number(one['n'])}"
        rows.append(
            Assumed(
                assumption=printable(one.get("assumption", "")),
                status=status.replace(" ", "-") if status in MARKS else "",
                status_label=f"{MARKS.get(status, '')} {printable(status)}".strip(),
                measure=printable(one.get("measure", "")),
                value=value,
                detail=", ".join(text for text in (spread, counted) if text),
                says=printable(one.get("says", "")),
            )
        )
    return tuple(rows)


def statuses(rows: Sequence[Assumed]) -> str:
    """How many assumptions have each status: "2 supported, 1 not testable here"."""
    labels = [row.status_label for row in rows]
    return ", ".join(f"{number(labels.count(label))} {label.partition(' ')[2]}" for label in dict.fromkeys(labels))


def why(diagnosis: Diagnosis) -> tuple[Row, ...]:
    """The rows of evidence, as stored with the verdict."""
    rows = []
    for one in diagnosis.verdict.evidence or ():
        if one.get("says") == NOT_YET:
            continue
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
    if ("R_L" in quantity or "‖L‖₁" in quantity) and pair is not None:
        return number(value), "certified between {} and {}".format(*bracket(*pair))
    head, _, tail = measured(value, pair).partition(", ")
    return head, tail


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
