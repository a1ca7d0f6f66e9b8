"""What a race leaves behind: its settings and one leg for each run. Needs no torch.

A leg is one method at one learning rate with one order of batches. Everything that is decided or reported about
a race is computed from its legs, so a race that goes on from stored legs ends in the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from diagnose.settings import Schedule
from diagnose.training.resolution import resolution
from estimators.results import Interval
from reports.record.diagnosis import RUN_COLUMNS, Answer

DecidedBy = Literal["interval", "budget", "orders"]
Rate = TypeVar("Rate", int, float)
"""A learning rate, or the exponent of one."""


LOOKS = (4, 8, 16, 32, 64)
"""Orders of the batches after which the race is looked at; the last where runs are stacked, and cost next to
nothing."""


class Contender(NamedTuple):
    """A run that is to be made."""

    method: str
    learning_rate: float
    seed: int

    def key(self, course: str) -> str:
        """The name under which a store keeps its leg; a run of another course is another one."""
        return f"{self.method} {self.learning_rate!r} {self.seed} {course}"


@dataclass(frozen=True, kw_only=True)
class RaceSettings:
    """How to race.

    Attributes:
        steps: of every run.
        batch_size: rows of a step; all that runs train on where there are no more than that.
        rows: that runs train on.
        seeds: orders of batches that every method is judged on; with ``auto`` it is not used.
        auto: the first of LOOKS orders for every method, then more for SGD, AdaGrad and the best other until the answer
            is decided.
        limited: whether a budget made the orders fewer: a race that has run them all has spent it.
        samples: that losses are measured on.
        seed: what the orders follow.
        evaluations: steps at which the loss of the whole sample set is taken, besides step 0.
        optimizers: names of update_rules.RULES.
        learning_rates: a fixed list for all methods, or None for a grid that grows.
        every_rate: quarter decades, every rate with all orders of the first block (linear models); otherwise half
            decades on the first order, then the best and its neighbours with the others.
        stacked: train the runs of all methods at once, else one after another.
        sharpness: max|eig H| at the start, the first guess for SGD; None where it is not known.
        schedule: the rate of step t = 1, 2, ... is the learning rate itself, or it over sqrt(t).
        box: the iterates stay within this distance of the start in every coordinate; None: anywhere.
        own: optimizers of the user's by name: (list of parameters, lr=rate) -> torch.optim.Optimizer.
    """

    steps: int
    batch_size: int
    rows: int
    seeds: int
    seed: int
    evaluations: int
    optimizers: tuple[str, ...]
    auto: bool = False
    limited: bool = False
    samples: int = 0
    learning_rates: tuple[float, ...] | None = None
    every_rate: bool = False
    stacked: bool = False
    sharpness: float | None = None
    schedule: Schedule = "constant"
    box: float | None = None
    own: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many orders there are after each block: runs of a block are trained together, and more orders are more
        blocks."""
        looks = LOOKS if self.stacked else LOOKS[:-1]
        return looks if self.auto else (*(look for look in LOOKS if look < self.seeds), self.seeds)

    @property
    def course(self) -> str:
        """What a run of a method at a rate on an order depends on besides, as far as it may differ in one folder."""
        return f"{self.steps} steps of {self.batch_size} of {self.rows}, {self.evaluations} looks at {self.samples}"

    @property
    def full_batch(self) -> bool:
        """Whether a batch is all rows that there are."""
        return self.batch_size >= self.rows

    def deterministic(self, method: str) -> bool:
        """Whether all orders are the same run: full batches, and no optimizer of the user's, which may draw numbers."""
        return self.full_batch and method not in self.own

    def first_orders(self, method: str) -> int:
        """Orders of the first block; one where all are the same run."""
        return 1 if self.deterministic(method) else self.blocks[0]

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with in a step, 1, 2, ..."""
        return 1 / math.sqrt(step) if self.schedule == "inverse-sqrt" else 1.0


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One run: what was seen at ``steps``, and how far it went.

    A loss that is not finite is None. A diverged run ends at the evaluation where that showed. ``d_inf`` and
    ``d_2`` are the largest distances from the start over every step, in the max and the Euclidean norm; None where
    not finite. ``validation_loss`` and ``validation_accuracy`` are those of the last iterate on held-out samples.
    ``rounding``: how far the last loss moved when every parameter was rounded (``running.rounding``); None where the
    run diverged. ``course``: that of the settings (``RaceSettings.course``).
    """

    method: str
    learning_rate: float
    seed: int
    batch_size: int
    steps: tuple[int, ...]
    losses: tuple[float | None, ...]
    gradient_l1: tuple[float | None, ...]
    gradient_l2: tuple[float | None, ...]
    diverged: bool
    d_inf: float | None
    d_2: float | None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    rounding: float | None = None
    course: str = ""

    @property
    def key(self) -> str:
        """The name under which a store keeps the leg."""
        return Contender(self.method, self.learning_rate, self.seed).key(self.course)

    @property
    def final(self) -> float:
        """Loss of the last iterate; infinite where the run diverged."""
        last = self.losses[-1]
        return math.inf if self.diverged or last is None else last

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))  # numbers, text and tuples of them: nothing that would have to be copied

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Leg:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
        return cls(**values)


