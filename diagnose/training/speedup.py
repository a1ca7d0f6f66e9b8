"""How much sooner AdaGrad meets a loss than another method, from the legs of a race."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diagnose.schema import CLEAR, Training
from diagnose.training.legs import Leg, Race, mean_final
from diagnose.training.resolution import lowest
from estimators.intervals import LEVEL, mean_interval
from estimators.results import Interval

FEWEST_SEEDS = 3
"""Below this many seeds no interval is given."""
MOST_SEEDS = 100
"""More seeds than this are no advice."""
FEW_SEEDS = f"an interval over seeds needs {FEWEST_SEEDS} seeds or more"
BEST_OTHER = ("best_other", "best_other_speedup", "best_other_interval")


def seed_speedups(race: Race, initial: float, other: str) -> tuple[list[float | None], str]:
    """The other method's hitting time over AdaGrad's for each seed, and why one is missing ("" when none is)."""
    pair = (other, "adagrad")
    absent = [method for method in pair if method not in race.settings.optimizers]
    if absent:
        return [], f"{' and '.join(absent)} did not run"
    ratios: list[float | None] = []
    reasons = []
    told = race.resolution(*pair)
    for seed in range(race.settings.seeds):
        runs = {method: _finite_legs(race, method, seed) for method in pair}
        failed = [method for method, legs in runs.items() if not legs]
        if failed:
            ratios.append(None)
            reasons.append(f"{' and '.join(failed)} diverged at every rate that has all seeds")
            continue
        finals = {method: min(leg.final for leg in legs) for method, legs in runs.items()}
        target = max(finals.values()) + told
        if target >= initial:
            ratios.append(None)
            still = " and ".join(method for method, final in finals.items() if final + told >= initial)
            rounded = "" if max(finals.values()) >= initial else " by more than rounding"
            reasons.append(f"{still} never ended below the starting loss{rounded} in seed {seed}")
            continue
        times = {
            method: min(hitting_time(leg.steps, finite_losses(leg), target) for leg in legs)
            for method, legs in runs.items()
        }
        ratios.append(times[other] / times["adagrad"])
    return ratios, reasons[0] if reasons else ""


def geometric_mean(
    ratios: Sequence[float | None], missing: str, level: float = LEVEL
) -> tuple[float | None, Interval | None, str]:
    """Of the ratios, with the t interval of its logarithm, and why the interval is missing ("" when it is not)."""
    if missing:
        return None, None, missing
    logs = np.log([ratio for ratio in ratios if ratio is not None])
    ends, mean = t_interval(logs.tolist(), level), math.exp(logs.mean())
    if ends is None:
        return mean, None, FEW_SEEDS
    # The mean of equal logarithms may differ from them in the last digit: the interval holds the estimate.
    return mean, (min(math.exp(ends[0]), mean), max(math.exp(ends[1]), mean)), ""


def best_other(race: Race, initial: float) -> tuple[dict[str, Any], dict[str, str]]:
    """AdaGrad's speed-up over the best of the k other methods that ran, with an interval that allows for the choice.

    The best has the lowest mean final loss. The data choose it, so its interval has level 1 - 0.05/k (Bonferroni): with
    probability 95% or more those of all k hold, and then so does the one chosen, whichever it is.

    Returns:
        The values of BEST_OTHER, and why for those that are None.
    """
    others = [method for method in race.settings.optimizers if method != "adagrad"]
    finals = {method: mean_final(legs) for method in others if (legs := race.best(method))}
    if not finals or len(others) == len(race.settings.optimizers):
        missing = f"every learning rate of {' and '.join(others)} diverged" if others else "no other method ran"
        missing = missing if "adagrad" in race.settings.optimizers else "adagrad did not run"
        return dict.fromkeys(BEST_OTHER), dict.fromkeys(BEST_OTHER, missing)
    best = lowest(finals, {method: race.resolution(method) for method in finals})[0]
    mean, interval, reason = geometric_mean(*seed_speedups(race, initial, best), 1 - (1 - LEVEL) / len(others))
    values = dict(zip(BEST_OTHER, (best, mean, interval), strict=True))
    return values, {key: reason for key, value in values.items() if value is None}


def seeds_that_tell(training: Training) -> int | None:
    """How many seeds would show the difference if it is as it looks, at least half as many again as there were.

    None where no number is known, it would be above MOST_SEEDS, or the seeds show the difference already.
    """
    speedup, interval = training.speedup, training.speedup_interval
    if speedup is None:
        return None
    if interval is None:
        return FEWEST_SEEDS
    seeds = sum(value is not None for value in training.speedup_seeds or ())
    effect, half = abs(math.log(speedup)), math.log(interval[1] / interval[0]) / 2
    if effect < math.log(CLEAR) or half < effect:
        return None
    needed = max(math.ceil(seeds * (half / effect) ** 2), seeds + math.ceil(seeds / 2))
    return needed if needed <= MOST_SEEDS else None


def hitting_time(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    """The first step at which the curve meets the target, linear between evaluations; infinite if it never does."""
    for i, loss in enumerate(losses):
        if loss <= target:
            if i == 0:
                return float(steps[0])
            share = (losses[i - 1] - target) / (losses[i - 1] - loss)
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return math.inf


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """t interval of a mean over seeds; None below FEWEST_SEEDS of them."""
    return mean_interval(values, level) if len(values) >= FEWEST_SEEDS else None


def _finite_legs(race: Race, method: str, seed: int) -> list[Leg]:
    """The runs of one seed at the rates that have all seeds, without those that diverged."""
    return [legs[seed] for legs in race.full(method).values() if not legs[seed].diverged]


def finite_losses(leg: Leg) -> list[float]:
    """The losses of a run that did not diverge: all finite."""
    return [loss for loss in leg.losses if loss is not None]
