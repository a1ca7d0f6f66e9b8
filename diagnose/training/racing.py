"""The race: every method tuned on the same task, from the same start, with the same batches, until it is decided."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from diagnose.training.entrants import Entrants, passes_of_a_run
from diagnose.training.looks import look
from diagnose.training.pairs import compared
from diagnose.training.processes import processes
from diagnose.training.running import Course, gradient_steps, threads
from diagnose.training.running import look as look_at
from diagnose.training.runs import DecidedBy, Leg, LegStore, Look, Race, RaceSettings
from diagnose.training.tuning import first_runs
from estimators.errors import InputError
from estimators.results import Progress
from estimators.task.problem import Problem
from reports.record.diagnosis import PAIR

Affordable = Callable[[float], bool]
"""Told the passes of the next block of orders; says whether they may be spent."""


def race(
    problem: Problem,
    settings: RaceSettings,
    legs: LegStore,
    progress: Progress | None = None,
    held_out: Problem | None = None,
    trained: Problem | None = None,
    affordable: Affordable | None = None,
) -> Race:
    """Train every method from the problem's point, tune it, and go on until SGD and AdaGrad are told apart.

    All methods are tuned side by side on the orders of the first block: what each wants next is trained together, in
    stacks where ``settings.stacked`` says so (optimizers of the user's always run alone), what runs alone side by side
    in processes. Then the best rates by the
    rule for pairs get the neighbours that they lack, and the next block of orders is run at the rates that may still be
    best, and beside the best: of every method where the number of orders is fixed; with ``settings.auto`` of SGD,
    AdaGrad and the best other, until the answer is decided.

    A finished run is put into ``legs`` at once, and taken from there when it is found. Runs of a stack are taken only
    all together, so that an interrupted race goes on to the same bits. Where a batch is all rows, orders change nothing
    but for an optimizer of the user's, which may draw random numbers: the other methods run once.

    Cost: steps * batch_size / n passes for each run, one for each evaluation (a third where it takes the loss alone,
    ``running.gradient_steps``), two thirds at its end (``running.rounding``) and a forward pass over the ``held_out``
    samples. ``progress`` counts passes over the sample set; its total grows when a grid does, and with each block.

    Args:
        problem: f over the sample set at the start.
        settings: how to race.
        legs: where finished runs are kept.
        progress: told the passes.
        held_out: samples that the last iterates are scored on.
        trained: the rows that batches are drawn from, ``settings.rows`` of them; None: those of the problem.
        affordable: asked before each block but the first; where it says no, the race ends.

    Raises:
        InputError: the loss at the starting point is not finite; an optimizer of the user's cannot be used.
    """
    rows = problem if trained is None else trained
    count, gradients = processes(rows, settings), frozenset(gradient_steps(settings, problem.d, problem.n))
    with threads(rows, settings, count):
        start = look_at(problem, problem.parameters)
    if not math.isfinite(start[0]):
        raise InputError(
            "the loss at the starting point is not finite", type(problem.model).__name__, "scale the data or weights"
        )
    entrants = Entrants(Course(problem, settings, start, held_out, trained, count, gradients), legs, progress)
    entrants.tune()
    looks: list[Look] = []
    decided_by: DecidedBy | None = None
    for orders in settings.blocks:
        if orders > entrants.orders:
            runs = entrants.next_block(orders)
            if affordable is not None and not affordable(len(runs) * passes_of_a_run(settings, problem.d, problem.n)):
                decided_by = "budget"
                break
            entrants.run_block(runs, orders)
        entrants.settle()
        if not settings.auto and orders < settings.blocks[-1]:
            continue
        looks.append(_look(entrants.race))
        if looks[-1].speedup is None or settings.deterministic("sgd"):
            break
        if looks[-1].answer != "undecided":
            decided_by = "interval"
            break
    else:
        decided_by = "budget" if settings.limited else "orders"
    if not looks:
        looks.append(_look(entrants.race))
    entrants.finish()
    return replace(entrants.race, looks=tuple(looks), decided_by=decided_by)


class Unfinished(Exception):
    """A race needs a run that was not made."""


class _Finished:
    """Stored runs alone."""

    def __init__(self, legs: LegStore) -> None:
        self.legs = legs

    def get(self, key: str) -> Leg:
        if (leg := self.legs.get(key)) is None:
            raise Unfinished(key)
        return leg

    def put(self, leg: Leg) -> None:
        raise Unfinished(leg.key)


def finished(
    problem: Problem, settings: RaceSettings, legs: LegStore, trained: Problem | None = None
) -> RaceSettings | None:
    """The largest race all of whose runs are in ``legs``, of a race that was stopped in its first block: on as many
    orders as SGD and AdaGrad have complete, of all methods or of these two; None where no grid of the first order is.

    Cost: an evaluation for each race that is tried.
    """
    pair = tuple(method for method in settings.optimizers if method in PAIR)
    for orders in range(settings.blocks[0], 0, -1):
        for methods in dict.fromkeys((settings.optimizers, pair)):
            smaller = replace(settings, optimizers=methods, seeds=orders, auto=False)
            try:
                race(problem, smaller, _Finished(legs), trained=trained)
            except Unfinished:
                continue
            return smaller
    return None


def _look(race: Race) -> Look:
    found, why = compared(race, "sgd")
    return look(race.settings, found, why, race.count("adagrad"))


def expected_passes(problem: Problem, settings: RaceSettings) -> float:
    """Passes of the first block of a race whose best rates lie inside their first grids."""
    return first_runs(settings) * passes_of_a_run(settings, problem.d, problem.n)
