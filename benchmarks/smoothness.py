"""Lambda(H) = min{1'L : -diag(L) <= H <= diag(L)}: our bracket beside a semidefinite solver and simpler bounds.

No other library has this number. What stands in for it are the row sums, sum_jk |H_jk|, and d times the largest
eigenvalue in size; a semidefinite program gives it for a small H that was formed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.estimates import Benchmark, Found, off_number
from benchmarks.tasks import FORMED, TINY, Task
from estimators import hessian_one_norm, smoothness, spectrum
from estimators.smoothness_vector.formed import dense_bracket
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian

REFERENCE_GAP = 1e-3


def fresh(task: Task) -> Problem:
    """The same problem without a Hessian that an earlier call formed."""
    return task.problem.at(task.problem.parameters)


def bracket(task: Task, seed: int, gap: float = 0.05) -> Found:
    found = smoothness(fresh(task), gap=gap, seed=seed)
    assert found.confidence is not None
    level = "certain" if found.confidence == 1 else f"{found.confidence:g}"
    return Found(found.l1_upper, found.products, (found.l1_lower, found.l1_upper), level)


def narrow(task: Task, seed: int) -> Found:
    return bracket(task, seed, gap=0.01)


def semidefinite(task: Task, seed: int) -> Found:
    """An interior-point solver on the formed H."""
    cvxpy: Any = import_module("cvxpy")
    problem = fresh(task)
    matrix = dense_hessian(problem)
    scale = float(matrix.abs().max())
    dominated = (matrix / scale).numpy()
    diagonal = cvxpy.Variable(problem.d)
    bounds = [cvxpy.diag(diagonal) - dominated >> 0, cvxpy.diag(diagonal) + dominated >> 0]
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(diagonal)), bounds)
    program.solve(solver=cvxpy.CLARABEL)
    return Found(scale * float(program.value), problem.d, level="to the solver's tolerance")


def row_sums(task: Task, seed: int) -> Found:
    """An estimate above 2,000 parameters, so that its upper end bounds Lambda at 97.5% and its value does not."""
    found = hessian_one_norm(fresh(task), seed=seed)
    return Found(found.value, found.products, (None, found.interval[1]), "certain" if found.exact else "97.5%")


def isotropic(task: Task, seed: int) -> Found:
    """d max|eig H|, with the eigenvalue's certified upper end."""
    found = spectrum(fresh(task), seed=seed)
    assert found.largest_upper is not None
    assert found.smallest_lower is not None
    upper = task.problem.d * max(found.largest_upper, -found.smallest_lower)
    return Found(upper, found.steps, (None, upper), "certain" if found.confidence == 1 else f"{found.confidence:g}")


def reference(task: Task) -> float:
    """Known to 0.1%: certified by all eigenvalues of the Hessian formed in float64."""
    matrix: Tensor = task.hessian
    found = dense_bracket(matrix, torch.Generator().manual_seed(0), REFERENCE_GAP)
    return (found.lower + found.upper) / 2


BENCHMARK = Benchmark(
    title="The smallest sum of a smoothness vector, Λ(H)",
    tasks=FORMED,
    methods={
        "diagnose": bracket,
        "diagnose, to 1%": narrow,
        "row sums, Σ|Hⱼₖ|": row_sums,
        "d·max|eig H|": isotropic,
    },
    exact=reference,
    error=off_number,
)
SMALL = Benchmark(
    title="Λ(H) of a Hessian that is formed",
    tasks=TINY,
    methods={
        "diagnose, to 1%": narrow,
        "cvxpy with Clarabel": semidefinite,
        "row sums, Σ|Hⱼₖ|": row_sums,
        "d·max|eig H|": isotropic,
    },
    exact=reference,
    error=off_number,
)
