"""From the legs of a race to its part of result.json: tuned losses, hitting times and the speed-up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from diagnose.schema import Training
from diagnose.training.legs import Leg, Race, mean_final
from estimators.results import Interval

CURVES_FILE = "runs.csv"
LEVEL = 0.95
FEWEST_SEEDS = 3
"""Below this many seeds no interval is given."""
WITHIN = 0.1
"""Share of the loss taken off that a rate of the tuning range may miss."""
FEW_SEEDS = f"an interval over seeds needs {FEWEST_SEEDS} seeds or more"


def summarise(race: Race) -> Training:
    """The tuned race in numbers; what could not be computed is null with its reason.

    ``speedup`` is the geometric mean over seeds of (SGD's hitting time / AdaGrad's), ``speedup_interval`` the t
    interval of its logarithm. In each seed the target is the worse of the two methods' best final losses, and a
    method's hitting time the earliest over its rates that have all seeds, linear between evaluations.
    """
    why: dict[str, str] = {}
    initial = race.legs[0].losses[0]
    assert initial is not None  # the race refuses a start whose loss is not finite
    target, missing = _target(race)
    if target is None:
        why["target_loss"] = missing
    methods = {method: _method(race, method, initial, target, missing) for method in race.settings.optimizers}
    ratios, missing = seed_speedups(race, initial)
    speedup: float | None = None
    interval: Interval | None = None
    if missing:
        why["speedup"] = why["speedup_interval"] = missing
        if not ratios:
            why["speedup_seeds"] = missing
    else:
        logs = np.log([ratio for ratio in ratios if ratio is not None])
        ends = t_interval(logs.tolist())
        speedup = math.exp(logs.mean())
        if ends is None:
            why["speedup_interval"] = FEW_SEEDS
        else:
            # The mean of equal logarithms may differ from them in the last digit: the interval holds the estimate.
            interval = min(math.exp(ends[0]), speedup), max(math.exp(ends[1]), speedup)
    return Training(
        steps=race.settings.steps,
        target_loss=target,
        initial_loss=initial,
        speedup=speedup,
        speedup_interval=interval,
        speedup_seeds=ratios or None,
        curves_file=CURVES_FILE,
        methods=methods,
        why=why,
    )


def seed_speedups(race: Race, initial: float) -> tuple[list[float | None], str]:
    """SGD's hitting time over AdaGrad's for each seed, and why one is missing ("" when none is)."""
    absent = [method for method in ("sgd", "adagrad") if method not in race.settings.optimizers]
    if absent:
        return [], f"{' and '.join(absent)} did not run"
    ratios: list[float | None] = []
    reasons = []
    for seed in range(race.settings.seeds):
        runs = {method: _finite_legs(race, method, seed) for method in ("sgd", "adagrad")}
        failed = [method for method, legs in runs.items() if not legs]
        if failed:
            ratios.append(None)
            reasons.append(f"{' and '.join(failed)} diverged at every rate that has all seeds")
            continue
        finals = {method: min(leg.final for leg in legs) for method, legs in runs.items()}
        target = max(finals.values())
        if target >= initial:
            ratios.append(None)
            still = " and ".join(method for method, final in finals.items() if final >= initial)
            reasons.append(f"{still} never ended below the starting loss in seed {seed}")
            continue
        times = {
            method: min(hitting_time(leg.steps, _losses(leg), target) for leg in legs) for method, legs in runs.items()
        }
        ratios.append(times["sgd"] / times["adagrad"])
    return ratios, reasons[0] if reasons else ""


def hitting_time(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    """The first step at which the curve meets the target, linear between evaluations; infinite if it never does."""
    for i, loss in enumerate(losses):
        if loss <= target:
            if i == 0:
                return float(steps[0])
            share = (losses[i - 1] - target) / (losses[i - 1] - loss)
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return math.inf


def t_interval(values: Sequence[float]) -> Interval | None:
    """95% t interval of the mean; one point where all values are equal, None below FEWEST_SEEDS values."""
    if len(values) < FEWEST_SEEDS:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if min(values) == max(values):
        return values[0], values[0]
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def tuning_range(finals: Mapping[float, float], best: float, initial: float) -> tuple[float, bool] | None:
    """Decades of rates around the best whose final loss lies within 10% of (initial - best) above the best.

    Linear in the logarithm of the rate between neighbours; up to the last finite one before a rate that diverged.

    Args:
        finals: rate -> mean final loss over the seeds that it was run with, infinite where it diverged.
        best: the rate that was chosen, by its mean over all seeds.

    Returns:
        The width, and whether the range reaches an end of the grid, so that it is at least this wide; None where no
        rate ended below the initial loss.
    """
    rates = sorted(finals)
    if not finals[best] < initial:
        return None
    limit = finals[best] + WITHIN * (initial - finals[best])
    low, low_open = _edge(rates[: rates.index(best) + 1][::-1], finals, limit)
    high, high_open = _edge(rates[rates.index(best) :], finals, limit)
    return high - low, low_open or high_open


def _edge(rates: Sequence[float], finals: Mapping[float, float], limit: float) -> tuple[float, bool]:
    """log10 of the rate at which the final loss leaves the limit, walking from the best; True if it never does."""
    for near, far in itertools.pairwise(rates):
        if finals[far] > limit:
            share = (limit - finals[near]) / (finals[far] - finals[near])  # 0 where the far one diverged
            return math.log10(near) + share * (math.log10(far) - math.log10(near)), False
    return math.log10(rates[-1]), True


def _method(race: Race, method: str, initial: float, target: float | None, no_target: str) -> dict[str, Any]:
    """A method's entry under ``methods``."""
    legs, best, why = race.of(method), race.best(method), {}
    entry: dict[str, Any] = {
        "learning_rate": None,
        "final_loss": None,
        "final_loss_interval": None,
        "steps_to_target": None,
        "tuning_range": None,
        "tuning_range_at_least": None,
        "runs": len(legs),
        "diverged": sum(leg.diverged for leg in legs),
        "state_bytes": race.state_bytes[method],
    }
    if not best:
        reason = "a run of every learning rate diverged"
        entry["why"] = dict.fromkeys((key for key, value in entry.items() if value is None), reason)
        return entry
    entry["learning_rate"] = best[0].learning_rate
    entry["final_loss"] = mean_final(best)
    entry["final_loss_interval"] = t_interval([leg.final for leg in best])
    if entry["final_loss_interval"] is None:
        why["final_loss_interval"] = FEW_SEEDS
    if target is None:
        why["steps_to_target"] = no_target
    elif target >= initial:
        why["steps_to_target"] = "the target is not below the starting loss"
    else:
        time = min(
            hitting_time(runs[0].steps, np.mean([_losses(leg) for leg in runs], axis=0).tolist(), target)
            for runs in race.full(method).values()
            if math.isfinite(mean_final(runs))
        )
        if math.isfinite(time):
            entry["steps_to_target"] = time
        else:
            why["steps_to_target"] = "the mean curve of no learning rate met the target"
    finals = {rate: mean_final(race.at(method, rate)) for rate in race.rates(method)}
    width = tuning_range(finals, best[0].learning_rate, initial)
    if width is None:
        why["tuning_range"] = why["tuning_range_at_least"] = "no learning rate ended below the starting loss"
    else:
        entry["tuning_range"], entry["tuning_range_at_least"] = width
    if why:
        entry["why"] = why
    return entry


def _target(race: Race) -> tuple[float | None, str]:
    """The worse of sgd's and adagrad's final losses, or why there is none."""
    absent = [method for method in ("sgd", "adagrad") if method not in race.settings.optimizers]
    if absent:
        return None, f"{' and '.join(absent)} did not run"
    best = {method: race.best(method) for method in ("sgd", "adagrad")}
    failed = [method for method, legs in best.items() if not legs]
    if failed:
        return None, f"every learning rate of {' and '.join(failed)} diverged"
    return max(mean_final(legs) for legs in best.values()), ""


def _finite_legs(race: Race, method: str, seed: int) -> list[Leg]:
    """The runs of one seed at the rates that have all seeds, without those that diverged."""
    return [legs[seed] for legs in race.full(method).values() if not legs[seed].diverged]


def _losses(leg: Leg) -> list[float]:
    """The losses of a run that did not diverge: all finite."""
    return [loss for loss in leg.losses if loss is not None]
