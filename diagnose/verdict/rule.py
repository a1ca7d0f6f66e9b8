"""The rule of the verdict: which method wins, how sure that is, and the reasons in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from diagnose.schema import CLEAR, LEVEL, PAIR, Answer, Bounds, Prediction, Training, Verdict
from diagnose.training.resolution import lowest
from diagnose.verdict import theory as theories
from diagnose.verdict.advice import UNSAID, Raced, advice
from diagnose.verdict.answers import answer_of, confidence
from diagnose.verdict.disagreement import likely_reasons
from diagnose.verdict.evidence import evidence
from diagnose.verdict.theory import Side, Theory
from estimators.results import Finding, GeneralizedSmoothness, Noise, Smoothness
from reports.numbers import number, percent, ratio
from reports.text import method_name, of_the_pair, spread


def decide(
    noise: Noise,
    smoothness: Smoothness,
    generalized: GeneralizedSmoothness,
    ratios: Bounds,
    training: Training,
    prediction: Prediction,
    raced: Raced = UNSAID,
    rows: int | None = None,
) -> tuple[Verdict, tuple[Finding, ...]]:
    """The verdict, and what is to be said about it (readings-disagree).

    The answer follows the measured speed-up; the theory explains or contradicts it and never moves it. ``rows`` are
    those of the data.
    """
    answer = answer_of(training.speedup, training.speedup_interval)
    theory = theories.read(noise, smoothness, ratios)
    best, margin = best_method(training)
    why: dict[str, str] = {}
    sure, meaning = _sure(answer, training, why)
    if best is None:
        why["best_method"] = training.why.get("methods", "no method has a learning rate at which no run diverged")
        why["best_by"] = why["best_method"]
    why["assumptions"] = "not gathered"
    if margin is None:
        why["best_margin"] = why.get("best_method", "neither sgd nor adagrad ended below the starting loss")
    verdict = Verdict(
        answer=answer,
        confidence=sure,
        confidence_meaning=meaning,
        best_method=best,
        best_margin=margin,
        theory=theory.sentence,
        advice=advice(answer, training, noise, best, margin, raced, rows),
        reasons=_reasons(
            answer, training, prediction, theory, best, margin, likely_reasons(theory, noise, smoothness, ratios)
        ),
        best_by=None if best is None else "training",
        assumptions=None,
        evidence=[
            asdict(row) for row in evidence(noise, smoothness, generalized, ratios, prediction, training, answer)
        ],
        why=why,
    )
    return verdict, theories.findings(theory, ratios)


def _sure(answer: Answer, training: Training, why: dict[str, str]) -> tuple[float | None, str | None]:
    """The confidence and its meaning; where there is none, ``why`` says so."""
    keys = ("confidence", "confidence_meaning")
    if answer == "undecided":
        why |= dict.fromkeys(keys, "undecided: there is no answer to be sure of")
        return None, None
    if training.speedup is None or training.speedup_se is None:
        why |= dict.fromkeys(keys, training.why.get("speedup_se", "the standard error of the speed-up is unknown"))
        return None, None
    orders = sum(value is not None for value in training.speedup_seeds or ())
    sure = confidence(answer, training.speedup, training.speedup_se, orders)
    return sure, _meaning(answer, training.speedup_se, orders)


def _meaning(answer: Answer, standard_error: float, orders: int) -> str:
    said = {
        "adagrad": "AdaGrad's mean speed-up is above 1",
        "sgd": "AdaGrad's mean speed-up is below 1",
        "no-difference": f"the mean speed-up lies between {LEVEL[0]} and {LEVEL[1]}",
    }[answer]
    if not standard_error:
        return (
            f"All {orders} orders of the batches ran alike, so whether {said} is not left to chance; "
            "another start or other data are not covered."
        )
    return (
        f"Probability that {said}, by a t distribution over {orders} orders of the batches; "
        "it covers that randomness only, not another start or other data."
    )


def best_method(training: Training) -> tuple[str | None, float | None]:
    """The method of the lowest mean final loss and its margin; of losses that rounding alone tells apart sgd's or
    adagrad's, where it is among them, else the first.

    The margin is how much lower it ended than the better of sgd and adagrad, as a share of the loss that the latter
    took off; 0 where it is one of the two.
    """
    finals = {
        name: row["final_loss"] for name, row in (training.methods or {}).items() if row["final_loss"] is not None
    }
    equal = lowest(finals, {name: _resolution(training, name) for name in finals})
    if not equal:
        return None, None
    best = next((name for name in PAIR if name in equal), equal[0])
    pair = {name: finals[name] for name in PAIR if name in finals}
    if not pair or training.initial_loss is None:
        return best, None
    better = min(pair, key=lambda name: pair[name])
    if pair[better] + _resolution(training, better) >= training.initial_loss:
        return best, None
    return best, max(0.0, (pair[better] - finals[best]) / (training.initial_loss - pair[better]))


def _resolution(training: Training, method: str) -> float:
    """Final losses closer than this to the method's are equal to it."""
    return float(((training.methods or {}).get(method) or {}).get("loss_resolution") or 0.0)


