"""What the elements of a run take on this machine: seconds of a pass, a product, a training step, an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

import estimators
from diagnose.stages.bench import Bench
from diagnose.stages.estimate import Pace
from diagnose.training.processes import processes
from diagnose.training.running import Course, gradient_steps, look, run_alone, threads
from diagnose.training.runs import Contender, RaceSettings, evaluation_steps
from diagnose.training.stacking import grouped, run_stack
from estimators.numbers.vectors import random_start
from estimators.smoothness_vector.at_a_point import DENSE_GAP
from estimators.smoothness_vector.formed import dense_bracket
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian, forming_passes, hessian

Clock = Callable[[], float]
ENOUGH = 0.1
"""Seconds after which an element is not timed once more ..."""
REPEATS = 5
"""... and how often it is at most."""
LARGE, FEWEST = 1 << 30, 2
"""Above so many numbers in the gradients of all samples sums over samples are timed on the fewest."""
SAMPLED = 8
"""Samples, at least, on which the gradients of single samples are timed."""
PROBES = 16
"""Products of the diagonal that is timed where they are fast."""
FORMING = 3.0
"""Seconds that forming H may take here; else d products are what it takes."""
FORMED_BRACKET = 300
"""Up to this many coordinates the bracket of a formed H is timed on one; above, its time grows as d^3 from there."""
STILL = 1e-9
"""A learning rate at which a run stays where it is, so that no run that is timed ends early."""
SHORT, LONG = 4, 24
"""Steps of the runs that are timed where a step takes milliseconds."""
FEW = 12
"""Runs of a small stack."""
STACK, SMALL_STACK = (9, 2), (3, 1)
"""Rates and orders of each method that are timed together, with ``every_rate`` and without."""
LONGEST = 5.0
"""Seconds of a product from which on no second one is timed."""
SHARED = 0.85
"""Of each process that trains, where several do: they wait for memory, and for the last one of what is run together."""
SLOW = 0.2
"""Seconds of a pass or a product above which all is arithmetic: steps and evaluations follow from a pass."""


def pace_of(bench: Bench, settings: RaceSettings | None, clock: Clock = time.perf_counter) -> Pace:
    """Time the elements; passes that this takes are not counted as the run's.

    Args:
        bench: what the stages work on.
        settings: of the race; None where none is run.
        clock: seconds.
    """
    problem, curvature = bench.problem, bench.curvature
    parts = [part for part in (problem, curvature, bench.trained, bench.held_out) if part is not None]
    before = [part.passes.total for part in parts]
    gradient, few = _gradient(problem, clock)
    product = graph = bracket = 0.0
    if curvature.curvature_fault is None:
        part = curvature if few == problem.n else curvature.subset(torch.arange(min(few, curvature.n)))
        product, graph, bracket = _curvature(part, gradient * part.n / problem.n, clock)
        product, graph = product * curvature.n / part.n, graph * curvature.n / part.n
    race = {} if settings is None else _training(bench, settings, gradient, clock)
    noise = _noise(bench, few, clock)
    found = Pace(gradient=gradient, noise=noise, product=product, graph=graph, bracket=bracket, **race)
    for part, passes in zip(parts, before, strict=True):
        part.passes.total = passes
    return found


def _gradient(problem: Problem, clock: Clock) -> tuple[float, int]:
    """Seconds of a pass, and on how many samples the other sums over samples are timed: few where it takes long."""
    if problem.d * problem.n > LARGE:
        few = problem.subset(torch.arange(min(FEWEST, problem.n)))
        return _seconds(few.gradient, clock) * problem.n / few.n, few.n
    return _seconds(problem.gradient, clock), problem.n


def _seconds(call: Callable[[], object], clock: Clock) -> float:
    """The median of some calls, the first of which, where another follows, does not count: it fills caches."""
    taken: list[float] = []
    while len(taken) <= REPEATS and (len(taken) < 1 or sum(taken) < ENOUGH):
        began = clock()
        call()
        taken.append(clock() - began)
    counted = sorted(taken[1:] or taken)
    return counted[len(counted) // 2]


def _noise(bench: Bench, most: int, clock: Clock) -> float:
    """From some of the samples, and from half of them: what does not grow with their number is paid once."""
    problem = bench.problem
    few = min(most, max(SAMPLED, problem.n // SAMPLED)) if problem.d * problem.n > 1 << 20 else problem.n

    def taken(count: int) -> float:
        part = problem.subset(torch.arange(count))
        return _seconds(lambda: estimators.noise(part, rows=bench.opened.rows), clock)

    if few == problem.n or few < 2:
        return taken(few) * problem.n / few
    half = taken(few // 2)
    whole = taken(few)
    return whole + max(whole - half, 0.0) / (few - few // 2) * (problem.n - few)


def _curvature(problem: Problem, gradient: float, clock: Clock) -> tuple[float, float, float]:
    """Seconds of a product, of the graph, and of the bracket of a formed H.

    A Hessian that is formed for it stays with the problem: it is the one that the run works on.

    Args:
        gradient: seconds of a pass over the same samples.
    """
    like = next(iter(problem.parameters.values()))
    block = random_start(problem.d, torch.Generator().manual_seed(0), like)[:, None]
    began = clock()
    with hessian(problem) as product:
        product(block)
        whole = clock() - began
        # The first one also fills caches.
        each = whole - gradient if whole > LONGEST else _seconds(lambda: product(block), clock)
    each, graph = max(each, whole / 2) if whole <= SLOW else each, max(min(whole - each, gradient), 0.0)
    if not problem.forms_hessian:
        if each < SLOW / PROBES:  # what is done with a product's result takes as long as the product
            each = max(each, _seconds(lambda: estimators.hessian_diagonal(problem, probes=PROBES), clock) / PROBES)
        return each, graph, 0.0
    forming = each * forming_passes(problem) / 2
    if forming < FORMING:
        began = clock()
        dense_hessian(problem)
        forming = clock() - began
    each = forming / problem.d
    return each, graph, _formed_bracket(problem, clock)


def _formed_bracket(problem: Problem, clock: Clock) -> float:
    """Of H where it is formed, and of a corner of it where that is large."""
    if problem.d > FORMED_BRACKET or problem.d * problem.n > FORMED_BRACKET << 12:
        matrix = torch.eye(min(problem.d, FORMED_BRACKET), dtype=torch.float64)
        matrix += 0.5 / len(matrix)
    else:
        matrix = dense_hessian(problem)
    generator = torch.Generator().manual_seed(0)
    return _seconds(lambda: dense_bracket(matrix, generator, DENSE_GAP), clock) * (problem.d / len(matrix)) ** 3


def _training(bench: Bench, settings: RaceSettings, gradient: float, clock: Clock) -> dict[str, float]:
    """The part of the pace that the race needs."""
    problem, held_out = bench.problem, bench.held_out
    looks = len(evaluation_steps(settings.steps, settings.evaluations)) - 1
    share = len(gradient_steps(settings, problem.d, problem.n)) / looks
    if gradient > SLOW:
        step = gradient * min(settings.batch_size, settings.rows) / problem.n
        evaluation = gradient * (1 + 2 * share) / 3
        ending = gradient / 3 * (2 + (0 if held_out is None else held_out.n / problem.n))
        return {"step": step, "evaluation": evaluation, "ending": ending, "alone": step}
    runs = _wave(bench.trained, settings)
    at_once = processes(bench.trained, settings)
    with threads(bench.trained, settings, at_once):
        start = look(problem, problem.parameters)
    course = Course(problem, settings, start, held_out, bench.trained, at_once, frozenset())

    def taken(group: Sequence[Contender], steps: int, evaluations: int) -> float:
        brief = replace(course, settings=replace(settings, steps=steps, evaluations=evaluations))

        def train() -> None:
            if len(group) > 1:
                run_stack(brief, group, lambda _: None)
            else:
                run_alone(brief, group[0], lambda _: None)

        return _seconds(train, clock)

    def step_of(group: Sequence[Contender], brief: float) -> float:
        return max(taken(group, LONG, 1) - brief, 0.0) / (LONG - SHORT)

    taken(runs[:2], 1, 1)  # what the first run of all pays once
    brief = taken(runs, SHORT, 1)
    together = step_of(runs, brief)
    looked = max(taken(runs, SHORT, SHORT) - brief, 0.0) / (len(evaluation_steps(SHORT, SHORT)) - 2)
    ending = max(brief - SHORT * together - looked, 0.0)
    looked *= 1 + 2 * share
    count = len(runs) if len(runs) > 1 else max(1.0, SHARED * at_once)
    step, wave, alone = together / count, 0.0, together
    if len(runs) > 1:
        alone = step_of(runs[:1], taken(runs[:1], SHORT, 1))
    if len(runs) > 2 * FEW:
        some = runs[:: len(runs) // FEW]
        small = step_of(some, taken(some, SHORT, 1))
        step = max(together - small, 0.0) / (len(runs) - len(some))
        wave = max(together - len(runs) * step, 0.0)
    return {"step": step, "wave": wave, "evaluation": looked / count, "ending": ending / count, "alone": alone}


def _wave(problem: Problem, settings: RaceSettings) -> list[Contender]:
    """Runs about as many as the race trains at once, one where they train alone."""
    rates, orders = STACK if settings.every_rate else SMALL_STACK
    runs = [
        Contender(method, STILL * (1 + rate), order)
        for method in settings.optimizers
        for rate in range(rates)
        for order in range(1 if settings.full_batch else orders)
        if method not in settings.own
    ]
    groups = grouped(problem, settings, runs or [Contender(settings.optimizers[0], STILL, 0)])
    return groups[0] if settings.stacked else groups[0][:1]
