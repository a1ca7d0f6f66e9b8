"""Extremal eigenvalues by Lanczos from a random start, with a bound that holds with a stated probability.

The bound is the a-posteriori one of Van Dorsselaer, Hochstenbach & Van der Vorst, "Computing probabilistic
bounds for extreme eigenvalues of symmetric matrices with the Lanczos method" (SIAM J. Matrix Anal. 2000).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from estimators.problem import Problem
from estimators.products import DENSE_LIMIT, Product, dense_hessian, hessian
from estimators.results import Cost, Finding, Progress, Spectrum

DELTA = 1e-3
"""Probability with which a published bound may fail."""
MAX_STEPS = 80
SHARPNESS_TOLERANCE = 0.005


@dataclass(frozen=True)
class Ritz:
    """A Lanczos run: coefficients of the tridiagonal matrix, its eigenvalues, and bounds beyond both ends.

    ``upper`` is at least the largest eigenvalue, ``lower`` at most the smallest, each with probability
    1 - delta/2 over the start. ``basis``, where it was kept, holds the orthonormal vectors q_1..q_m as rows and
    ``residual`` is beta_m q_{m+1}: A Q' = Q' T + residual e_m' with T = :meth:`tridiagonal` needs no further product.
    """

    alphas: list[float]
    betas: list[float]
    values: np.ndarray
    lower: float
    upper: float
    basis: Tensor | None = None
    residual: Tensor | None = None
    closed: tuple[int, ...] = ()

    def tridiagonal(self) -> np.ndarray:
        """T, shape (m, m): no coupling where a Krylov space was closed and another one opened."""
        off = [0.0 if k + 1 in self.closed else beta for k, beta in enumerate(self.betas[:-1])]
        return np.diag(self.alphas) + np.diag(off, 1) + np.diag(off, -1)

    @property
    def steps(self) -> int:
        return len(self.alphas)

    @property
    def norm(self) -> float:
        """Largest absolute Ritz value: a lower bound of the operator's norm."""
        return float(max(self.values[-1], -self.values[0]))

    @property
    def norm_bound(self) -> float:
        """At least the operator's norm, with probability 1 - delta."""
        return max(self.upper, -self.lower)


def edge(alphas: Sequence[float], betas: Sequence[float], n: int, delta: float, theta: float) -> float:
    """A number that exceeds the largest eigenvalue with probability 1 - delta.

    It is the largest root x >= theta of sum_{j<=m} p_j(x)^2 = 2n/(pi delta^2), with p_j the orthonormal
    Lanczos polynomials. The mass that the start's spectral measure has at the largest eigenvalue is at most
    1/sum p_j^2 there, and a uniform unit vector has a component below t along a fixed direction with
    probability at most t sqrt(2n/pi).

    Args:
        alphas, betas: m diagonal and m off-diagonal coefficients, the last one the residual's norm.
        n: dimension of the sphere that the start was drawn from.
        theta: largest Ritz value.
    """
    wanted = math.log(2 * n / (math.pi * delta * delta))

    def log_sum(x: float) -> float:
        older, old, total, scale = 0.0, 1.0, 1.0, 0.0
        for j, (alpha, beta) in enumerate(zip(alphas, betas, strict=True)):
            older, old = old, ((x - alpha) * old - (betas[j - 1] * older if j else 0.0)) / beta
            total += old * old
            if total > 1e100:
                older, old, total, scale = older * 1e-50, old * 1e-50, total * 1e-100, scale + math.log(1e100)
        return math.log(total) + scale

    spread = max(abs(theta) * 1e-3, 1e-300)
    low, high = theta, theta + spread
    while log_sum(high) < wanted:
        low, spread = high, 2 * spread
        high = theta + spread
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if log_sum(middle) >= wanted else (middle, high)
    return high


