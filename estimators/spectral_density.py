"""Density of the Hessian's eigenvalues by stochastic Lanczos quadrature.

Ubaru, Chen & Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature" (2017); for networks Ghorbani,
Krishnan & Xiao, "An investigation into neural net optimization via Hessian eigenvalue density" (2019).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from estimators import memory
from estimators.errors import InputError
from estimators.intervals import sum_interval
from estimators.lanczos import DELTA, Ritz, lanczos, random_start
from estimators.problem import Problem
from estimators.products import DENSE_LIMIT, Product, dense_hessian, hessian
from estimators.results import Cost, Interval, Progress

STAGE = "spectral-density"
POINTS = 401
WIDTH = 0.01
"""Standard deviation of the smoothing kernel as a share of the distance between the extremal nodes."""
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SpectralDensity:
    """The density of the d eigenvalues, smoothed with a Gaussian kernel of standard deviation ``width``.

    ``density`` on ``grid`` integrates to 1; ``spread`` is its standard error over the starts, point by point (0 where
    ``exact``). ``nodes`` and ``weights`` hold one row for each start: Ritz values and squared first components, from
    which another kernel can be drawn; where exact, one row: all eigenvalues. ``mean`` = tr H / d and ``mean_square`` =
    tr H^2 / d, each with a 95% interval. ``products`` leaves out those of a run that was given.
    """

    grid: tuple[float, ...]
    density: tuple[float, ...]
    spread: tuple[float, ...]
    width: float
    nodes: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    mean: float
    mean_interval: Interval
    mean_square: float
    mean_square_interval: Interval
    exact: bool
    probes: int | None
    steps: int
    products: int
    samples: int
    why: Mapping[str, str] = field(default_factory=dict)
    cost: Cost = field(default=Cost())


def eigenvalue_density(
    problem: Problem,
    *,
    probes: int = 8,
    steps: int = 40,
    width: float = WIDTH,
    run: Ritz | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SpectralDensity:
    """The smoothed density of the eigenvalues of H = nabla^2 f(w).

    Lanczos from a random unit q gives Ritz values theta_k and squared first components w_k: the Gauss rule of the
    spectral measure sum_i <q, v_i>^2 delta(lambda_i), exact for polynomials up to degree 2 steps - 1, and on average
    over q that measure is the eigenvalues' own, 1/d each. Several starts are averaged; their spread is that of the
    weights <q, v_i>^2, about sqrt(2 / (d probes)) of the mass where many eigenvalues share it, so one eigenvalue apart
    has a weight between 0 and several times 1/d in each start.

    d <= 2,000: from all eigenvalues of the formed Hessian. Else about two passes for each of probes * steps products,
    and steps + 1 vectors of size d in memory; where there is no room for so many beside the run's own, three. Rules
    then hold an eigenvalue found as several nodes, whose weights add up to its own (Greenbaum 1989).

    Args:
        problem: the task at a point.
        probes: random starts, 2 or more; the run's is one of them.
        steps: Lanczos steps from each, 2 or more.
        width: of the kernel, as a share of the distance between the extremal nodes.
        run: a Lanczos run on H from another random start, of any length: its rule is taken at no product.
        seed: of the starts; another one than that of the run.
        progress: called with ("spectral-density", products done, products).

    Raises:
        InputError: too few probes or steps, a width that is not above 0, curvature that is not finite.
    """
    if probes < 2:
        raise InputError(f"{probes} start shows no spread", "probes", "give 2 or more")
    if steps < 2:
        raise InputError(f"{steps} step gives no density", "steps", "give 2 or more")
    if not 0 < width < float("inf"):
        raise InputError(f"a kernel of width {width} smooths nothing", "width", "give a share above 0, such as 0.01")
    began, before = time.perf_counter(), problem.passes.total
    exact = problem.d <= DENSE_LIMIT
    if exact:
        values = torch.linalg.eigvalsh(dense_hessian(problem)).cpu().numpy()
        rules = [(values, np.full(problem.d, 1 / problem.d))]
        products = taken = problem.d
    else:
        generator = torch.Generator().manual_seed(seed)
        with hessian(problem) as product:

            def report(done: int) -> None:
                if progress:
                    progress(STAGE, done * steps, fresh * steps)

            like = next(iter(problem.parameters.values()))
            rules = [] if run is None else [quadrature(run)]
            fresh = probes - len(rules)
            held = 0 if run is None or run.basis is None else run.steps + 1
            local = not memory.holds_basis(problem, steps + held)
            rules += quadratures(product, problem.d, fresh, steps, generator, like, report, local)
            products = product.products
        taken = max(len(nodes) for nodes, _ in rules)
    grid, kernel = _grid(rules, width)
    curves = np.stack([_smoothed(nodes, weights, grid, kernel) for nodes, weights in rules])
    mean, mean_interval = _moment(rules, 1)
    square, square_interval = _moment(rules, 2)
    return SpectralDensity(
        grid=tuple(grid.tolist()),
        density=tuple(curves.mean(0).tolist()),
        spread=tuple((np.zeros(len(grid)) if exact else curves.std(0, ddof=1) / math.sqrt(probes)).tolist()),
        width=kernel,
        nodes=tuple(tuple(nodes.tolist()) for nodes, _ in rules),
        weights=tuple(tuple(weights.tolist()) for _, weights in rules),
        mean=mean,
        mean_interval=mean_interval,
        mean_square=square,
        mean_square_interval=square_interval,
        exact=exact,
        probes=None if exact else probes,
        steps=taken,
        products=products,
        samples=problem.n,
        why={"probes": "the Hessian was formed"} if exact else {},
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


Rule = tuple[Array, Array]


def quadratures(
    product: Product,
    d: int,
    probes: int,
    steps: int,
    generator: torch.Generator,
    like: torch.Tensor,
    progress: Callable[[int], None] = lambda _: None,
    local: bool = False,
) -> list[Rule]:
    """Nodes and weights of the Gauss rule for each of the random starts; ``local``: without a basis.

    Where a start's Krylov space closes early its rule is complete, and the nodes of the next space have no weight.
    """
    rules = []
    for probe in range(probes):
        start = random_start(d, generator, like)
        rules.append(quadrature(lanczos(product, start, d, steps, DELTA, generator, local=local)))
        progress(probe + 1)
    return rules


def quadrature(run: Ritz) -> Rule:
    """The Gauss rule of a run's start: its Ritz values with the squared first components of their vectors."""
    nodes, vectors = np.linalg.eigh(run.tridiagonal())
    weights = vectors[0] ** 2
    return nodes, weights / weights.sum()


