"""Points around a point: what a fit of (L0, L1) sees beside runs, whose points descent has chosen."""

from __future__ import annotations

import math

import torch

from estimators.errors import InputError
from estimators.task.function import Parameters
from estimators.task.problem import Problem


def sphere(problem: Problem, radius: float, count: int, seed: int = 0) -> list[Parameters]:
    """w + radius u for ``count`` directions u, uniform on the unit sphere of all d coordinates.

    Args:
        problem: the task at w.
        radius: distance from w, in the 2-norm.
        count: number of points.
        seed: of the directions.

    Raises:
        InputError: a radius that is not above 0 and finite, fewer than one point.

    Examples:
        >>> import torch
        >>> from estimators import Problem, sphere
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> start = problem.at({"weight": torch.zeros(1, 2)})
        >>> [round(point["weight"].norm().item(), 3) for point in sphere(start, radius=0.5, count=3)]
        [0.5, 0.5, 0.5]
    """
    if not 0 < radius < math.inf:
        raise InputError(f"a sphere of radius {radius}", "radius", "give a distance above 0")
    if count < 1:
        raise InputError(f"{count} points on a sphere", "count", "ask for one or more")
    generator = torch.Generator().manual_seed(seed)
    center = problem.flatten(problem.parameters)
    points = []
    for _ in range(count):
        direction = torch.randn(problem.d, generator=generator, dtype=torch.float64)
        step = (radius * direction / direction.norm()).to(center.device)
        points.append(problem.unflatten((center.double() + step).to(problem.dtype)))
    return points
