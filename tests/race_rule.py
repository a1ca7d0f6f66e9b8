"""The rule of the race written out once more, in loops, from the rows of runs.csv alone: the oracle of its tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Rows = Sequence[Mapping[str, Any]]


class Rule(NamedTuple):
    """Target; steps and rate of the other method and of AdaGrad."""

    target: float
    steps: tuple[float, float]
    rates: tuple[float, float]

    @property
    def log_speedup(self) -> float:
        return math.log(self.steps[0] / self.steps[1])


def rule(
    rows: Rows, other: str = "sgd", orders: Sequence[int] | None = None, resolution: float = 0.0, smooth: bool = True
) -> Rule:
    """What the rule says on these orders, all that every surviving rate has unless said.

    The rates of a method are those that have as many orders as its most-run one, without a diverged run. ``smooth``:
    not where a batch is all rows.
    """
    tables = [_table(rows, method) for method in (other, "adagrad")]
    if orders is None:
        orders = range(min(max(len(runs) for runs in table.values()) for table in tables))
    curves = [_curves(table, orders, smooth) for table in tables]
    start = next(iter(curves[1].values()))[0][1]
    ends = [min(curve[-1][1] for curve in one.values()) for one in curves]
    target = max(max(ends) + resolution, min(ends) + 0.01 * (start - min(ends)))
    met = [min((_crossing(curve, target), rate) for rate, curve in one.items()) for one in curves]
    return Rule(target, (met[0][0], met[1][0]), (met[0][1], met[1][1]))


def standard_error(rows: Rows, orders: int, other: str = "sgd", resolution: float = 0.0) -> float:
    """From every half of an even number of orders."""
    whole = rule(rows, other, range(orders), resolution).log_speedup
    chosen = itertools.combinations(range(orders), orders // 2)
    away = [rule(rows, other, half, resolution).log_speedup - whole for half in chosen]
    return math.sqrt(sum(one**2 for one in away) / len(away))


def _table(rows: Rows, method: str) -> dict[float, dict[int, list[tuple[float, float]]]]:
    """rate -> order -> (step, loss) of a method's runs; rates with a diverged run are left out."""
    table: dict[float, dict[int, list[tuple[float, float]]]] = {}
    diverged = set()
    for row in rows:
        if row["method"] == method:
            run = table.setdefault(row["learning_rate"], {}).setdefault(row["seed"], [])
            run.append((row["step"], math.nan if row["loss"] is None else row["loss"]))
            if row["diverged"]:
                diverged.add(row["learning_rate"])
    calm = {rate: runs for rate, runs in table.items() if rate not in diverged}
    most = max(map(len, calm.values()))
    return {rate: runs for rate, runs in calm.items() if len(runs) == most}


def _curves(
    table: Mapping[float, Mapping[int, Sequence[tuple[float, float]]]], orders: Sequence[int], smooth: bool
) -> dict[float, list[tuple[float, float]]]:
    """rate -> (log step, loss) of the mean, smoothed; rates that rise above ten times the start are left out where
    another one falls below it."""
    found, wild = {}, set()
    for rate, runs in table.items():
        steps = [step for step, _ in runs[0]]
        every = [float(np.mean([run[k][1] for run in runs.values()])) for k in range(len(steps))]
        if max(every) > 10 * every[0]:
            wild.add(rate)
        means = [float(np.mean([runs[order][k][1] for order in orders])) for k in range(len(steps))]
        found[rate] = (
            _line(means, steps) if smooth else [(math.log(max(t, 0.5)), c) for t, c in zip(steps, means, strict=True)]
        )
    calm = {rate: curve for rate, curve in found.items() if rate not in wild}
    return calm if any(curve[-1][1] < curve[0][1] for curve in calm.values()) else found


def _line(losses: Sequence[float], steps: Sequence[float]) -> list[tuple[float, float]]:
    """Each loss but the first by a line in logarithms through its neighbours, within the range of these."""
    x = [math.log(step) if step else math.log(0.5) for step in steps]
    losses = [max(loss, 2**-23 * losses[0]) for loss in losses]  # what float32 tells from 0 beside the start
    last = min(10, len(x) - 2)
    reach = math.floor(0.5 / ((x[-1] - x[-1 - last]) / last)) if last > 0 else 0
    width = min(max(5, 1 + 2 * reach), len(x) - 1)
    made = [(x[0], losses[0])]
    for k in range(1, len(x)):
        first = min(max(1, k - width // 2), len(x) - width)
        near = range(first, first + width)
        if width < 3:
            made.append((x[k], losses[k]))
            continue
        line = np.polynomial.Polynomial.fit([x[i] for i in near], [math.log(losses[i]) for i in near], 1)
        value = math.exp(line(x[k]))
        made.append((x[k], min(max(value, min(losses[i] for i in near)), max(losses[i] for i in near))))
    return made


def _crossing(curve: Sequence[tuple[float, float]], target: float) -> float:
    """The first step at which the curve meets the target, linear in the logarithm of the step."""
    for (x0, above), (x1, below) in itertools.pairwise(curve):
        if below <= target:
            return math.exp(x0 + (x1 - x0) * (above - target) / (above - below))
    return math.inf
