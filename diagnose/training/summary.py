"""From the legs of a race to its part of result.json: tuned losses, steps to the target and the speed-up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diagnose.training.looks import level
from diagnose.training.pairs import Tuned, best_other, compared, lowest_rate, tuned
from diagnose.training.resolution import resolution
from diagnose.training.runs import Leg, Look, Race, mean_final
from diagnose.training.speedup import FEW_ORDERS, FEWEST_ORDERS, SAME, Comparison, around
from estimators.numbers.t_intervals import LEVEL, mean_interval
from estimators.results import Interval
from reports.record.diagnosis import Training

CURVES_FILE = "runs.csv"
NONE_HELD_OUT = "no samples are held out"
WITHIN = 0.1
"""Share of the loss taken off that a rate of the tuning range may miss."""
BEST_OTHER = ("best_other", "best_other_speedup", "best_other_interval")


def summarise(race: Race) -> Training:
    """The tuned race in numbers; what could not be computed is null with its reason.

    ``speedup``, ``target_loss`` and the steps and rates of SGD and AdaGrad are those of the rule (``speedup.compare``)
    on the orders of the last look, the interval at the level of that look. ``adagrad_speedup`` of a method is the same
    against that method; its ``learning_rate`` and ``steps_to_target`` are those of the target of SGD and AdaGrad.
    ``best_other`` is the other method that ended lowest.
    """
    initial = race.legs[0].losses[0]
    assert initial is not None  # the race refuses a start whose loss is not finite
    found, missing = compared(race, "sgd", targets=True)
    best = tuned(race, found)
    methods = {
        method: _method(race, method, best.get(method), initial, found, missing) for method in race.settings.optimizers
    }
    last = race.looks[-1] if race.looks else None
    why = dict.fromkeys(("batch_sizes", "noise_terms"), "no `--batch-sizes` was given")
    values: dict[str, Any] = dict.fromkeys(PAIRED)
    if found is None:
        why |= dict.fromkeys(PAIRED, missing)
    else:
        values = _paired(race, found, last)
        why |= {key: found.no_error for key, value in values.items() if value is None}
    if race.decided_by is None:
        why["decided_by"] = missing or (SAME if race.settings.full_batch else "the race was not looked at")
    if not race.looks:
        why["looks"] = "the race was not looked at"
    other, reasons = _best_other(race)
    return Training(
        steps=race.settings.steps,
        initial_loss=initial,
        **values,
        looks=[_look(one) for one in race.looks] or None,
        decided_by=race.decided_by,
        **other,
        curves_file=CURVES_FILE,
        methods=methods,
        batch_sizes=None,
        noise_terms=None,
        why=why | reasons,
    )


PAIRED = (
    "target_loss",
    "target_floored",
    "speedup",
    "speedup_interval",
    "speedup_se",
    "speedup_seeds",
    "speedup_by_target",
)
"""What SGD and AdaGrad give together."""


def _paired(race: Race, found: Comparison, last: Look | None) -> dict[str, Any]:
    """The values of PAIRED."""
    confidence = LEVEL if last is None else level(race.settings, last.orders)
    rows = []
    for one in found.by_target:
        ratio = math.exp(one.log_speedup)
        row: dict[str, Any] = {"loss": one.loss, "speedup": ratio, "interval": around(ratio, one.error, found.orders)}
        if row["interval"] is None:
            row["why"] = {"interval": found.no_error}
        rows.append(row)
    return {
        "target_loss": found.target,
        "target_floored": found.floored,
        "speedup": found.speedup,
        "speedup_interval": found.interval(confidence),
        "speedup_se": found.error,
        "speedup_seeds": list(found.by_order),
        "speedup_by_target": rows,
    }


def _look(one: Look) -> dict[str, Any]:
    row: dict[str, Any] = {
        "orders": one.orders,
        "speedup": one.speedup,
        "interval": one.interval,
        "answer": one.answer,
    }
    why = {key: one.why for key in ("speedup", "interval") if row[key] is None}
    return row | ({"why": why} if why else {})


def _best_other(race: Race) -> tuple[dict[str, Any], dict[str, str]]:
    """AdaGrad's speed-up over the best of the k other methods that ran, with an interval that allows for the choice.

    The data choose it, so its interval has level 1 - 0.05/k (Bonferroni): with probability 95% or more those of all k
    hold, and then so does the one chosen, whichever it is.

    Returns:
        The values of BEST_OTHER, and why for those that are None.
    """
    others = [method for method in race.settings.optimizers if method != "adagrad"]
    best = best_other(race)
    if best is None or len(others) == len(race.settings.optimizers):
        missing = f"every learning rate of {' and '.join(others)} diverged" if others else "no other method ran"
        missing = missing if "adagrad" in race.settings.optimizers else "adagrad did not run"
        return dict.fromkeys(BEST_OTHER), dict.fromkeys(BEST_OTHER, missing)
    found, missing = compared(race, best)
    if found is None:
        return {"best_other": best, **dict.fromkeys(BEST_OTHER[1:])}, dict.fromkeys(BEST_OTHER[1:], missing)
    interval = found.interval(1 - (1 - LEVEL) / len(others))
    values = dict(zip(BEST_OTHER, (best, found.speedup, interval), strict=True))
    return values, {} if interval is not None else {"best_other_interval": found.no_error}


def _method(
    race: Race, method: str, choice: Tuned | None, initial: float, pair: Comparison | None, no_target: str
) -> dict[str, Any]:
    """A method's entry under ``methods``."""
    legs, why = race.of(method), dict[str, str]()
    entry: dict[str, Any] = {
        "learning_rate": None if choice is None else choice.rate,
        "final_loss": None,
        "final_loss_interval": None,
        "loss_resolution": None,
        "lowest_loss": None,
        "lowest_loss_interval": None,
        "lowest_loss_rate": lowest_rate(race, method),
        "steps_to_target": None if choice is None else choice.steps,
        "tuning_range": None,
        "tuning_range_at_least": None,
        "orders": race.count(method),
        "runs": len(legs),
        "diverged": sum(leg.diverged for leg in legs),
        "adagrad_speedup": None,
        "adagrad_speedup_interval": None,
        "adagrad_target": None,
        "adagrad_rates": None,
        "adagrad_steps": None,
        "validation_loss": None,
        "validation_loss_interval": None,
        "validation_accuracy": None,
        "validation_accuracy_interval": None,
        "state_bytes": race.state_bytes[method],
    }
    if choice is None:
        reason = "a run of every learning rate diverged"
        entry["why"] = dict.fromkeys((key for key, value in entry.items() if value is None), reason)
        return entry
    best = race.full(method)[choice.rate]
    lone = SAME if race.settings.deterministic(method) else FEW_ORDERS
    entry["final_loss"] = mean_final(best)
    lowest = race.full(method)[entry["lowest_loss_rate"]]
    entry["lowest_loss"] = mean_final(lowest)
    _spread(entry, why, "lowest_loss_interval", [leg.final for leg in lowest], lone)
    _spread(entry, why, "final_loss_interval", [leg.final for leg in best], lone)
    if any(leg.rounding is not None for leg in best):
        entry["loss_resolution"] = resolution(leg.rounding for leg in best)
    else:
        why["loss_resolution"] = "what rounding does to these losses was not measured"
    _validated(race, best, entry, why, lone)
    _compared(race, method, entry, why, (pair, no_target))
    if choice.steps is None:
        why["steps_to_target"] = no_target or "it met the target at no learning rate"
    finals = {one: mean_final(race.at(method, one)) for one in race.rates(method)}
    width = tuning_range(finals, entry["lowest_loss_rate"], initial)
    if width is None:
        why["tuning_range"] = why["tuning_range_at_least"] = "no learning rate ended below the starting loss"
    else:
        entry["tuning_range"], entry["tuning_range_at_least"] = width
    return entry | ({"why": why} if why else {})


