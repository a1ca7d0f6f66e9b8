"""The trace of the Hessian from about 64 products: ours beside curvlinops and hessian-eigenthings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import operators
from benchmarks.diagonal import PRODUCTS
from benchmarks.estimates import Benchmark, Found, off_number
from benchmarks.tasks import FORMED, Task
from estimators import hessian_diagonal

IN_THIRDS = PRODUCTS // 3 * 3
"""Hutch++ takes a multiple of three."""


def ours(task: Task, seed: int) -> Found:
    """What comes with the diagonal, at the price of the diagonal."""
    found = hessian_diagonal(task.problem, probes=PRODUCTS, seed=seed)
    if found.exact:
        return Found(found.trace, level="exact")
    return Found(found.trace, found.probes, found.trace_interval, "95%")


def curvlinops(name: str, products: int, task: Task, seed: int) -> Found:
    import curvlinops as library

    estimate: Callable[[Any, int], Any] = getattr(library, name)
    operator = operators.curvlinops(task)
    with operators.seeded(seed):
        value = float(estimate(operator, products))
    return Found(value, operator.products)


def eigenthings(method: str, products: int, task: Task, seed: int) -> Found:
    from hessian_eigenthings import trace

    operator = operators.eigenthings(task)
    found = trace(operator, num_matvecs=products, method=method, seed=seed)
    return Found(found.estimate, operator.products, level="a standard error")


BENCHMARK = Benchmark(
    title=f"Trace of the Hessian, {PRODUCTS} products",
    tasks=FORMED,
    methods={
        "diagnose": ours,
        "curvlinops, Hutchinson": partial(curvlinops, "hutchinson_trace", PRODUCTS),
        "curvlinops, Hutch++": partial(curvlinops, "hutchpp_trace", IN_THIRDS),
        "curvlinops, XTrace": partial(curvlinops, "xtrace", PRODUCTS),
        "hessian-eigenthings, Hutchinson": partial(eigenthings, "hutchinson", PRODUCTS),
        "hessian-eigenthings, Hutch++": partial(eigenthings, "hutch++", IN_THIRDS),
    },
    exact=lambda task: float(task.hessian.trace()),
    error=off_number,
)
