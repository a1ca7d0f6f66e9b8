"""Who is ahead at which loss: the speed-up along the decrease, beside the one up to the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports.record.diagnosis import Answer, Training
from reports.words.numbers import number
from reports.words.sentences import method_name

WINNERS: tuple[Answer, Answer] = ("sgd", "adagrad")
PERFECT = 0.01
"""The share of the starting loss below which nothing is left to fit."""


def turning(answer: Answer, training: Training) -> str | None:
    """From which loss on each is ahead, where in the last half of the decrease (in log loss) the other method is told
    to be ahead; None where it isn't, or where the answer names no method."""
    start, target = training.initial_loss, training.target_loss
    if answer not in WINNERS or start is None or target is None:
        return None
    half = math.sqrt(start * target) if start > 0 and target > 0 else (start + target) / 2
    rows = sorted(training.speedup_by_target or (), key=lambda row: -row["loss"])
    ahead = [_ahead(row) for row in rows]
    other = WINNERS[answer == WINNERS[0]]
    turned = [place for place, one in enumerate(ahead) if one == other]
    if not turned or rows[turned[-1]]["loss"] >= half:
        return None
    last = turned[-1]
    names = method_name(other), method_name(answer)
    if answer in ahead[:last]:
        first = max(place for place, one in enumerate(ahead[:last]) if one == answer) + 1
        between = f"losses of {_loss(rows[first])} and {_loss(rows[last])}"
        return f"Between {between} {names[0]} is ahead, {names[1]} before and after."
    return f"{names[0]} is ahead down to a loss of {_loss(rows[last])}, {names[1]} from there on."


def _ahead(row: Mapping[str, Any]) -> Answer | None:
    """The method whose lead the interval shows; None where it holds 1, or there is none."""
    ends: Sequence[float] | None = row.get("interval")
    if ends is None or ends[0] <= 1 <= ends[1]:
        return None
    return "adagrad" if ends[0] > 1 else "sgd"


def _loss(row: Mapping[str, Any]) -> str:
    return number(float(row["loss"]), 2)


def race_is_over(training: Training) -> str | None:
    """Said where the target was raised, since both methods end within 1% of the decrease of each other."""
    if not training.target_floored or training.target_loss is None:
        return None
    finals = [entry.get("lowest_loss") or entry.get("final_loss") for entry in _pair(training)]
    reached = min((final for final in finals if final is not None), default=math.inf)
    over = f"the race is over at a loss of {number(training.target_loss)}"
    if training.initial_loss is not None and 0 <= reached < PERFECT * training.initial_loss:
        return f"Both fit these data perfectly; {over}."
    return f"Both converge to the same loss to within 1% of the decrease; {over}."


def _pair(training: Training) -> list[Mapping[str, Any]]:
    return [(training.methods or {}).get(method) or {} for method in WINNERS]