def _both_converged(training: Training) -> str:
    """Said where the pair's final losses are equal but for rounding, else empty."""
    rows = [(training.methods or {}).get(method) or {} for method in PAIR]
    finals = [row["final_loss"] for row in rows if row.get("final_loss") is not None]
    told = max(_resolution(training, method) for method in PAIR)
    if not told or len(finals) < len(PAIR) or max(finals) - min(finals) > told:
        return ""
    return (
        f" Both converged: SGD and AdaGrad end at the same loss to within rounding ({number(told, 2)}), and steps are "
        "counted up to where a loss is no longer told apart from it."
    )


def _reasons(
    answer: Answer,
    training: Training,
    prediction: Prediction,
    theory: Theory,
    best: str | None,
    margin: float | None,
    likely: Sequence[str],
) -> list[str]:
    reasons = [_race_reason(answer, training) + _both_converged(training)]
    if training.speedup is None and prediction.speedup is None:
        reasons.append(f"There is no prediction either: {prediction.why.get('speedup', 'none was made')}.")
    reasons.append(theory.sentence)
    if (contrast := _contrast(answer, theory.side, likely)) is not None:
        reasons.append(contrast)
    if best is not None and best not in PAIR and margin is not None:
        reasons.append(
            f"Of the {len(training.methods or {})} methods that ran, {method_name(best)} ended lowest: it took off "
            f"{percent(margin)} more loss than {of_the_pair(training)}."
        )
    return reasons


def _race_reason(answer: Answer, training: Training) -> str:
    speedup, interval = training.speedup, training.speedup_interval
    if speedup is None:
        return f"No speed-up was measured: {training.why.get('speedup', 'nothing was trained')}."
    if interval is None:
        return (
            f"AdaGrad's measured speed-up over SGD is {ratio(speedup)}, without an interval: "
            f"{training.why.get('speedup_interval', 'none was computed')}."
        )
    known = spread(interval)
    if answer == "adagrad":
        return f"AdaGrad reached the common target loss in {ratio(speedup)} fewer steps than SGD, {known}: above 1."
    if answer == "sgd":
        turned = (1 / interval[1], 1 / interval[0])
        return (
            f"SGD reached the common target loss in {ratio(1 / speedup)} fewer steps than AdaGrad, "
            f"{spread(turned)}: above 1."
        )
    said = f"AdaGrad's speed-up over SGD is {ratio(speedup)}, {known}"
    if answer == "no-difference":
        return f"{said}: within {LEVEL[0]} to {LEVEL[1]}, which makes no difference in practice."
    if interval[0] <= 1 <= interval[1]:
        return (
            f"{said}: it holds 1 and reaches beyond {LEVEL[0]} to {LEVEL[1]}, so the race does not tell the two apart."
        )
    return f"{said}: clear of 1 but by less than a factor of {CLEAR}."


def _contrast(answer: Answer, side: Side, likely: Sequence[str]) -> str | None:
    """Where theory and race disagree, and why that may be; None where they agree or one of them says nothing."""
    if answer == "undecided" or side in ("undecided", "unknown"):
        return None
    raced: Side = "neither" if answer == "no-difference" else answer
    if raced == side:
        return "Theory and race agree."
    won = {"adagrad": "AdaGrad won", "sgd": "SGD won", "neither": "neither won"}[raced]
    because = f" Likely because {'; '.join(likely)}." if likely else " The bounds leave out constants."
    return (
        f"Theory and race disagree: the bounds favour {theories.NAMES[side]}, and {won} the race. "
        f"The answer follows the race.{because}"
    )
