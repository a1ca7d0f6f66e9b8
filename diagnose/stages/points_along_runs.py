"""Where curvature is measured along the race: points of runs and, for small problems, on a sphere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from diagnose.limits import POINTS
from diagnose.settings import LARGE_NETWORK
from diagnose.training import RaceSettings
from diagnose.training.running import Visited, loss_limit
from diagnose.training.runs import Contender
from diagnose.training.stacking import replays
from diagnose.training.update_rules import State
from estimators.growth.sphere_points import sphere
from estimators.task.problem import Problem
from reports.record.diagnosis import PAIR
from reports.words.numbers import number, rate

SMALL, MORE = 300, 8
"""Up to SMALL parameters, where a bracket takes a fraction of a second, so many points along each of six runs."""
SLOWER = 10**-0.5
"""The second run of a method has this share of its best learning rate ..."""
LARGER = 4
"""... and the third this many times the batch, or where a batch is the whole set already this part of it."""
SPHERE = "sphere"


@dataclass(frozen=True)
class Place:
    """A point: the curvature samples there, and for a point of a run the state of its rule (for adagrad v).

    ``group`` says in words where it comes from; ``best`` whether the run is the best of its method.
    """

    method: str
    step: int
    problem: Problem
    state: State = field(default_factory=dict)
    group: str = SPHERE
    best: bool = False


def places(
    problem: Problem,
    trained: Problem,
    curvature: Problem,
    settings: RaceSettings,
    methods: Mapping[str, Mapping[str, Any]],
    seed: int,
    points: int = POINTS,
) -> list[Place]:
    """Points of the best adagrad and the best sgd run, log-spaced in steps, with the first order of the batches.

    Above LARGE_NETWORK parameters the end of one run alone. Up to SMALL also runs at a lower rate, runs with another
    batch size, and a sphere around the end of the first run whose radius is half of the way from the start: points
    that no descent has chosen. Runs at another rate or batch size end where they diverge.

    Args:
        problem: f over the sample set, at the start.
        trained: the same over all rows that runs train on.
        curvature: the same on the curvature samples.
        settings: of the race.
        methods: ``training.methods``.
        seed: of the sphere's directions.
        points: along each of the two best runs; with fewer than POINTS no other runs are visited.
    """
    tuned = {name: (methods.get(name) or {}).get("learning_rate") for name in reversed(PAIR)}
    known = {name: float(best) for name, best in tuned.items() if best is not None}
    found = []
    limit = loss_limit(problem.loss())
    for run, visits in _visited(trained, runs(known, settings, problem.d, trained.n, points)):
        for visit in visits:
            # Another rate or batch size than the best may diverge.
            if not run.best and not problem.at(visit.parameters).loss() <= limit:
                break
            if all(bool(part.isfinite().all()) for part in visit.parameters.values()):
                there = curvature.at(visit.parameters)
                found.append(Place(run.contender.method, visit.step, there, visit.state, run.group, run.best))
    around = problem.d <= SMALL and points >= POINTS and found
    return [*found, *(_around(curvature, found, seed) if around else [])]


def _visited(trained: Problem, chosen: Sequence[Run]) -> Iterator[tuple[Run, list[Visited]]]:
    """Each run with its points; those that share settings are walked together."""
    for (settings, steps), group in groupby(chosen, key=lambda run: (run.settings, run.steps)):
        own = list(group)
        yield from zip(own, replays(trained, settings, [run.contender for run in own], steps), strict=True)


@dataclass(frozen=True)
class Run:
    """A run whose points are visited after some of its steps; ``settings`` are the race's but for the batch size."""

    contender: Contender
    settings: RaceSettings
    steps: tuple[int, ...]
    group: str
    best: bool = False


def runs(tuned: Mapping[str, float], settings: RaceSettings, d: int, rows: int, points: int = POINTS) -> list[Run]:
    """The runs to visit.

    Args:
        tuned: the best learning rate by method.
        settings: of the race.
        d: parameters.
        rows: that runs train on.
        points: along each of the two best runs; with fewer than POINTS no other runs are visited.
    """
    many = d <= SMALL and points >= POINTS
    count = MORE if many else points
    steps = tuple(sorted({round(float(step)) for step in np.geomspace(1, settings.steps, count)}))
    best = [
        Run(Contender(name, value, 0), settings, steps, f"{name} {rate(value)}", best=True)
        for name, value in tuned.items()
    ]
    if d > LARGE_NETWORK:
        return [replace(run, steps=(settings.steps,)) for run in best[:1]]
    if not many:
        return best
    slower = [(name, SLOWER * value) for name, value in tuned.items()]
    found = best + [Run(Contender(*one, 0), settings, steps, f"{one[0]} {rate(one[1])}") for one in slower]
    size = min(LARGER * settings.batch_size, rows) if settings.batch_size < rows else max(rows // LARGER, 1)
    if size != min(settings.batch_size, rows):
        other = replace(settings, batch_size=size)
        found += [replace(run, settings=other, group=f"{run.group}, batch {number(size)}", best=False) for run in best]
    return found


def expected(settings: RaceSettings, d: int, rows: int, n: int, points: int = POINTS) -> tuple[int, float]:
    """Points of :func:`places` where no run diverges, and the passes over n samples of the runs that lead there."""
    raced = dict.fromkeys((method for method in PAIR if method in settings.optimizers), 1.0)
    found = runs(raced, settings, d, rows, points)
    visited = sum(len(run.steps) for run in found) + (MORE if d <= SMALL and points >= POINTS and found else 0)
    steps = sum(max(run.steps) * min(run.settings.batch_size, rows) / n for run in found)
    losses = sum(len(run.steps) for run in found if not run.best) + 1
    return visited, steps + losses / 3


def _around(curvature: Problem, found: list[Place], seed: int) -> list[Place]:
    """Points on a sphere around the end of the first run."""
    first = [place for place in found if place.group == found[0].group]
    center = first[-1].problem
    away = center.flatten(center.parameters).double() - curvature.flatten(curvature.parameters).double()
    radius = float(away.norm()) / 2
    if not 0 < radius < math.inf:
        return []
    return [
        Place(SPHERE, first[-1].step, curvature.at(parameters)) for parameters in sphere(center, radius, MORE, seed)
    ]
