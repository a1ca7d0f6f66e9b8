"""The rule of ``speedup`` on the legs of a race: which method meets which loss first, and at which rate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diagnose.training.resolution import lowest, resolution
from diagnose.training.runs import Leg, Race, mean_final
from diagnose.training.speedup import Comparison, Curves, compare, ends_lowest, steps_to
from reports.record.diagnosis import PAIR


def curves(race: Race, method: str, orders: int) -> Curves | None:
    """The method's losses at the rates that came through with the first ``orders`` orders; None without one.

    A deterministic method's one run stands for all orders.
    """
    needed = min(orders, race.count(method))
    runs: dict[float, list[Leg]] = {}
    for rate in race.rates(method):
        legs = [leg for leg in race.at(method, rate) if leg.seed < needed]
        if len(legs) == needed and not any(leg.diverged for leg in legs):
            runs[rate] = sorted(legs, key=lambda leg: leg.seed)
    if not runs:
        return None
    losses = np.array([[leg.losses for leg in legs] for legs in runs.values()], dtype=float)
    steps = next(iter(runs.values()))[0].steps
    return Curves(
        steps=np.array(steps, dtype=float),
        rates=np.array(list(runs)),
        losses=np.repeat(losses, orders // needed, axis=1) if race.settings.deterministic(method) else losses,
        resolutions=np.array([resolution(leg.rounding for leg in legs) for legs in runs.values()]),
        noisy=not race.settings.deterministic(method),
    )


def compared(race: Race, other: str, *, targets: bool = False) -> tuple[Comparison | None, str]:
    """The rule for another method and AdaGrad, on the orders that both have; and why there is none ("" if there is)."""
    pair = (other, "adagrad")
    absent = [method for method in pair if method not in race.settings.optimizers]
    if absent:
        return None, f"{' and '.join(absent)} did not run"
    random = [method for method in pair if not race.settings.deterministic(method)]
    orders = min((race.count(method) for method in random), default=1)
    first, second = (curves(race, method, orders) for method in pair)
    if first is None or second is None:
        failed = [method for method, found in zip(pair, (first, second), strict=True) if found is None]
        return None, f"every learning rate of {' and '.join(failed)} diverged"
    return compare(first, second, pair, targets=targets)


def lowest_rate(race: Race, method: str, *, calm: bool = False) -> float | None:
    """The rate that ends lowest on all orders of the method, or of those without an overshoot; None where every rate
    diverged in one of them."""
    found = curves(race, method, race.count(method))
    return None if found is None else ends_lowest(found, calm=calm)


def meeting(race: Race, method: str, target: float) -> tuple[float, float] | None:
    """The first step at which the method meets a loss and the rate that does, on all of its orders; None if none does.

    For SGD and AdaGrad at their own target this is what :func:`compared` says.
    """
    found = curves(race, method, race.count(method))
    return None if found is None else steps_to(found, target)


class Tuned(NamedTuple):
    """A method's best rate, and the first step at which it meets the target there; None where it never does."""

    rate: float
    steps: float | None


def tuned(race: Race, pair: Comparison | None) -> dict[str, Tuned]:
    """The rate of each method that is printed, drawn and advised: the one that meets the target first; where there is
    no target, or the method never meets it, the one that ends lowest. Methods without a rate are left out.

    Args:
        race: the legs.
        pair: what the rule says of SGD and AdaGrad, whose target it is; None without one.
    """
    found = {}
    for method in race.settings.optimizers:
        if pair is not None and method in PAIR:
            place = PAIR.index(method)
            found[method] = Tuned(pair.rates[place], pair.steps[place])
        elif pair is not None and (met := meeting(race, method, pair.target)) is not None:
            found[method] = Tuned(met[1], met[0])
        elif (rate := lowest_rate(race, method, calm=True)) is not None:
            found[method] = Tuned(rate, None)
    return found


def best_rates(race: Race) -> dict[str, float]:
    """The rate of each method by :func:`tuned`."""
    pair, _ = compared(race, "sgd")
    return {method: best.rate for method, best in tuned(race, pair).items()}


def best_other(race: Race) -> str | None:
    """The method other than AdaGrad of the lowest mean final loss; None where none has one."""
    legs = {method: race.best(method) for method in race.settings.optimizers if method != "adagrad"}
    finals = {method: mean_final(runs) for method, runs in legs.items() if runs}
    resolutions = {method: resolution(leg.rounding for leg in runs) for method, runs in legs.items()}
    return next(iter(lowest(finals, resolutions)), None)
