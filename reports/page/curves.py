"""Rows of runs.csv as curves: each method at its best rate over the orders that this rate ran with, and the final loss
of each rate. A seed of runs.csv is an order of the batches; rates that were given up early have fewer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.words.numbers import number
from reports.words.sentences import method_name

Array = NDArray[np.float64]
Seeds = dict[int, dict[int, Mapping[str, Any]]]
"""seed -> step -> row"""


@dataclass(frozen=True)
class Curve:
    """One method at one learning rate: ``values`` has one row for each seed and one column for each step."""

    method: str
    learning_rate: float
    steps: Array
    values: Array

    @property
    def mean(self) -> Array:
        """Mean over the seeds at each step."""
        mean: Array = self.values.mean(axis=0)
        return mean


@dataclass(frozen=True)
class Rate:
    """The final loss of one method at one learning rate, mean over its seeds; None where a run diverged."""

    learning_rate: float
    final_loss: float | None
    seeds: int
    diverged: int


def runs_by_rate(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, Seeds]]:
    """method -> learning rate -> seed -> step -> row, rates in ascending order."""
    table: dict[str, dict[float, Seeds]] = {}
    for row in runs:
        by_seed = table.setdefault(row["method"], {}).setdefault(float(row["learning_rate"]), {})
        by_seed.setdefault(int(row["seed"]), {})[int(row["step"])] = row
    return {method: dict(sorted(rates.items())) for method, rates in table.items()}


def curve(table: Mapping[str, Mapping[float, Seeds]], method: str, learning_rate: float, key: str) -> Curve | None:
    """``key`` (loss, gradient_l1, gradient_l2) at the steps where every seed has a finite value; None without one."""
    rates = table.get(method, {})
    near = [rate for rate in rates if math.isclose(rate, learning_rate, rel_tol=1e-6)]
    if not near:
        return None
    seeds = rates[near[0]]
    steps = sorted(
        set.intersection(*({s for s, row in one.items() if _finite(row.get(key))} for one in seeds.values()))
    )
    if not any(steps):  # nothing, or the start alone
        return None
    values = [[float(seeds[seed][step][key]) for step in steps] for seed in sorted(seeds)]
    return Curve(method, near[0], np.asarray(steps, dtype=float), np.asarray(values))


def best_curves(
    runs: Sequence[Mapping[str, Any]], methods: Mapping[str, Mapping[str, Any]] | None, key: str = "loss"
) -> tuple[Curve, ...]:
    """The curve of each method at its tuned rate, adagrad and sgd first."""
    table = runs_by_rate(runs)
    found = []
    for method in in_order(methods or {}):
        rate = (methods or {})[method].get("learning_rate")
        made = None if rate is None else curve(table, method, float(rate), key)
        if made is not None:
            found.append(made)
    return tuple(found)


def orders(curves: Sequence[Curve]) -> str:
    """How the lines of a figure are to be read: over how many orders of the batches each is a mean."""
    counts = {one.method: int(one.values.shape[0]) for one in curves}
    usual = max(set(counts.values()), key=lambda count: (sum(c == count for c in counts.values()), count))
    if set(counts.values()) == {1}:
        return "Each line is one run."
    odd = [f"{method_name(m)} {number(count)}" for m, count in counts.items() if count != usual]
    besides = f" ({', '.join(odd)})" if odd else ""
    plural = "" if usual == 1 else "s"
    return (
        f"Lines are means over {number(usual)} order{plural} of the batches{besides}, bands from the lowest to the "
        "highest."
    )


def wide(curves: Sequence[Curve], least: float) -> bool:
    """Whether all losses are positive and span a factor of ``least``, so that a logarithmic axis shows more."""
    values = np.concatenate([one.values.ravel() for one in curves])
    return bool(values.min() > 0 and values.max() / values.min() > least)


def in_order(methods: Mapping[str, Any]) -> list[str]:
    """adagrad, sgd, then the others as they come."""
    return sorted(methods, key=lambda m: {"adagrad": 0, "sgd": 1}.get(m, 2))


def tuning(runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Rate, ...]]:
    """The final loss of each method at each rate that ran."""
    table = runs_by_rate(runs)
    return {method: tuple(_rate(rate, seeds) for rate, seeds in table[method].items()) for method in in_order(table)}


def _rate(learning_rate: float, seeds: Seeds) -> Rate:
    lasts = [one[max(one)] for one in seeds.values()]
    diverged = sum(bool(row.get("diverged")) or not _finite(row.get("loss")) for row in lasts)
    final = None if diverged else float(np.mean([float(row["loss"]) for row in lasts]))
    return Rate(learning_rate, final, len(lasts), diverged)


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))
