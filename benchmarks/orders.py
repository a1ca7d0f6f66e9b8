"""How far the rule of the race can be trusted: races of 64 orders of the batches, the rule on all of them as the truth.

    python -m benchmarks orders [--tasks "logreg breast-cancer,cnn digits"] [--runs FOLDER]

Subsets of 4, 8 and 16 orders give coverage, half-width and bias of the interval, beside those of the rule that was
there before; random sequences of orders are played until they are decided, as ``--seeds auto`` does. Training takes
about half an hour of one core; its runs stay in the folder, and are not trained again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.made_races import made_race
from benchmarks.race_runs import RACES, Array, Runs, runs_of
from benchmarks.table import RESULTS
from diagnose.answers import answer_of
from diagnose.training.looks import SPENT
from diagnose.training.runs import LOOKS
from diagnose.training.speedup import Comparison, Curves, compare
from reports.record.diagnosis import LEVEL as NO_DIFFERENCE
from reports.record.diagnosis import Answer

NAME = "orders"
SUBSETS = (4, 8, 16)
EVALUATIONS_BEFORE = 41
"""With the start."""
DRAWN, PLAYED = 400, 100
"""Subsets of each size, and sequences."""
Estimate = tuple[float, float]
"""The logarithm of the speed-up, and half the width of its 95% interval."""
Rule = Callable[[Runs, NDArray[np.intp]], Estimate]
Own = Callable[[tuple[Curves, Curves], Comparison, float], float]
"""Half the width of another interval of log S, from the curves, what the rule says and the level."""


@dataclass(frozen=True)
class Coverage:
    """Of the intervals on subsets of one size: the share that holds the truth, the median half-width of log S, and the
    mean of log S less the truth."""

    covers: float
    half: float
    bias: float


@dataclass(frozen=True)
class Stop:
    """How a race that is looked at again and again ended."""

    answer: Answer
    orders: int
    speedup: float
    interval: tuple[float, float]

    def covers(self, truth: float) -> bool:
        return self.interval[0] <= truth <= self.interval[1]

    def contradicts(self, truth: float) -> bool:
        """Whether the answer names the side that the true speed-up is not on, or no difference where there is one."""
        low, high = NO_DIFFERENCE
        right = {"adagrad": truth > 1, "sgd": truth < 1, "no-difference": low <= truth <= high, "undecided": True}
        return not right[self.answer]


def played(
    pair: tuple[Curves, Curves],
    looks: Sequence[int],
    spent: Sequence[float],
    interval: Own | None = None,
) -> Stop:
    """Look after so many of the orders, with intervals of level 1 - spent, until there is an answer.

    After each look the rates go on that were best on all orders or on a half of them, and the neighbours of the best.
    ``interval``: another one, for controls.
    """
    for orders, share in zip(looks, spent, strict=True):
        seen = _first(pair[0], orders), _first(pair[1], orders)
        found = _compared(*seen)
        ends = found.interval(1 - share)
        if interval is not None:
            factor = math.exp(interval(seen, found, 1 - share))
            ends = found.speedup / factor, found.speedup * factor
        if ends is None:
            raise ValueError(f"no interval after {orders} orders: {found.no_error}")
        stop = Stop(answer_of(found.speedup, ends), orders, found.speedup, ends)
        if stop.answer != "undecided":
            break
        pair = _going_on(pair[0], found, 0), _going_on(pair[1], found, 1)
    return stop


def _first(curves: Curves, orders: int) -> Curves:
    return replace(curves, losses=curves.losses[:, :orders])


def _going_on(curves: Curves, found: Comparison, place: int) -> Curves:
    """The rates that may still be best, as ``entrants`` chooses them."""
    best = {found.rates[place], found.lowest_rates[place]}
    at = [int(np.flatnonzero(curves.rates == rate)[0]) for rate in best]
    beside = {k + side for k in at for side in (-1, 0, 1)}
    stay = [k for k, rate in enumerate(curves.rates) if k in beside or rate in found.contenders[place]]
    return replace(curves, rates=curves.rates[stay], losses=curves.losses[stay], resolutions=curves.resolutions[stay])


def _compared(first: Curves, second: Curves) -> Comparison:
    found, why = compare(first, second)
    if found is None:
        raise ValueError(why)
    return found


def rule(runs: Runs, orders: NDArray[np.intp]) -> Estimate:
    """That of the package."""
    found = _compared(*runs.curves(orders))
    if found.error is None:
        raise ValueError(found.no_error)
    return math.log(found.speedup), float(stats.t.ppf(0.975, len(orders) - 1)) * found.error


def rule_before(runs: Runs, orders: NDArray[np.intp]) -> Estimate:
    """The one before: in each order the earliest hit over all rates of the worse of both lowest final losses, linear
    between evaluations, of which there were half as many; the mean of the logarithms with its t interval."""
    first, second = (_thinned(curves) for curves in runs.curves(orders))
    logs = earliest_hits(first, second)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return float(logs.mean()), float(half)


def _thinned(curves: Curves) -> Curves:
    """Every second evaluation, the start and the last among them, where there are more than there used to be."""
    count = len(curves.steps)
    stay = np.arange(count) if count <= EVALUATIONS_BEFORE else np.unique([0, *range(count - 1, 0, -2)])
    return replace(curves, steps=curves.steps[stay], losses=curves.losses[..., stay])


def earliest_hits(first: Curves, second: Curves) -> Array:
    """(orders,): logarithm of the first method's earliest hit over the second's, in each order by itself."""
    told = max(float(one.resolutions[one.losses[..., -1].mean(1).argmin()]) for one in (first, second))
    target = np.maximum(*(one.losses[..., -1].min(0) for one in (first, second))) + told
    hits = []
    for one in (first, second):
        meets = one.losses <= target[:, None]
        after = np.maximum(meets.argmax(-1), 1)
        high, low = (np.take_along_axis(one.losses, k[..., None], -1)[..., 0] for k in (after - 1, after))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (high - target) / (high - low)
        at = one.steps[after - 1] + (one.steps[after] - one.steps[after - 1]) * share
        hits.append(np.where(meets.any(-1), at, np.inf).min(0))
    logs: Array = np.log(hits[0] / hits[1])
    return logs


def truth_of(method: Rule, runs: Runs) -> float:
    """Logarithm of the speed-up on all orders."""
    return method(runs, np.arange(runs.orders))[0]


def coverage(method: Rule, runs: Runs, orders: int, repeats: int = DRAWN) -> Coverage:
    """On random subsets of the orders; the subsets are the same for every rule."""
    random, truth = np.random.default_rng(orders), truth_of(method, runs)
    logs, halves = np.array([method(runs, random.choice(runs.orders, orders, replace=False)) for _ in range(repeats)]).T
    return Coverage(
        float(np.mean(np.abs(logs - truth) <= halves)), float(np.median(halves)), float(logs.mean() - truth)
    )


def replays(runs: Runs, looks: Sequence[int], spent: Sequence[float], repeats: int = PLAYED) -> list[Stop]:
    """Random sequences of the orders, played until they are decided."""
    random = np.random.default_rng(len(looks))
    return [played(runs.curves(random.permutation(runs.orders)[: looks[-1]]), looks, spent) for _ in range(repeats)]


def ties(runs: Runs, looks: Sequence[int], spent: Sequence[float], repeats: int = PLAYED) -> list[Stop]:
    """Exact ties: a method against itself on other orders, SGD and AdaGrad in turn; the true speed-up is 1."""
    random, half = np.random.default_rng(len(looks)), runs.orders // 2
    stops = []
    for number in range(repeats):
        order, place = random.permutation(runs.orders), number % 2
        pair = tuple(runs.curves(part)[place] for part in (order[:half], order[half:]))
        rates = np.intersect1d(pair[0].rates, pair[1].rates)
        first, second = (_at(curves, rates) for curves in pair)
        stops.append(played((first, second), looks, spent))
    return stops


def _at(curves: Curves, rates: Array) -> Curves:
    stay = np.isin(curves.rates, rates)
    return replace(curves, rates=rates, losses=curves.losses[stay], resolutions=curves.resolutions[stay])


def made_stops(
    speedup: float,
    noise: float,
    looks: Sequence[int],
    spent: Sequence[float],
    repeats: int = PLAYED,
    interval: Own | None = None,
    seed: int = 0,
) -> list[Stop]:
    """Made-up races, each of orders of its own."""
    longest = looks[-1]
    race = made_race(speedup, repeats * longest, seed, noise=noise)
    return [
        played(race.curves(slice(at, at + longest)), looks, spent, interval)
        for at in range(0, repeats * longest, longest)
    ]


def coverage_line(name: str, runs: Runs) -> str:
    """A task's row in the first table."""
    cells = [name]
    for method in (rule_before, rule):
        cells.append(f"{math.exp(truth_of(method, runs)):.2f}")
        for orders in SUBSETS:
            found = coverage(method, runs, orders)
            cells.append(f"{found.covers:.2f} / {found.half:.2f} / {found.bias:+.2f}")
    return _row(cells)


