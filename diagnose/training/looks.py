"""When a race is decided: after some orders of the batches it is looked at, at levels that together spend 5%."""

from __future__ import annotations

import math

from diagnose.answers import answer_of, answer_of_one_run
from diagnose.training.runs import Look, RaceSettings
from diagnose.training.speedup import FEWEST_ORDERS, Comparison
from estimators.numbers.t_intervals import LEVEL
from reports.record.diagnosis import CLEAR, Training
from reports.record.diagnosis import LEVEL as NO_DIFFERENCE

SPENT = {4: (0.005, 0.005, 0.01, 0.03), 5: (0.005, 0.005, 0.005, 0.01, 0.025)}
"""What each of four and of five looks may spend of 5%: the last ones most, since they decide the close races."""
MOST_SEEDS = 256
"""More orders than this are no advice."""


def level(settings: RaceSettings, orders: int) -> float:
    """The level of the interval after so many orders: 95% for a fixed number of them, and where all are one run."""
    blocks = settings.blocks
    if not settings.auto or orders not in blocks:
        return LEVEL
    return 1 - SPENT[len(blocks)][blocks.index(orders)]


def look(settings: RaceSettings, found: Comparison | None, why: str, orders: int) -> Look:
    """What SGD and AdaGrad show after so many orders, or why nothing."""
    if found is None:
        return Look(orders, None, None, "undecided", why)
    if settings.deterministic("sgd"):
        return Look(orders, found.speedup, None, answer_of_one_run(found.speedup), found.no_error)
    interval = found.interval(level(settings, orders))
    return Look(orders, found.speedup, interval, answer_of(found.speedup, interval), found.no_error)


def seeds_that_tell(training: Training) -> int | None:
    """How many orders of the batches would decide the race if the speed-up is as it looks: at least half as many again
    as there were.

    The interval narrows with the root of the number of orders: it is to exclude 1 where the speed-up is clear of it,
    else to lie within LEVEL. None where no number is known, or it is above MOST_SEEDS.
    """
    speedup, interval = training.speedup, training.speedup_interval
    if speedup is None or not training.looks:
        return None
    orders = int(training.looks[-1]["orders"])
    if interval is None:
        return FEWEST_ORDERS if orders < FEWEST_ORDERS else None
    effect, half = abs(math.log(speedup)), math.log(interval[1] / interval[0]) / 2
    room = effect if effect >= math.log(CLEAR) else math.log(NO_DIFFERENCE[1]) - effect
    needed = max(math.ceil(orders * (half / room) ** 2), orders + math.ceil(orders / 2))
    return needed if needed <= MOST_SEEDS else None
