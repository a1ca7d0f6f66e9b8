"""The verdict: which method wins, how sure that is, and the reasons in words."""

from __future__ import annotations

from collections.abc import Sequence

from diagnose.answers import answer_of, answer_of_one_run, confidence
from diagnose.verdict import theory as theories
from diagnose.verdict.advice import UNSAID, Raced, advice
from diagnose.verdict.assumptions import assumptions
from diagnose.verdict.best import Best, best_of_all
from diagnose.verdict.disagreement import likely_reasons
from diagnose.verdict.evidence import evidence
from diagnose.verdict.targets import race_is_over, turning
from diagnose.verdict.theory import Side
from estimators.results import Finding, GeneralizedSmoothness, Noise, Smoothness, Spectrum
from reports.record.diagnosis import CLEAR, LEVEL, Answer, Bounds, Prediction, Training, Verdict
from reports.words.numbers import ratio
from reports.words.sentences import FULL_BATCHES, spread
from reports.words.sentences import best_of_all as best_words

RATES = "a quarter of a decade"
"""How fine the grid of rates is: all that is uncertain where nothing is random."""


def decide(
    noise: Noise,
    smoothness: Smoothness,
    spectrum: Spectrum,
    generalized: GeneralizedSmoothness,
    ratios: Bounds,
    training: Training,
    prediction: Prediction,
    raced: Raced = UNSAID,
) -> tuple[Verdict, tuple[Finding, ...]]:
    """The verdict, and what is to be said about it (readings-disagree).

    The answer follows the measured speed-up; the theory explains or contradicts it and never moves it.
    """
    one_run = raced.deterministic and training.speedup_interval is None
    answer = answer_of_one_run(training.speedup) if one_run else answer_of(training.speedup, training.speedup_interval)
    theory = theories.read(noise, smoothness)
    best = best_of_all(training, answer, raced.deterministic)
    why: dict[str, str] = {}
    sure, meaning = _sure(answer, training, one_run, why)
    if best is None:
        missing = training.why.get("methods", "no method ended below the starting loss")
        why |= dict.fromkeys(("best_method", "best_by", "best_tied", "best_margin"), missing)
    elif best.margin is None:
        why["best_margin"] = "neither sgd nor adagrad ended below the starting loss, or at a loss above 0"
    verdict = Verdict(
        answer=answer,
        confidence=sure,
        confidence_meaning=meaning,
        best_method=None if best is None else best.method,
        best_margin=None if best is None else best.margin,
        best_by=None if best is None else best.by,
        best_tied=None if best is None else best.tied,
        theory=theory.sentence,
        advice=advice(answer, training, noise, best, raced),
        reasons=_reasons(answer, training, theory, best, one_run, noise, smoothness),
        evidence=evidence(noise, smoothness, generalized, ratios, prediction, training, answer),
        assumptions=assumptions(noise, smoothness, spectrum, generalized),
        why=why,
    )
    return verdict, theories.findings(theory, noise, smoothness, training.steps is not None)


def _sure(answer: Answer, training: Training, one_run: bool, why: dict[str, str]) -> tuple[float | None, str | None]:
    """The confidence and its meaning; where there is none, ``why`` says so."""
    orders = int(training.looks[-1]["orders"]) if training.looks else None
    missing = None
    if training.steps is None:
        missing = "nothing was trained"
    elif answer == "undecided":
        missing = "the race was not decided"
    elif one_run:
        missing = f"full batches leave nothing to chance; what is uncertain is the grid of rates ({RATES})"
    elif training.speedup is None or training.speedup_se is None or orders is None:
        missing = training.why.get("speedup_se", "the standard error of the speed-up is not known")
    else:
        sure = confidence(answer, training.speedup, training.speedup_se, orders)
        return sure, _meaning(answer, training.speedup_se, orders)
    why |= dict.fromkeys(("confidence", "confidence_meaning"), missing)
    return None, None


def _meaning(answer: Answer, standard_error: float, orders: int) -> str:
    said = {
        "adagrad": "AdaGrad's speed-up is above 1",
        "sgd": "AdaGrad's speed-up is below 1",
        "no-difference": f"AdaGrad's speed-up lies between {LEVEL[0]} and {LEVEL[1]}",
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


def _reasons(
    answer: Answer,
    training: Training,
    theory: theories.Theory,
    best: Best | None,
    one_run: bool,
    noise: Noise,
    smoothness: Smoothness,
) -> list[str]:
    if training.steps is None:
        return [f"Nothing was trained: {training.why.get('steps', 'no reason was recorded')}."]
    reasons = [
        _race_reason(answer, training, one_run),
        turning(answer, training),
        race_is_over(training),
        theory.sentence,
        _contrast(answer, theory.side, noise, smoothness),
    ]
    if best is not None:
        words = best_words(best.method, best.by, best.tied, best.margin, training)
        reasons.append(f"{words}.")
    return [reason for reason in reasons if reason]


def _race_reason(answer: Answer, training: Training, one_run: bool) -> str:
    speedup, interval = training.speedup, training.speedup_interval
    if speedup is None:
        return f"No speed-up was measured: {training.why.get('speedup', 'nothing was trained')}."
    if one_run:
        return f"{_counted(answer, speedup)} {FULL_BATCHES}; only the grid of rates, {RATES}, is uncertain."
    if interval is None:
        return (
            f"AdaGrad's measured speed-up over SGD is {ratio(speedup)}, without an interval: "
            f"{training.why.get('speedup_interval', 'none was computed')}."
        )
    if answer == "sgd":
        return f"{_counted(answer, speedup)}, {spread((1 / interval[1], 1 / interval[0]))}: above 1."
    if answer == "adagrad":
        return f"{_counted(answer, speedup)}, {spread(interval)}: above 1."
    said = f"{_counted(answer, speedup)}, {spread(interval)}"
    if answer == "no-difference":
        return f"{said}: within {LEVEL[0]} to {LEVEL[1]}, which makes no difference in practice."
    if interval[0] <= 1 <= interval[1]:
        return (
            f"{said}: it holds 1 and reaches beyond {LEVEL[0]} to {LEVEL[1]}, so the race does not tell the two apart."
        )
    return f"{said}: clear of 1 but by less than a factor of {CLEAR}."


def _counted(answer: Answer, speedup: float) -> str:
    if answer == "adagrad":
        return f"AdaGrad reached the common target loss in {ratio(speedup)} fewer steps than SGD"
    if answer == "sgd":
        return f"SGD reached the common target loss in {ratio(1 / speedup)} fewer steps than AdaGrad"
    return f"AdaGrad's speed-up over SGD is {ratio(speedup)}"


def _contrast(answer: Answer, side: Side, noise: Noise, smoothness: Smoothness) -> str | None:
    """Where theory and race disagree, and why that may be; None where they agree or one of them says nothing."""
    if answer == "undecided" or side in ("undecided", "unknown"):
        return None
    raced: Side = "neither" if answer == "no-difference" else answer
    if raced == side:
        return "Theory and race agree."
    likely: Sequence[str] = likely_reasons(raced, noise, smoothness)
    won = {"adagrad": "AdaGrad won", "sgd": "SGD won", "neither": "neither won"}[raced]
    because = f" Likely because {'; '.join(likely)}." if likely else " The bounds leave out constants."
    return (
        f"Theory and race disagree: the theory {theories.favours(side)}, and {won} the race. "
        f"The answer follows the race.{because}"
    )