def stops_line(name: str, truth: float, stops: Sequence[Stop]) -> str:
    """How sequences ended: a row in the second table."""
    answers = [stop.answer for stop in stops]
    cells = [name, f"{truth:.2f}"]
    cells += [f"{answers.count(answer) / len(stops):.2f}" for answer in ANSWERS]
    cells.append(f"{np.mean([stop.contradicts(truth) for stop in stops]):.2f}")
    cells.append(f"{np.mean([stop.covers(truth) for stop in stops]):.2f}")
    cells.append(f"{np.mean([stop.orders for stop in stops]):.0f}")
    return _row(cells)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


ANSWERS: tuple[Answer, ...] = ("adagrad", "sgd", "no-difference", "undecided")
COVERAGE_HEAD = (
    _row(["task", "S before", *(f"K = {k}" for k in SUBSETS), "S", *(f"K = {k}" for k in SUBSETS)]),
    "|---" * (3 + 2 * len(SUBSETS)) + "|",
)
STOPS_HEAD = (
    _row(["races", "S", *ANSWERS, "contradict", "interval covers", "orders"]),
    "|---" * (5 + len(ANSWERS)) + "|",
)
MADE = ((1.0, 0.2), (1.0, 0.4), (1.3, 0.2), (1.3, 0.4), (2.0, 0.4))
"""True speed-up and noise of the made-up races."""