def lanczos(
    product: Product,
    start: Tensor,
    n: int,
    steps: int,
    delta: float,
    generator: torch.Generator,
    stop: Callable[[Ritz], bool] = lambda _: False,
    check_from: int = 6,
    keep: bool = False,
) -> Ritz:
    """Lanczos with full re-orthogonalisation on a symmetric operator.

    Where the residual drowns in rounding (an operator of few eigenvalues), the Krylov space is closed, but the start
    may have missed what its rounding hides. The run then opens another one from a fresh random vector; see
    :func:`_bound` for what that is worth.

    Args:
        product: V (d, k) -> A V (d, k).
        start: a vector drawn uniformly on the sphere of the n-dimensional space that A acts on, shape (d,).
        n: that dimension; d less the rows on which A is zero and the start too.
        steps: largest number of products.
        delta: probability of failure of the two bounds together.
        generator: draws the fresh vectors.
        stop: asked every second step from ``check_from`` on.
        keep: leave basis and residual in the result, (steps + 1) d numbers.
    """
    unit = torch.finfo(start.dtype).eps
    basis = torch.empty(steps, start.numel(), dtype=start.dtype, device=start.device)
    q = start / start.norm()
    alphas: list[float] = []
    betas: list[float] = []
    closed: list[int] = []
    scale = 0.0

    def ritz(complete: bool = False) -> Ritz:
        off = [0.0 if k + 1 in closed else beta for k, beta in enumerate(betas[:-1])]
        values = eigh_tridiagonal(np.array(alphas), np.array(off), eigvals_only=True)
        slack = 100 * unit * scale if complete or closed else 0.0
        tail = torch.zeros_like(z) if complete or len(alphas) in closed else z
        kept = (basis[: len(alphas)], tail, tuple(closed)) if keep else ()
        if complete:
            low, high = float(values[0]) - slack, float(values[-1]) + slack
            return Ritz(list(alphas), list(betas), values, low, high, *kept)
        upper = _bound(alphas, betas, closed, n, delta / 2) + slack
        lower = -_bound([-a for a in alphas], betas, closed, n, delta / 2) - slack
        return Ritz(list(alphas), list(betas), values, lower, upper, *kept)

    for j in range(min(steps, n)):
        basis[j] = q
        z = product(q[:, None])[:, 0]
        scale = max(scale, float(z.double().norm()))
        alphas.append(float(z.double() @ q.double()))
        known = basis[: j + 1]
        for _ in range(2):
            z = z - known.T @ (known @ z)
        betas.append(float(z.double().norm()))
        if scale == 0 or j + 1 == n:
            return ritz(complete=True)
        if betas[-1] <= 30 * unit * scale:
            betas[-1] = max(betas[-1], unit * scale)
            closed.append(j + 1)
            z = torch.where(start != 0, random_start(start.numel(), generator, start), torch.zeros_like(start))
            for _ in range(2):
                z = z - known.T @ (known @ z)
        if j + 1 == min(steps, n):
            break
        if j + 1 >= check_from and (j + 1) % 2 == 0:
            run = ritz()
            if stop(run):
                return run
        q = (z.double() / float(z.double().norm())).to(start.dtype)
    return ritz()


def _bound(alphas: Sequence[float], betas: Sequence[float], closed: Sequence[int], n: int, delta: float) -> float:
    """At least the largest eigenvalue, with probability 1 - delta.

    One Krylov space: its :func:`edge`. After r closed ones: an eigenvector has a component below t along all r
    independent starts with probability (t sqrt(2n/pi))^r at most, so with each space at delta^(1/r) one of their
    edges holds. An open space after closed ones lives in their complement, and has its own edge. Half of delta each.
    """
    cuts = [0, *closed]
    spaces = [(alphas[a:b], betas[a:b]) for a, b in itertools.pairwise([*cuts, len(alphas)]) if b > a]
    edges = [_edge_of(a, b, n, (delta / 2) ** (1 / max(len(closed), 1)) if closed else delta) for a, b in spaces]
    if not closed:
        return edges[0]
    together = max(edges[: len(closed)])
    if len(spaces) == len(closed):
        return together
    inside = max(_top(a, b) for a, b in spaces)
    return min(max(together, inside), max(inside, _edge_of(*spaces[-1], n, delta / 2)))


