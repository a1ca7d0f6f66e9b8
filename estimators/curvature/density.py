"""Density of the Hessian's eigenvalues by stochastic Lanczos quadrature beside the eigenvalues at the ends.

Ubaru, Chen & Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature" (2017); for networks Ghorbani,
Krishnan & Xiao, "An investigation into neural net optimization via Hessian eigenvalue density" (2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from estimators.curvature.lanczos import DELTA, Ritz, lanczos
from estimators.curvature.outliers import outliers
from estimators.curvature.spectral_measure import WIDTH, Array, Measure, points, rule, smoothed
from estimators.errors import InputError
from estimators.numbers.vectors import random_start
from estimators.results import Interval, Progress, Result, reporting
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import Product, dense_hessian, hessian

STAGE = "spectral-density"
SHIFT = 0.2
"""Eigenvalues at the ends are taken out where the coupling to the others moves none by more of the kernel's width."""
DEFLATING = 3
"""Vectors of the model's size that taking them out of a product needs beside the basis."""


@dataclass(frozen=True, kw_only=True)
class SpectralDensity(Result):
    """The density of the d eigenvalues, smoothed with a Gaussian kernel of standard deviation ``width``.

    ``density`` on ``grid`` integrates to 1. ``lower`` and ``upper`` hold that of the exact eigenvalues, smoothed with
    the same kernel, with 95% at each point: scatter over the starts, of which ``spread`` is the standard error, and
    the bias of finitely many steps. ``resolution`` is the least width at which that bias stays below a tenth of the
    height of a single eigenvalue; ``outliers`` eigenvalues at the ends are known and have a weight of exactly 1/d.
    ``nodes`` and ``weights`` hold one row for each start, from which another kernel can be drawn: the outliers and the
    rule of the others; where exact, one row: all eigenvalues. ``mean`` = tr H / d and ``mean_square`` = tr H^2 / d,
    each with a 95% interval. ``probes`` counts the Lanczos runs; ``products`` leaves out those of a run that was given.
    """

    grid: tuple[float, ...]
    density: tuple[float, ...]
    spread: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    width: float
    resolution: float
    outliers: int | None
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