def _spread(entry: dict[str, Any], why: dict[str, str], key: str, values: Sequence[float], lone: str) -> None:
    """Adds the t interval of a mean over the orders, or why there is none."""
    entry[key] = t_interval(values)
    if entry[key] is None:
        why[key] = lone


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """t interval of a mean over orders; None below FEWEST_ORDERS of them."""
    return mean_interval(values, level) if len(values) >= FEWEST_ORDERS else None


def _validated(race: Race, best: Sequence[Leg], entry: dict[str, Any], why: dict[str, str], lone: str) -> None:
    """Adds what the last iterates at the best rate reach on held-out samples."""
    losses = [leg.validation_loss for leg in best if leg.validation_loss is not None]
    rights = [leg.validation_accuracy for leg in best if leg.validation_accuracy is not None]
    if len(losses) == len(best):
        entry["validation_loss"] = float(np.mean(losses))
        _spread(entry, why, "validation_loss_interval", losses, lone)
    else:
        reason = "the loss of a held-out sample is not finite" if race.held_out else NONE_HELD_OUT
        why |= dict.fromkeys(("validation_loss", "validation_loss_interval"), reason)
    if len(rights) == len(best):
        entry["validation_accuracy"] = float(np.mean(rights))
        _spread(entry, why, "validation_accuracy_interval", rights, lone)
    else:
        reason = "the loss has no classes" if race.held_out else NONE_HELD_OUT
        why |= dict.fromkeys(("validation_accuracy", "validation_accuracy_interval"), reason)


def _compared(
    race: Race, method: str, entry: dict[str, Any], why: dict[str, str], sgd: tuple[Comparison | None, str]
) -> None:
    """Adds AdaGrad's speed-up over the method, by the rule for this pair: its own target, rates and steps.

    ``sgd`` is what the rule says of SGD and AdaGrad, or why nothing.
    """
    keys = ("adagrad_speedup", "adagrad_speedup_interval", "adagrad_target", "adagrad_rates", "adagrad_steps")
    if method == "adagrad":
        why |= dict.fromkeys(keys, "this is AdaGrad")
        return
    found, missing = sgd if method == "sgd" else compared(race, method)
    if found is None:
        why |= dict.fromkeys(keys, missing)
        return
    confidence = level(race.settings, race.looks[-1].orders) if method == "sgd" and race.looks else LEVEL
    interval = found.interval(confidence)
    entry |= dict(zip(keys, (found.speedup, interval, found.target, list(found.rates), list(found.steps)), strict=True))
    if interval is None:
        why[keys[1]] = found.no_error


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