def _top(alphas: Sequence[float], betas: Sequence[float]) -> float:
    return float(eigh_tridiagonal(np.array(alphas), np.array(betas[:-1]), eigvals_only=True)[-1])


def _edge_of(alphas: Sequence[float], betas: Sequence[float], n: int, delta: float) -> float:
    return edge(alphas, betas, n, delta, _top(alphas, betas))


def random_start(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """A standard normal vector of shape (n,), drawn on the CPU so that it is the same on every device."""
    return torch.randn(n, generator=generator, dtype=torch.float64).to(like.device, like.dtype)


def extremes(
    problem: Problem, *, steps: int = MAX_STEPS, seed: int = 0, progress: Progress | None = None, keep: bool = False
) -> Ritz:
    """Lanczos on H from a random start until both ends are known to 0.5% of max|eig H|, or steps are used up."""

    def told(run: Ritz) -> bool:
        if progress:
            progress("spectrum", run.steps, steps)
        return _ends_known(run)

    generator = torch.Generator().manual_seed(seed)
    start = random_start(problem.d, generator, next(iter(problem.parameters.values())))
    with hessian(problem) as product:
        return lanczos(product, start, problem.d, steps, DELTA, generator, told, keep=keep)


def _ends_known(run: Ritz) -> bool:
    slack = SHARPNESS_TOLERANCE * run.norm
    return bool(run.upper - run.values[-1] <= slack and run.values[0] - run.lower <= slack)


def spectrum(
    problem: Problem,
    *,
    steps: int = MAX_STEPS,
    run: Ritz | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Spectrum:
    """Largest and smallest eigenvalue of H = nabla^2 f(w) and the Ritz values between them.

    d <= 2,000: all eigenvalues of the formed Hessian, bounds equal to them. Else Lanczos from a random
    start until both ends are known to 0.5% of max|eig H|: every Ritz value lies between the ends, the
    bounds hold with probability 0.999. Cost: about two passes a step, none where ``run``, that of :func:`extremes`
    for the same problem, is given.
    """
    began, before = time.perf_counter(), problem.passes.total
    warnings: tuple[Finding, ...] = ()
    if problem.d <= DENSE_LIMIT:
        values = torch.linalg.eigvalsh(dense_hessian(problem)).cpu().numpy()
        low, high, lower, upper, used, confidence = values[0], values[-1], values[0], values[-1], problem.d, 1.0
    else:
        run = run or extremes(problem, steps=steps, seed=seed, progress=progress)
        values, low, high = run.values, run.values[0], run.values[-1]
        lower, upper, used, confidence = run.lower, run.upper, run.steps, 1 - DELTA
        if not _ends_known(run):
            warnings = (not_converged("spectrum", run, steps),)
    return Spectrum(
        largest=float(high),
        smallest=float(low),
        eigenvalues=[float(v) for v in values],
        steps=used,
        largest_upper=float(upper),
        smallest_lower=float(lower),
        confidence=confidence,
        samples=problem.n,
        directional=None,
        kinks=None,
        why=dict.fromkeys(("directional", "kinks"), "not measured by this call"),
        warnings=warnings,
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


def not_converged(stage: str, run: Ritz, steps: int) -> Finding:
    """The finding for a Lanczos run that used up its steps."""
    return Finding(
        code="not-converged",
        severity="note",
        stage=stage,
        found=f"after {steps} Lanczos steps the eigenvalues end between {run.values[-1]:.4g} and {run.upper:.4g}, "
        f"and between {run.lower:.4g} and {run.values[0]:.4g}",
        meaning="the ends are known less well than to 0.5%; the printed bounds hold all the same",
        action="use `estimators.spectrum(problem, steps=...)` with more steps",
    )