def eigenvalue_density(
    problem: Problem,
    *,
    probes: int = 8,
    steps: int = 40,
    width: float | None = None,
    run: Ritz | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SpectralDensity:
    """The smoothed density of the eigenvalues of H = nabla^2 f(w).

    Lanczos from a random unit q gives Ritz values theta_k and squared first components w_k: the Gauss rule of the
    spectral measure ``sum_i <q, v_i>^2 delta(lambda_i)``, exact for polynomials up to degree 2 steps - 1, and on
    average over q that measure is the eigenvalues' own, 1/d each. The first run's converged Ritz values at both ends
    are taken out (``outliers.py``): each is one eigenvalue, of weight 1/d. The other runs go on the complement, where
    the weights ``<q, v_i>^2`` scatter, by about sqrt(2 / (d starts)) of the mass where many eigenvalues share it. The
    kernel is as wide as the steps resolve on the complement's range, 1% of the whole range at least; see
    ``spectral_measure.py``.

    From all eigenvalues where H is formed. Else about two passes for each of probes * steps products. Memory: 2 steps +
    2 vectors of size d; where there is no room for so many nothing is taken out, and no run holds its basis where there
    is none for one. Rules then hold an eigenvalue as several nodes, whose weights add up to its own (Greenbaum 1989).

    Args:
        problem: the task at a point.
        probes: Lanczos runs, 2 or more; the one given is one of them.
        steps: of each, 2 or more.
        width: of the kernel, as a share of the distance between the extremal nodes: narrower than the resolution
            widens the band.
        run: a Lanczos run on H from another random start, of any length, at no product. With its basis it is the first.
        seed: of the starts; another one than that of the run.
        progress: called with ("spectral-density", products done, products).

    Raises:
        InputError: too few probes or steps, a width that is not above 0, curvature that is not finite.

    Examples:
        >>> import torch
        >>> from estimators import Problem, eigenvalue_density
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> result = eigenvalue_density(problem)
        >>> print(f"mean {result.mean:.3f}, mean square {result.mean_square:.3f}, {len(result.grid)} points")
        mean 1.250, mean square 2.125, 401 points
    """
    if probes < 2:
        raise InputError(f"{probes} start shows no spread", "probes", "give 2 or more")
    if steps < 2:
        raise InputError(f"{steps} step gives no density", "steps", "give 2 or more")
    if width is not None and not 0 < width < float("inf"):
        raise InputError(f"a kernel of width {width} smooths nothing", "width", "give a share above 0, such as 0.01")
    meter = Meter(problem)
    if problem.forms_hessian:
        values = torch.linalg.eigvalsh(dense_hessian(problem)).cpu().numpy()
        found, products, taken = _exact(values, width), problem.d, problem.d
    else:
        measure, products, taken = _measured(problem, probes, steps, run, seed, progress)
        found = _smoothed(measure, width)
        found |= {"exact": False, "probes": probes, "outliers": len(measure.atoms)}
    return SpectralDensity(
        **found,
        steps=taken,
        products=products,
        samples=problem.n,
        cost=meter.cost(),
    )


def _exact(values: Array, width: float | None) -> dict[str, Any]:
    """What all eigenvalues say."""
    grid, size = points(values, WIDTH if width is None else width)
    weights = np.full(len(values), 1 / len(values))
    density = tuple(smoothed(values, weights, grid, size).tolist())
    moments = {"mean": float(values.mean()), "mean_square": float((values**2).mean())}
    formed = "the Hessian was formed"
    return {
        "grid": tuple(grid.tolist()),
        **dict.fromkeys(("density", "lower", "upper"), density),
        "spread": (0.0,) * len(grid),
        "width": size,
        "resolution": 0.0,
        "nodes": (tuple(values.tolist()),),
        "weights": (tuple(weights.tolist()),),
        **moments,
        **{f"{key}_interval": (moment, moment) for key, moment in moments.items()},
        "exact": True,
        **dict.fromkeys(("probes", "outliers")),
        "why": {"probes": formed, "outliers": f"{formed}: all eigenvalues are known"},
    }


def _smoothed(measure: Measure, width: float | None) -> dict[str, Any]:
    """What the rules say."""
    nodes, weights = measure.nodes_and_weights()
    ends = np.array([min(float(row.min()) for row in nodes), max(float(row.max()) for row in nodes)])
    share, resolution = WIDTH if width is None else width, measure.resolution()
    least = 0.0 if width is not None else resolution
    grid, size = points(ends, share, least)
    drawn = measure.density(grid, size)
    (mean, mean_interval), (square, square_interval) = (measure.moment(power) for power in (1, 2))
    curves = {key: tuple(getattr(drawn, key).tolist()) for key in ("density", "spread", "lower", "upper")}
    return {
        "grid": tuple(grid.tolist()),
        **curves,
        "width": size,
        "resolution": resolution,
        "nodes": tuple(tuple(row.tolist()) for row in nodes),
        "weights": tuple(tuple(row.tolist()) for row in weights),
        "mean": mean,
        "mean_interval": mean_interval,
        "mean_square": square,
        "mean_square_interval": square_interval,
    }


def _measured(
    problem: Problem, probes: int, steps: int, run: Ritz | None, seed: int, progress: Progress | None
) -> tuple[Measure, int, int]:
    """The measure by products, how many were spent, and the steps of the longest run."""
    generator = torch.Generator().manual_seed(seed)
    like, report = problem.like, reporting(progress, STAGE, (probes - (run is not None)) * steps)
    with hessian(problem) as product:
        made = 0
        if run is None:
            keep = memory_limit.holds_basis(problem, 2 * steps + 1 + DEFLATING)
            local = not memory_limit.holds_basis(problem, steps)
            start = random_start(problem.d, generator, like)
            run, made = lanczos(product, start, problem.d, steps, DELTA, generator, keep=keep, local=local), 1
            report(steps)
        held = 0 if run.basis is None else run.steps + 1 + DEFLATING
        local = not memory_limit.holds_basis(problem, steps + held)

        def report_starts(done: int) -> None:
            report((made + done) * steps)

        measure = measured(product, run, problem.d, probes - 1, steps, generator, like, report_starts, local)
        return measure, product.products, max(run.steps, *(len(rule.nodes) for rule in measure.rules))


def measured(
    product: Product,
    run: Ritz,
    d: int,
    starts: int,
    steps: int,
    generator: torch.Generator,
    like: torch.Tensor,
    progress: Callable[[int], None] = lambda _: None,
    local: bool = False,
) -> Measure:
    """The spectral measure from a run on the operator and so many further starts; ``local``: without a basis.

    Where a start's Krylov space closes early its rule is complete, and the nodes of the next space have no weight.
    """
    span = float(run.values[-1] - run.values[0])
    apart = outliers(run, SHIFT * WIDTH * span)
    count = 0 if apart is None else len(apart.values)
    rules = [] if apart is not None else [rule(run)]
    for done in range(starts):
        start = random_start(d, generator, like)
        if apart is not None:
            start = apart.complement(start[:, None])[:, 0]
        on = product if apart is None else apart.remainder(product)
        rules.append(rule(lanczos(on, start, d - count, steps, DELTA, generator, local=local)))
        progress(done + 1)
    if apart is None:
        return Measure(d, np.zeros(0), np.zeros(0), rules, rounding=run.rounding)
    low, high = max(r.low for r in rules), min(r.high for r in rules)
    return Measure(d, apart.values, apart.residuals, rules, apart.shift(low, high), run.rounding)
