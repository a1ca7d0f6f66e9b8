"""Where curvature is measured along the race: points of runs and, for small problems, on a sphere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diagnose.schema import PAIR
from diagnose.settings import LARGE_NETWORK
from diagnose.training import RaceSettings, replay
from diagnose.training.legs import Contender
from diagnose.training.update_rules import State
from estimators.problem import Problem
from estimators.sphere_points import sphere
from reports.numbers import rate

POINTS = 5
"""Points along each of the two best runs, the start apart ..."""
SMALL, MORE = 300, 8
"""... and up to SMALL parameters, where a bracket takes a fraction of a second, along each of four runs."""
SLOWER = 10**-0.5
"""The second run of a method has this share of its best learning rate."""
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
    problem: Problem, curvature: Problem, settings: RaceSettings, methods: Mapping[str, Mapping[str, Any]], seed: int
) -> list[Place]:
    """Points of the best adagrad and the best sgd run, log-spaced in steps, with the first order of the batches.

    Above LARGE_NETWORK parameters the end of one run alone. Up to SMALL also runs at a lower rate, and a sphere around
    the end of the first run whose radius is half of the way from the start: points that no descent has chosen.

    Args:
        problem: f over the sample set, at the start.
        curvature: the same on the curvature samples.
        settings: of the race.
        methods: ``training.methods``.
        seed: of the sphere's directions.
    """
    tuned = {name: (methods.get(name) or {}).get("learning_rate") for name in reversed(PAIR)}
    runs = [(name, float(best), True) for name, best in tuned.items() if best is not None]
    steps = [settings.steps]
    if problem.d > LARGE_NETWORK:
        runs = runs[:1]
    else:
        count = MORE if problem.d <= SMALL else POINTS
        steps = sorted({round(float(step)) for step in np.geomspace(1, settings.steps, count)})
    if problem.d <= SMALL:
        runs += [(name, SLOWER * best, False) for name, best, _ in runs]
    found = []
    for name, learning_rate, best in runs:
        group = f"{name} {rate(learning_rate)}"
        for visit in replay(problem, Contender(name, learning_rate, 0), settings, steps):
            if all(bool(part.isfinite().all()) for part in visit.parameters.values()):
                there = curvature.at(visit.parameters)
                found.append(Place(name, visit.step, there, visit.state, group, best))
    return [*found, *(_around(curvature, found, seed) if problem.d <= SMALL and found else [])]


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