def tables(folder: Path, names: Sequence[str]) -> str:
    """Both tables, in Markdown."""
    runs = {name: runs_of(name, folder) for name in names}
    four = LOOKS[:-1]
    rows = [*COVERAGE_HEAD, *(coverage_line(name, own) for name, own in runs.items()), "", *STOPS_HEAD]
    for name, own in runs.items():
        truth = math.exp(truth_of(rule, own))
        rows.append(stops_line(name, truth, replays(own, four, SPENT[4])))
    rows += [stops_line(f"{name}, tie", 1.0, ties(own, four, SPENT[4])) for name, own in runs.items()]
    for looks, number in ((four, "four"), (LOOKS, "five")):
        for speedup, noise in MADE:
            stops = made_stops(speedup, noise, looks, SPENT[len(looks)])
            rows.append(stops_line(f"made up, noise {noise}, {number} looks", speedup, stops))
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks orders", description=__doc__)
    parser.add_argument("--tasks", default=",".join(RACES), help="comma-separated; default all")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "diagnose-orders", help="folder")
    asked = parser.parse_args(arguments)
    names = asked.tasks.split(",")
    if unknown := [name for name in names if name not in RACES]:
        parser.error(f"unknown: {', '.join(unknown)}")
    made = tables(asked.runs, names)
    path = RESULTS / "orders.md"
    path.write_text(made, encoding="utf-8")
    print(made)
    print(f"written: {path}")
