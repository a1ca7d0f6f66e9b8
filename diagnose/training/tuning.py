"""Which learning rates a method is tried at. Rates are 10^(k/4) with whole k; decisions follow from legs alone."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence

from diagnose.training.runs import Leg, RaceSettings, best_rate, mean_finals

Run = tuple[float, int]
"""Learning rate and seed."""
Tuning = Generator[list[Run], Sequence[Leg], list[Leg]]
"""Yields the runs that it wants next, is sent their legs, and returns all of them."""

AROUND = {True: 4, False: 2}
"""The first grid reaches this many quarter decades to each side of the guess; a stack of runs (every_rate) takes more
at once, single runs are cheaper one by one."""
GROWTH = 2
"""A grid grows by this many quarter decades at a time ..."""
GROWTHS = 12
"""... and at most this often."""
LINEAR_GUESS = {
    "adagrad": 0.3,
    "adagrad-norm": 3.0,
    "adagrad-momentum": 0.03,
    "rmsprop": 0.03,
    "adam": 0.03,
    "sign-sgd": 0.03,
}
NETWORK_GUESS = {
    "adagrad": 0.03,
    "adagrad-norm": 1.0,
    "adagrad-momentum": 0.003,
    "rmsprop": 0.003,
    "adam": 0.003,
    "sign-sgd": 0.001,
}
SGD_GUESS = {"sgd": 1.0, "sgd-clip": 1.0, "sgd-momentum": 0.1}
"""In units of 1/lambda; momentum 0.9 makes steps ten times as long."""
OWN_GUESS = 0.003
"""For an optimizer of the user's, most of which divide by the gradient's size."""
FURTHEST = 32
"""No first guess lies further than eight decades from 1."""


def rate_of(k: int) -> float:
    """10^(k/4)."""
    return float(10 ** (k / 4))


def first_guess(method: str, settings: RaceSettings) -> int:
    """The k around which a method's grid starts, even.

    SGD and its kin: 1/lambda, half the largest rate that is stable on a quadratic. The other methods divide by the
    gradient's size, so constants do: about the middle of the best rates of logistic and softmax regression on tabular
    data and digits, and of the MLP, the CNN and the language model that go by a name.
    """
    guesses = LINEAR_GUESS if settings.every_rate else NETWORK_GUESS
    if method in SGD_GUESS:
        known = settings.sharpness
        # The logarithm of 1/lambda would be that of infinity where lambda is below 1e-308.
        guess = math.log10(SGD_GUESS[method]) + (-math.log10(known) if known else math.log10(guesses["adagrad"]))
    else:
        guess = math.log10(guesses.get(method, OWN_GUESS))
    return max(-FURTHEST, min(FURTHEST, 2 * round(2 * guess)))


def expected_runs(settings: RaceSettings, orders: int) -> int:
    """Runs of one method on so many orders if the best rate lies inside its first grid."""
    if settings.learning_rates is not None:
        return len(set(settings.learning_rates)) * orders
    if settings.every_rate:
        return (2 * AROUND[True] + 1) * orders
    return AROUND[False] + 1 + 3 * (orders - 1)


def first_runs(settings: RaceSettings) -> int:
    """Runs of all methods on the orders of the first block if the best rates lie inside their first grids."""
    return sum(expected_runs(settings, settings.first_orders(method)) for method in settings.optimizers)


def neighbours(rate: float, settings: RaceSettings, method: str) -> list[float]:
    """The rates that must have been tried beside a best one: the next on each side of its grid, which for a
    deterministic method is of quarter decades; on a fixed list those that it has."""
    if settings.learning_rates is not None:
        rates = sorted(set(settings.learning_rates))
        place = rates.index(rate)
        return [rates[k] for k in (place - 1, place + 1) if 0 <= k < len(rates)]
    stride = 1 if settings.every_rate or settings.deterministic(method) else 2
    k = round(4 * math.log10(rate))
    return [rate_of(k - stride), rate_of(k + stride)]


def tune(method: str, settings: RaceSettings, orders: int) -> Tuning:
    """Asks for the runs of one method on the first orders, decides on their legs, and returns all of them by rate and
    seed.

    With a fixed list every rate has every seed. ``every_rate``: quarter decades with every seed, on a grid that
    grows until the best of the mean final loss is not at its end. Otherwise: half decades on the first seed, on a
    grid that grows in the same way; then the best and one neighbour on each side with all seeds; where the best of
    their means is an end of the grid, the grid grows on with all seeds.
    """
    seeds = range(orders)
    if settings.learning_rates is not None:
        rates = sorted(set(settings.learning_rates))
        return list((yield [(rate, seed) for rate in rates for seed in seeds]))

    legs: dict[int, dict[int, Leg]] = {}

    def run(exponents: Iterable[int], on: Sequence[int]) -> Generator[list[Run], Sequence[Leg], None]:
        wanted = [(k, seed) for k in exponents for seed in on if seed not in legs.get(k, {})]
        if not wanted:
            return
        done = yield [(rate_of(k), seed) for k, seed in wanted]
        for (k, seed), leg in zip(wanted, done, strict=True):
            legs.setdefault(k, {})[seed] = leg

    def means(count: int) -> tuple[dict[int, float], float]:
        return mean_finals({k: list(legs[k].values()) for k in sorted(legs) if len(legs[k]) == count})

    def judged() -> list[int]:
        """Exponents whose mean over seeds is known: run with all seeds, or infinite on one."""
        return [k for k, runs in legs.items() if len(runs) == len(seeds) or any(map(math.isinf, finals(runs)))]

    def further(count: int, grid: Iterable[int]) -> list[int]:
        average, level = means(count)
        return beyond(average, grid, stride, level)

    def finals(runs: Mapping[int, Leg]) -> list[float]:
        return [leg.final for leg in runs.values()]

    stride = 1 if settings.every_rate else 2
    first = seeds if settings.every_rate else seeds[:1]
    middle = first_guess(method, settings)
    around = AROUND[settings.every_rate]
    yield from run(range(middle - around, middle + around + 1, stride), first)
    left = GROWTHS
    while left and (more := further(len(first), legs)):
        yield from run(more, first)
        left -= 1
    best = best_rate(*means(len(first)))
    if len(first) < len(seeds) and best is not None:
        alone, _ = means(1)
        yield from run(
            [k for k in (best - stride, best, best + stride) if math.isfinite(alone.get(k, math.inf))], seeds
        )
        # The mean over seeds may prefer a neighbour, and that may be the end of the grid.
        while left and (more := further(len(seeds), judged())):
            yield from run(more, seeds)
            left -= 1
    return [legs[k][seed] for k in sorted(legs) for seed in sorted(legs[k])]


def beyond(finals: Mapping[int, float], grid: Iterable[int], stride: int, level: float = 0.0) -> list[int]:
    """The exponents to try next: none where the best is inside the grid, lower ones where no final loss is finite.

    Args:
        finals: exponent -> mean final loss of those that are judged.
        grid: all exponents that were tried.
        stride: 1 for quarter decades, 2 for half decades.
        level: how far from the lowest final loss another one is equal to it.
    """
    best, tried = best_rate(finals, level), sorted(grid)
    if best is None:
        return [min(finals) - step for step in range(stride, GROWTH + 1, stride)]
    if best == tried[0]:
        return [best - step for step in range(stride, GROWTH + 1, stride)]
    if best == tried[-1]:
        return [best + step for step in range(stride, GROWTH + 1, stride)]
    return []
