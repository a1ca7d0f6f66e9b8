"""The rule: from a speed-up and its interval to an answer, and how sure that is. Pure; needs neither race nor torch."""

from __future__ import annotations

import math

from estimators.results import Interval
from reports.record.diagnosis import CLEAR, LEVEL, Answer


def answer_of(speedup: float | None, interval: Interval | None) -> Answer:
    """adagrad or sgd when the interval lies on one side of 1 and the estimate is clear of it; no-difference when it
    lies within LEVEL; else undecided."""
    if speedup is None or interval is None:
        return "undecided"
    low, high = interval
    if low > 1 and speedup >= CLEAR:
        return "adagrad"
    if high < 1 and speedup <= 1 / CLEAR:
        return "sgd"
    if LEVEL[0] <= low and high <= LEVEL[1]:
        return "no-difference"
    return "undecided"


def answer_of_one_run(speedup: float | None) -> Answer:
    """The answer where nothing is random (full batches): it follows the number alone."""
    if speedup is None:
        return "undecided"
    return "adagrad" if speedup >= CLEAR else "sgd" if speedup <= 1 / CLEAR else "no-difference"


def confidence(answer: Answer, speedup: float, standard_error: float, orders: int) -> float:
    """Probability by the t distribution with ``orders`` - 1 degrees of freedom of what the answer says.

    For adagrad and sgd that the logarithm of the speed-up has this sign, for no-difference that it lies within LEVEL.

    Args:
        answer: any but undecided.
        speedup: the estimate.
        standard_error: that of its logarithm; 0 where all orders ran alike.
        orders: two or more.
    """
    from scipy.special import stdtr

    low, high = {
        "adagrad": (0.0, math.inf),
        "sgd": (-math.inf, 0.0),
        "no-difference": (math.log(LEVEL[0]), math.log(LEVEL[1])),
    }[answer]
    center = math.log(speedup)
    if not standard_error:
        return float(low <= center <= high)
    below, above = (float(stdtr(orders - 1, (end - center) / standard_error)) for end in (low, high))
    return above - below
