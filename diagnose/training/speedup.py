"""How much sooner AdaGrad meets a loss than another method: one rule for every pair, on plain arrays.

The curves of a method are averaged over the orders of the batches and smoothed along the steps. The target is the worse
of the two methods' best final losses, never below a share of the decrease; a method's best rate is the one that meets
it first; the ratio of those two steps is the speed-up. Its interval comes from halves of the orders, with everything
chosen anew in each: a half differs from the whole by as much as the whole does from the truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimators.numbers.t_intervals import LEVEL, quantile
from estimators.results import Interval
from reports.record.diagnosis import CLEAR

Array = NDArray[np.float64]
WIDTH, REACH = 5, 0.5
"""A line is fitted to the evaluations within REACH of each in log t, but to WIDTH of them at least. With 80 evaluations
of 2,000 steps these are 11, and intervals are 15 to 18% narrower than with 5 of 40, at the same coverage (docs)."""
FLOOR = 0.01
"""The target lies at least this share of the decrease above the lower final loss: below it, steps count digits of 0."""
OVERSHOOT = 10.0
"""A rate at which the mean loss exceeds the starting one this many times is no advice."""
HALVES = 200
"""Halves of the orders behind an interval; all of them where there are no more."""
FEWEST_ORDERS = 4
"""Below this many orders no interval is given: a half is to hold two."""
FEW_ORDERS = f"an interval over the orders of the batches needs {FEWEST_ORDERS} orders or more"
SAME = "a batch is all rows, so every order of the batches is the same run"
TARGETS = 10
"""Losses along the decrease at which the speed-up is given, the target included."""


@dataclass(frozen=True)
class Curves:
    """The losses of one method at the rates that came through with every order.

    Attributes:
        steps: (T,) of the evaluations, ascending from 0.
        rates: (R,) ascending.
        losses: (R, K, T), finite, all of one value at step 0.
        resolutions: (R,) losses closer than this are equal at that rate.
        noisy: whether orders differ; one run that stands for all is exact, and is not smoothed.
    """

    steps: Array
    rates: Array
    losses: Array
    resolutions: Array
    noisy: bool = True

    @property
    def orders(self) -> int:
        return int(self.losses.shape[1])

    @property
    def start(self) -> float:
        return float(self.losses[0, 0, 0])


@dataclass(frozen=True)
class AtTarget:
    """A loss on the way, and the logarithm of the speed-up up to there with its standard error over the orders."""

    loss: float
    log_speedup: float
    error: float | None


@dataclass(frozen=True)
class Comparison:
    """What the rule gives for a pair, (another method, AdaGrad).

    ``error`` is the standard error of the logarithm of the speed-up, None below FEWEST_ORDERS or where ``no_error``
    says why. ``contenders``: for each method the rates that end lowest or meet the target first on all orders or on one
    of the halves. ``leads``: in how many orders, at the best rates, a method meets the target first by a factor of
    CLEAR; a run that misses it is last.
    """

    target: float
    floored: bool
    rates: tuple[float, float]
    steps: tuple[float, float]
    lowest_rates: tuple[float, float]
    lowest: tuple[float, float]
    orders: int
    error: float | None
    no_error: str
    by_target: tuple[AtTarget, ...]
    by_order: tuple[float | None, ...]
    leads: tuple[int, int]
    contenders: tuple[frozenset[float], frozenset[float]]

    @property
    def speedup(self) -> float:
        """Steps of the other method over AdaGrad's."""
        return self.steps[0] / self.steps[1]

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Of the speed-up: exp(log S +- t error), t of K - 1 degrees of freedom."""
        return around(self.speedup, self.error, self.orders, level)


def around(speedup: float, error: float | None, orders: int, level: float = LEVEL) -> Interval | None:
    """The t interval of a speed-up whose logarithm has this standard error; None without one."""
    if error is None:
        return None
    half = quantile(orders - 1, level) * error
    return speedup * math.exp(-half), speedup * math.exp(half)


def compare(
    other: Curves, adagrad: Curves, names: tuple[str, str] = ("sgd", "adagrad"), *, targets: bool = False
) -> tuple[Comparison | None, str]:
    """The rule for a pair with the same orders and evaluations, and why there is no answer ("" when there is one).

    Args:
        other: the method that AdaGrad is set against.
        adagrad: AdaGrad's curves.
        names: of both, for the reason.
        targets: whether the speed-up along the decrease is wanted too.
    """
    pair = (other, adagrad)
    start, orders = adagrad.start, adagrad.orders
    weights = np.concatenate([np.full((1, orders), 1 / orders), halves(orders)])
    positive = all(_positive(curves) for curves in pair)
    smooth = [_smoothed(curves, weights, positive) for curves in pair]
    open_ = [_calm(curves, smoothed) for curves, smoothed in zip(pair, smooth, strict=True)]
    finals = [np.where(mask, curves[..., -1], np.inf) for mask, curves in zip(open_, smooth, strict=True)]
    best = [final.min(1) for final in finals]
    ends = [int(final[0].argmin()) for final in finals]
    told = max(float(curves.resolutions[end]) for curves, end in zip(pair, ends, strict=True))
    low = np.minimum(*best)
    floor = low + FLOOR * np.maximum(start - low, 0)
    met = np.maximum(*best) + told
    target = np.maximum(met, floor)
    if not target[0] < start:
        return None, _no_descent(names, [float(one[0]) for one in best], told, start)
    first = [_crossing(c, curves.steps, target, mask) for c, curves, mask in zip(smooth, pair, open_, strict=True)]
    logs = first[0].min(1) - first[1].min(1)
    noisy = other.noisy or adagrad.noisy
    error, missing = _error(logs, orders, bool((target < start).all())) if noisy else (None, SAME)
    places = [int(one[0].argmin()) for one in first]
    alone = _by_order(pair, places, float(target[0]), positive)
    with np.errstate(invalid="ignore"):  # where both miss the target neither is ahead
        ahead = alone[0] - alone[1], alone[1] - alone[0]
    return Comparison(
        target=float(target[0]),
        floored=bool(floor[0] > met[0]),
        rates=_pair(float(curves.rates[place]) for curves, place in zip(pair, places, strict=True)),
        steps=_pair(math.exp(float(one[0].min())) for one in first),
        lowest_rates=_pair(float(curves.rates[end]) for curves, end in zip(pair, ends, strict=True)),
        lowest=_pair(float(one[0]) for one in best),
        orders=orders,
        error=error,
        no_error=missing,
        by_target=_by_target(pair, smooth, open_, target, positive) if targets else (),
        by_order=tuple(math.exp(one) if math.isfinite(one) else None for one in ahead[0]),
        leads=_pair(int((one <= -math.log(CLEAR)).sum()) for one in ahead),
        contenders=_pair(
            frozenset(curves.rates[sorted({*final.argmin(1), *one.argmin(1)})].tolist())
            for curves, final, one in zip(pair, finals, first, strict=True)
        ),
    ), ""


def steps_to(curves: Curves, target: float) -> tuple[float, float] | None:
    """The first step at which a method meets a loss, and the rate that does; None where no rate meets it."""
    weights = np.full((1, curves.orders), 1 / curves.orders)
    smooth = _smoothed(curves, weights, _positive(curves))
    at = _crossing(smooth, curves.steps, np.array([target]), _calm(curves, smooth))[0]
    place = int(at.argmin())
    return (math.exp(float(at[place])), float(curves.rates[place])) if math.isfinite(at[place]) else None


def ends_lowest(curves: Curves, *, calm: bool = False) -> float:
    """The rate of the lowest final loss, of those that are not told apart the nearest to the middle of the grid.

    ``calm``: of the rates that may be best, without those that overshoot.
    """
    weights = np.full((1, curves.orders), 1 / curves.orders)
    smooth = _smoothed(curves, weights, _positive(curves))
    finals = np.where(_calm(curves, smooth) if calm else True, smooth[..., -1], np.inf)[0]
    least = int(finals.argmin())
    equal = np.flatnonzero(finals <= finals[least] + curves.resolutions[least])
    return float(curves.rates[min(equal, key=lambda place: abs(place - (len(finals) - 1) / 2))])


def halves(orders: int) -> Array:
    """Rows of weights that average half of the orders: every half where there are at most HALVES, else a draw of them;
    none below FEWEST_ORDERS."""
    if orders < FEWEST_ORDERS:
        return np.zeros((0, orders))
    size = orders // 2
    if math.comb(orders, size) <= HALVES:
        chosen: Sequence[Any] = list(itertools.combinations(range(orders), size))
    else:
        random = np.random.default_rng(orders)
        chosen = [random.permutation(orders)[:size] for _ in range(HALVES)]
    rows = np.zeros((len(chosen), orders))
    for row, index in zip(rows, chosen, strict=True):
        row[list(index)] = 1 / size
    return rows


def neighbours(steps: Array) -> NDArray[np.intp]:
    """(T, width): the evaluations that each one is smoothed with, itself in the middle; at the ends the first and the
    last ones. The start, evaluation 0, has itself alone, as all have where there are fewer than three others."""
    count, x = len(steps), log_steps(steps)
    width = count - 1
    if width < 3:
        return np.arange(count)[:, None]
    # Evaluations are equally spaced in log t but for rounding to whole steps, which ends towards the end.
    last = min(10, count - 2)
    spacing = float(x[-1] - x[-1 - last]) / last
    width = min(width, max(WIDTH, 1 + 2 * int(REACH / spacing)))
    first = np.clip(np.arange(count) - width // 2, 1, count - width)
    near: NDArray[np.intp] = first[:, None] + np.arange(width)
    near[0] = 0
    return near


def smoother(steps: Array, near: NDArray[np.intp]) -> Array:
    """The matrix (T, T) that replaces each value by that of a straight line in log t through its neighbours, by least
    squares, so linear in the values."""
    x = log_steps(steps)
    matrix = np.zeros((len(x), len(x)))
    for k, index in enumerate(near):
        away = x[index] - x[index].mean()
        tilt = away * (x[k] - x[index].mean()) / max((away**2).sum(), np.finfo(float).tiny)
        np.add.at(matrix[k], index, 1 / len(index) + tilt)
    return matrix


def log_steps(steps: Array) -> Array:
    """Logarithms of steps; the start, step 0, stands at one half."""
    logs: Array = np.log(np.maximum(steps, 0.5))
    return logs


def _smoothed(curves: Curves, weights: Array, positive: bool) -> Array:
    """(H, R, T): the mean curves under each row of weights (H, K), smoothed in log loss where losses are positive.

    A smoothed value stays within its neighbours: where a curve falls and then stands still, a line through both would
    end below all that was measured.
    """
    means: Array = np.einsum("hk,rkt->hrt", weights, curves.losses)
    if not curves.noisy:
        return means
    near = neighbours(curves.steps)
    matrix = smoother(curves.steps, near)
    if positive:
        means = np.maximum(means, float(np.finfo(np.float32).eps) * curves.start)
        smooth = np.exp(np.log(means) @ matrix.T)
    else:
        smooth = means @ matrix.T
    beside = means[..., near]
    kept: Array = np.clip(smooth, beside.min(-1), beside.max(-1))
    kept[..., 0] = curves.start
    return kept


def _positive(curves: Curves) -> bool:
    """Whether losses are read on a logarithmic scale: none is below 0. Those that float32 cannot tell from 0 beside the
    starting loss are one."""
    return curves.start > 0 and bool((curves.losses >= 0).all())


def overshoot_limit(start: float) -> float:
    """The mean loss above which a run that began at ``start`` overshoots."""
    return start + (OVERSHOOT - 1) * abs(start)


def _over(curves: Curves) -> list[bool]:
    """For each rate whether the mean loss exceeds the starting one OVERSHOOT times on the way."""
    over: list[bool] = (curves.losses.mean(1).max(1) > overshoot_limit(curves.start)).tolist()
    return over


def _calm(curves: Curves, smooth: Array) -> NDArray[np.bool_]:
    """(H, R): the rates that may be best: those that never overshoot, or all where none of these descends."""
    calm = np.broadcast_to(~np.array(_over(curves)), smooth.shape[:2])
    descends = (calm & (smooth[..., -1] < curves.start)).any(1, keepdims=True)
    mask: NDArray[np.bool_] = np.where(descends, calm, True)
    return mask


def _crossing(curves: Array, steps: Array, target: Array, mask: NDArray[np.bool_]) -> Array:
    """(H, R): logarithm of the first step at which a curve (H, R, T) meets the target (H,), linear in log t; infinite
    where it never does or the mask forbids the rate."""
    x = log_steps(steps)
    level = target[:, None]
    meets = curves <= level[..., None]
    after = meets.argmax(-1)
    before = np.maximum(after - 1, 0)
    high, low = (np.take_along_axis(curves, k[..., None], -1)[..., 0] for k in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > low, (high - level) / (high - low), 1.0)
    at = x[before] + (x[after] - x[before]) * share
    found: Array = np.where(meets.any(-1) & mask, at, np.inf)
    return found


def _error(logs: Array, orders: int, descends: bool) -> tuple[float | None, str]:
    """Standard error of logs[0] from those of the halves, logs[1:], or why there is none."""
    if orders < FEWEST_ORDERS:
        return None, FEW_ORDERS
    if not descends:
        return None, "on some halves of the orders a method never ends below the starting loss"
    size = orders // 2
    spread = float(np.mean((logs[1:] - logs[0]) ** 2))
    # The mean of m of K values has the variance s² (1/m - 1/K) around that of all: s²/K for halves.
    return math.sqrt(spread * size / (orders - size)), ""


def _by_target(
    pair: Sequence[Curves], smooth: Sequence[Array], open_: Sequence[NDArray[np.bool_]], target: Array, positive: bool
) -> tuple[AtTarget, ...]:
    """The speed-up at losses from the start to the target, equally spaced in their logarithm; in each half between the
    start and its own target."""
    start, orders = pair[1].start, pair[1].orders
    rows = []
    for share in np.arange(1, TARGETS + 1) / TARGETS:
        level = start * (target / start) ** share if positive else start + share * (target - start)
        # The last is the target itself, and rounding must not put it below.
        level = target if share == 1 else level
        at = [_crossing(c, one.steps, level, mask) for c, one, mask in zip(smooth, pair, open_, strict=True)]
        logs = at[0].min(1) - at[1].min(1)
        error, _ = _error(logs, orders, bool((target < start).all()))
        rows.append(AtTarget(float(level[0]), float(logs[0]), error))
    return tuple(rows)


def _by_order(pair: Sequence[Curves], places: Sequence[int], target: float, positive: bool) -> list[Array]:
    """For each method, at its best rate, the logarithm of the step at which each order (K,) meets the target, infinite
    where it never does."""
    weights = np.eye(pair[1].orders)
    level = np.full(pair[1].orders, target)
    at: list[Array] = []
    for curves, place in zip(pair, places, strict=True):
        smooth = _smoothed(curves, weights, positive)[:, [place]]
        at.append(_crossing(smooth, curves.steps, level, np.ones(smooth.shape[:2], dtype=bool))[:, 0])
    return at


def _no_descent(names: tuple[str, str], finals: Sequence[float], told: float, start: float) -> str:
    still = [name for name, final in zip(names, finals, strict=True) if final + told >= start]
    rounded = "" if max(finals) >= start else " by more than rounding"
    return f"{' and '.join(still)} never ended below the starting loss{rounded}"


def _pair(values: Any) -> Any:
    return tuple(values)