def _grid(rules: list[Rule], width: float) -> tuple[Array, float]:
    """Points from four kernel widths below the least node to as many above the largest, and the width in use."""
    low, high = min(float(nodes.min()) for nodes, _ in rules), max(float(nodes.max()) for nodes, _ in rules)
    size = max(high, -low)
    # The ends of a multiple of the identity differ by rounding alone: then a share of its size, or of 1.
    kernel = width * (high - low if high - low > 1e-6 * size else size or 1.0)
    return np.linspace(low - 4 * kernel, high + 4 * kernel, max(POINTS, math.ceil(3 * (8 + 1 / width)))), kernel


def _smoothed(nodes: Array, weights: Array, grid: Array, kernel: float) -> Array:
    """sum_k w_k N(x; theta_k, kernel^2) at the grid's points."""
    total = np.zeros(len(grid))
    for node, weight in zip(nodes, weights, strict=True):
        total += weight * np.exp(-0.5 * ((grid - node) / kernel) ** 2)
    return total / (kernel * math.sqrt(2 * math.pi))


def _moment(rules: list[Rule], power: int) -> tuple[float, Interval]:
    """Mean of lambda^power over the starts with its 95% interval (Student's t); [x, x] for the one exact rule."""
    each = [float((weights * nodes**power).sum()) for nodes, weights in rules]
    if len(each) == 1:
        return each[0], (each[0], each[0])
    mean, interval, _ = sum_interval([each])
    return mean, interval