class LegStore(Protocol):
    """Where finished legs are kept at once, so that an interrupted race goes on."""

    def get(self, key: str) -> Leg | None: ...

    def put(self, leg: Leg) -> None: ...


class MemoryStore:
    """Legs that last as long as the process."""

    def __init__(self) -> None:
        self.legs: dict[str, Leg] = {}

    def get(self, key: str) -> Leg | None:
        return self.legs.get(key)

    def put(self, leg: Leg) -> None:
        self.legs[leg.key] = leg


@dataclass(frozen=True)
class Look:
    """What SGD and AdaGrad showed after some orders: the speed-up, its interval at the level of that look, the answer.

    ``speedup`` is None where ``why`` says so.
    """

    orders: int
    speedup: float | None
    interval: Interval | None
    answer: Answer
    why: str = ""


@dataclass(frozen=True)
class Race:
    """All legs that were run, in the order of the methods, then of rate and seed.

    ``state_bytes`` is what each method keeps beside parameters and gradient; ``held_out``: whether the last iterates
    were scored on held-out samples; ``orders`` how many orders of the batches each method was judged on; ``looks`` what
    was seen each time the race was looked at, ``decided_by`` what ended it (None where SGD and AdaGrad were not
    compared, or are deterministic).
    """

    settings: RaceSettings
    legs: tuple[Leg, ...]
    state_bytes: Mapping[str, int]
    held_out: bool = False
    orders: Mapping[str, int] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    decided_by: DecidedBy | None = None

    def count(self, method: str) -> int:
        """Orders that the method was judged on."""
        return self.orders.get(method, self.settings.seeds)

    def of(self, method: str) -> tuple[Leg, ...]:
        return tuple(leg for leg in self.legs if leg.method == method)

    def rates(self, method: str) -> list[float]:
        """Every rate that was tried, ascending."""
        return sorted({leg.learning_rate for leg in self.of(method)})

    def at(self, method: str, learning_rate: float) -> tuple[Leg, ...]:
        return tuple(leg for leg in self.of(method) if leg.learning_rate == learning_rate)

    def full(self, method: str) -> dict[float, tuple[Leg, ...]]:
        """The rates that were run with all orders of the method, ascending, each with its legs in their order."""
        return {rate: legs for rate in self.rates(method) if len(legs := self.at(method, rate)) >= self.count(method)}

    def judged(self, method: str) -> list[float]:
        """The rates that had their chance, ascending: run with all orders of the first block, or diverged in one."""
        first = min(self.settings.first_orders(method), self.count(method))
        runs = {rate: self.at(method, rate) for rate in self.rates(method)}
        return [rate for rate, legs in runs.items() if len(legs) >= first or any(leg.diverged for leg in legs)]

    def best(self, method: str) -> tuple[Leg, ...]:
        """The legs at the rate of the lowest mean final loss; empty where every rate diverged in some order."""
        full = self.full(method)
        rate = best_rate(*mean_finals(full))
        return () if rate is None else full[rate]


def mean_finals(legs: Mapping[Rate, Sequence[Leg]]) -> tuple[dict[Rate, float], float]:
    """The mean final loss at each rate, and how far from the lowest of them another one is equal to it."""
    finals = {rate: mean_final(runs) for rate, runs in legs.items()}
    finite = {rate: final for rate, final in finals.items() if math.isfinite(final)}
    if not finite:
        return finals, 0.0
    return finals, resolution(leg.rounding for leg in legs[min(finite, key=lambda rate: finite[rate])])


def mean_final(legs: Sequence[Leg]) -> float:
    """Mean final loss; infinite where one of the runs diverged."""
    return float(np.mean([leg.final for leg in legs]))


def best_rate(finals: Mapping[Rate, float], level: float = 0.0) -> Rate | None:
    """The rate of the lowest final loss, of equal ones that nearest the middle of the grid; None if none is finite.

    Losses that lie within ``level`` of the lowest are equal to it.
    """
    finite = {rate: final for rate, final in finals.items() if math.isfinite(final)}
    if not finite:
        return None
    highest, grid = min(finite.values()) + level, sorted(finals)
    middle = (len(grid) - 1) / 2
    equal = (rate for rate in finite if finite[rate] <= highest)
    return min(equal, key=lambda rate: abs(grid.index(rate) - middle))


def evaluation_steps(steps: int, evaluations: int) -> tuple[int, ...]:
    """Step 0 and at most ``evaluations`` log-spaced steps, the last one included."""
    spaced = np.geomspace(1, steps, evaluations) if evaluations > 1 else np.array([steps])
    return (0, *sorted({round(float(step)) for step in spaced}))


def rows(race: Race) -> list[dict[str, Any]]:
    """The rows of runs.csv: one for each evaluation of each run, with the columns of ``schema.RUN_COLUMNS``."""
    return [
        dict(
            zip(
                RUN_COLUMNS,
                (leg.method, leg.learning_rate, leg.seed, step, loss, l1, l2, leg.diverged),
                strict=True,
            )
        )
        for leg in race.legs
        for step, loss, l1, l2 in zip(leg.steps, leg.losses, leg.gradient_l1, leg.gradient_l2, strict=True)
    ]
