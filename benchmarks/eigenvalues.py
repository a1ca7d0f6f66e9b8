"""The largest eigenvalue in size, max|eig H|, and the distribution of all: ours, hessian-eigenthings, curvlinops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from benchmarks import operators
from benchmarks.estimates import Benchmark, Found, off_number
from benchmarks.tasks import FORMED, Task
from estimators import eigenvalue_density, spectrum
from estimators.smoothness_vector.at_a_point import sharpness_run
from estimators.task import memory_limit
from estimators.task.products import hessian

TOLERANCE = 5e-3
"""What ours stops at."""
STEPS = 80
"""Lanczos steps allowed; hessian-eigenthings takes them all."""
STARTS, DENSITY_STEPS = 4, 40
Array = NDArray[np.float64]
Measure = tuple[Array, Array]
"""Places and weights."""


def ours(task: Task, seed: int) -> Found:
    """As the smoothness takes it: until it is known to 0.5%."""
    problem, generator = task.problem, torch.Generator().manual_seed(seed)
    like = next(iter(problem.parameters.values()))
    with hessian(problem) as product:
        run = sharpness_run(product, problem.d, generator, like, memory_limit.vectors(problem))
    return Found(run.norm, run.steps, run.norm_interval, "0.99975")


def both_ends(task: Task, seed: int) -> Found:
    found = spectrum(task.problem, seed=seed)
    low, high = found.smallest, found.largest
    top, bottom = (found.largest_lower, found.largest_upper), (found.smallest_lower, found.smallest_upper)
    assert low is not None
    assert high is not None
    assert top[0] is not None
    assert top[1] is not None
    assert bottom[0] is not None
    assert bottom[1] is not None
    ends = max(top[0], -bottom[1]), max(top[1], -bottom[0])
    return Found(max(high, -low), found.steps, ends, f"{found.confidence:g}")


def power_iteration(task: Task, seed: int) -> Found:
    from hessian_eigenthings import deflated_power_iteration

    operator = operators.eigenthings(task)
    found = deflated_power_iteration(operator, k=1, max_iter=1000, tol=TOLERANCE, seed=seed)
    return Found(abs(float(found.eigenvalues[0])), operator.products, level="residual")


def lanczos(task: Task, seed: int) -> Found:
    from hessian_eigenthings import lanczos as method

    operator = operators.eigenthings(task)
    found = method(operator, k=1, max_iter=STEPS, seed=seed)
    return Found(abs(float(found.eigenvalues[0])), operator.products, level="residual")


def scipy(task: Task, seed: int) -> Found:
    """ARPACK on curvlinops' operator."""
    from scipy.sparse.linalg import eigsh

    operator = operators.curvlinops(task)
    start = np.random.default_rng(seed).standard_normal(task.problem.d).astype(np.float32)
    found = eigsh(operator.to_scipy(np.float32), 1, which="LM", tol=TOLERANCE, v0=start, return_eigenvectors=False)
    return Found(abs(float(found[0])), operator.products)


def our_density(task: Task, seed: int) -> Found:
    found = eigenvalue_density(task.problem, probes=STARTS, steps=DENSITY_STEPS, seed=seed)
    nodes, weights = np.concatenate(found.nodes), np.concatenate(found.weights)
    return Found((nodes, weights / len(found.nodes)), found.products, level="standard error by place")


def their_density(task: Task, seed: int) -> Found:
    from hessian_eigenthings import spectral_density

    operator = operators.eigenthings(task)
    found = spectral_density(operator, num_runs=STARTS, lanczos_steps=DENSITY_STEPS, seed=seed)
    nodes, weights = found.raw_eigenvalues.double().flatten(), found.raw_weights.double().flatten()
    kept = torch.isfinite(nodes)
    return Found((nodes[kept].numpy(), weights[kept].numpy() / STARTS), operator.products)


def smoothed_density(task: Task, seed: int) -> Found:
    """curvlinops gives the density with its kernel, not nodes and weights."""
    from curvlinops import lanczos_approximate_spectrum

    operator = operators.curvlinops(task)
    with operators.seeded(seed):
        grid, density = lanczos_approximate_spectrum(operator, DENSITY_STEPS, num_repeats=STARTS)
    return Found((grid.double().numpy(), density.double().numpy()), operator.products)


def apart(found: Measure, wanted: Measure) -> float:
    """Wasserstein distance of order 1, as a share of the mean size of an eigenvalue."""
    distance = wasserstein_distance(found[0], wanted[0], found[1], wanted[1])
    return float(distance / (np.abs(wanted[0]) @ wanted[1]))


def _eigenvalues(task: Task) -> Any:
    return torch.linalg.eigvalsh(task.hessian)


def _measure(task: Task) -> Measure:
    values = _eigenvalues(task).numpy()
    return values, np.full(len(values), 1 / len(values))


LARGEST = Benchmark(
    title="Largest eigenvalue in size, to 0.5%",
    tasks=FORMED,
    methods={
        "diagnose": ours,
        "diagnose, both ends of the spectrum": both_ends,
        "hessian-eigenthings, power iteration": power_iteration,
        f"hessian-eigenthings, Lanczos, {STEPS} steps": lanczos,
        "curvlinops with scipy's eigsh": scipy,
    },
    exact=lambda task: float(_eigenvalues(task).abs().max()),
    error=off_number,
)
DENSITY = Benchmark(
    title=f"Distribution of the eigenvalues, {STARTS} starts of {DENSITY_STEPS} steps",
    tasks=FORMED,
    methods={"diagnose": our_density, "hessian-eigenthings": their_density, "curvlinops": smoothed_density},
    exact=_measure,
    error=apart,
)
