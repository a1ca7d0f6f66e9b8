"""From the legs of a race to its part of result.json: tuned losses, hitting times and the speed-up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diagnose.schema import PAIR, Training
from diagnose.training.legs import Leg, Race, mean_final
from diagnose.training.speedup import (
    FEW_SEEDS,
    best_other,
    finite_losses,
    geometric_mean,
    hitting_time,
    seed_speedups,
    t_interval,
)

CURVES_FILE = "runs.csv"
NONE_HELD_OUT = "no samples are held out"
WITHIN = 0.1
"""Share of the loss taken off that a rate of the tuning range may miss."""


def summarise(race: Race) -> Training:
    """The tuned race in numbers; what could not be computed is null with its reason.

    ``speedup`` is the geometric mean over seeds of (SGD's hitting time / AdaGrad's), ``speedup_interval`` the t
    interval of its logarithm; ``adagrad_speedup`` of a method is the same against that method, ``best_other`` the
    other method that ended lowest. In each seed the target is the worse of the two methods' best final losses, and
    what rounding does to a loss above it: a loss that is not told apart from it has met it. A method's hitting time is
    the earliest over its rates that have all seeds, linear between evaluations.
    """
    why: dict[str, str] = {}
    initial = race.legs[0].losses[0]
    assert initial is not None  # the race refuses a start whose loss is not finite
    why |= dict.fromkeys(("speedup_se", "speedup_by_target", "looks", "decided_by"), "not gathered")
    target, missing = _target(race)
    if target is None:
        why["target_loss"] = why["target_floored"] = missing
    methods = {method: _method(race, method, initial, target, missing) for method in race.settings.optimizers}
    ratios, missing = seed_speedups(race, initial, "sgd")
    speedup, interval, reason = geometric_mean(ratios, missing)
    if reason:
        why["speedup_interval"] = reason
    if speedup is None:
        why["speedup"] = missing
    if not ratios:
        why["speedup_seeds"] = missing
    other, reasons = best_other(race, initial)
    why |= reasons
    return Training(
        steps=race.settings.steps,
        target_loss=target,
        target_floored=None if target is None else False,
        initial_loss=initial,
        speedup=speedup,
        speedup_interval=interval,
        speedup_se=None,
        speedup_seeds=ratios or None,
        speedup_by_target=None,
        looks=None,
        decided_by=None,
        **other,
        curves_file=CURVES_FILE,
        methods=methods,
        batch_sizes=None,
        noise_terms=None,
        why=why | dict.fromkeys(("batch_sizes", "noise_terms"), "no `--batch-sizes` was given"),
    )


def _method(race: Race, method: str, initial: float, target: float | None, no_target: str) -> dict[str, Any]:
    """A method's entry under ``methods``."""
    legs, best, why = race.of(method), race.best(method), {}
    entry: dict[str, Any] = {
        "learning_rate": None,
        "final_loss": None,
        "final_loss_interval": None,
        "loss_resolution": None,
        "steps_to_target": None,
        "tuning_range": None,
        "tuning_range_at_least": None,
        "runs": len(legs),
        "diverged": sum(leg.diverged for leg in legs),
        "adagrad_speedup": None,
        "adagrad_speedup_interval": None,
        "validation_loss": None,
        "validation_loss_interval": None,
        "validation_accuracy": None,
        "state_bytes": race.state_bytes[method],
    }
    if not best:
        reason = "a run of every learning rate diverged"
        entry["why"] = dict.fromkeys((key for key, value in entry.items() if value is None), reason)
        return entry
    entry["learning_rate"] = best[0].learning_rate
    entry["final_loss"] = mean_final(best)
    entry["final_loss_interval"] = t_interval([leg.final for leg in best])
    if any(leg.rounding is not None for leg in best):
        entry["loss_resolution"] = race.resolution(method)
    else:
        why["loss_resolution"] = "what rounding does to these losses was not measured"
    if entry["final_loss_interval"] is None:
        why["final_loss_interval"] = FEW_SEEDS
    _validated(race, best, entry, why)
    _compared(race, method, initial, entry, why)
    if target is None:
        why["steps_to_target"] = no_target
    elif target >= initial:
        why["steps_to_target"] = "the target is not below the starting loss"
    else:
        time = min(
            hitting_time(runs[0].steps, np.mean([finite_losses(leg) for leg in runs], axis=0).tolist(), target)
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


def _validated(race: Race, best: Sequence[Leg], entry: dict[str, Any], why: dict[str, str]) -> None:
    """Adds what the last iterates at the best rate reach on held-out samples."""
    losses = [leg.validation_loss for leg in best if leg.validation_loss is not None]
    rights = [leg.validation_accuracy for leg in best if leg.validation_accuracy is not None]
    if len(losses) == len(best):
        entry["validation_loss"] = float(np.mean(losses))
        entry["validation_loss_interval"] = t_interval(losses)
        if entry["validation_loss_interval"] is None:
            why["validation_loss_interval"] = FEW_SEEDS
    else:
        reason = "the loss of a held-out sample is not finite" if race.held_out else NONE_HELD_OUT
        why |= dict.fromkeys(("validation_loss", "validation_loss_interval"), reason)
    if len(rights) == len(best):
        entry["validation_accuracy"] = float(np.mean(rights))
    else:
        why["validation_accuracy"] = "the loss has no classes" if race.held_out else NONE_HELD_OUT


def _compared(race: Race, method: str, initial: float, entry: dict[str, Any], why: dict[str, str]) -> None:
    """Adds AdaGrad's speed-up over the method."""
    keys = ("adagrad_speedup", "adagrad_speedup_interval")
    if method == "adagrad":
        why |= dict.fromkeys(keys, "this is AdaGrad")
        return
    ratios, missing = seed_speedups(race, initial, method)
    mean, interval, reason = geometric_mean(ratios, missing)
    entry |= dict(zip(keys, (mean, interval), strict=True))
    why |= {keys[0]: missing} if mean is None else {}
    why |= {keys[1]: reason} if reason else {}


def _target(race: Race) -> tuple[float | None, str]:
    """The worse of sgd's and adagrad's final losses and what is not told apart from it, or why there is none."""
    absent = [method for method in PAIR if method not in race.settings.optimizers]
    if absent:
        return None, f"{' and '.join(absent)} did not run"
    best = {method: race.best(method) for method in PAIR}
    failed = [method for method, legs in best.items() if not legs]
    if failed:
        return None, f"every learning rate of {' and '.join(failed)} diverged"
    return max(mean_final(legs) for legs in best.values()) + race.resolution(*PAIR), ""


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
