"""Extremal eigenvalues by Lanczos from a random start, with a bound that holds with a stated probability.

The bound is the a-posteriori one of Van Dorsselaer, Hochstenbach & Van der Vorst, "Computing probabilistic
bounds for extreme eigenvalues of symmetric matrices with the Lanczos method" (SIAM J. Matrix Anal. 2000).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from estimators.numbers.vectors import dot, norm, random_start, unit
from estimators.results import Finding, Interval, Progress, Spectrum, reporting
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import Product, dense_hessian, hessian

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

    Bounds and Ritz values are those of the operator as its products are rounded; ``rounding`` is the share of its norm
    that products in the vectors' format may be off by, and the intervals below allow for it at both ends.
    """

    alphas: list[float]
    betas: list[float]
    values: np.ndarray
    lower: float
    upper: float
    basis: Tensor | None = None
    residual: Tensor | None = None
    closed: tuple[int, ...] = ()
    rounding: float = 0.0

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

    @property
    def norm_interval(self) -> Interval:
        """Holds the norm of the operator without rounding, with probability 1 - delta."""
        slack = self.rounding * self.norm
        return max(self.norm - slack, 0.0), self.norm_bound + slack

    @property
    def largest_interval(self) -> Interval:
        """Holds its largest eigenvalue, with probability 1 - delta/2."""
        slack = self.rounding * self.norm
        return float(self.values[-1]) - slack, self.upper + slack

    @property
    def smallest_interval(self) -> Interval:
        """Holds its smallest eigenvalue, with probability 1 - delta/2."""
        slack = self.rounding * self.norm
        return self.lower - slack, float(self.values[0]) + slack

    @property
    def norm_known(self) -> bool:
        """Whether the norm is known to 0.5%."""
        return self.norm_bound <= (1 + SHARPNESS_TOLERANCE) * self.norm

    @property
    def ends_known(self) -> bool:
        """Whether both ends are known to 0.5% of the norm."""
        slack = SHARPNESS_TOLERANCE * self.norm
        return bool(self.upper - self.values[-1] <= slack and self.values[0] - self.lower <= slack)


def rounding_slack(dtype: torch.dtype) -> float:
    """Share of an operator's norm by which what is found from products in this format may be off.

    That of float32 serves half precision too, whose own rounding no slack of use would cover: results from it carry
    no confidence.
    """
    return 1e-10 if dtype == torch.float64 else 2e-5


def rounding_share(problem: Problem) -> float:
    """Share of the norm of a problem's Hessian within which its eigenvalues, or entries, are not told from 0."""
    return max(rounding_slack(problem.dtype), torch.finfo(problem.precision).eps)


def edge(
    alphas: Sequence[float], betas: Sequence[float], n: int, delta: float, theta: float, local: bool = False
) -> float:
    """A number that exceeds the largest eigenvalue with probability 1 - delta.

    It is the largest root x >= theta of sum_{j<=m} p_j(x)^2 = 2n/(pi delta^2), with p_j the orthonormal
    Lanczos polynomials. The mass that the start's spectral measure has at the largest eigenvalue is at most
    1/sum p_j^2 there, and a uniform unit vector has a component below t along a fixed direction with
    probability at most t sqrt(2n/pi).

    ``local``: the Lanczos vectors q_j have length 1 and satisfy the recurrence, but need not be orthogonal. An
    eigenvector v then has v'q_j = p_j(lambda) v'q_0 all the same, and |v'q_j| <= 1 for each j alone: the largest
    p_j(x)^2 takes the place of their sum.

    Args:
        alphas, betas: m diagonal and m off-diagonal coefficients, the last one the residual's norm.
        n: dimension of the sphere that the start was drawn from.
        theta: largest Ritz value.
    """
    from scipy.optimize import brentq

    wanted = math.log(2 * n / (math.pi * delta * delta))

    def log_sum(x: float) -> float:
        older, old, total, scale = 0.0, 1.0, 1.0, 0.0
        for j, (alpha, beta) in enumerate(zip(alphas, betas, strict=True)):
            older, old = old, ((x - alpha) * old - (betas[j - 1] * older if j else 0.0)) / beta
            total = max(total, old * old) if local else total + old * old
            if total > 1e100:
                older, old, total, scale = older * 1e-50, old * 1e-50, total * 1e-100, scale + math.log(1e100)
        return math.log(total) + scale

    if log_sum(theta) >= wanted:
        return theta
    spread = max(abs(theta) * 1e-3, 1e-300)
    low, high = theta, theta + spread
    while log_sum(high) < wanted:
        low, spread = high, 2 * spread
        high = theta + spread
    slack = max(1e-13 * abs(high), 1e-300)
    return float(brentq(lambda x: log_sum(x) - wanted, low, high, xtol=slack, rtol=1e-15)) + 2 * slack


def lanczos(
    product: Product,
    start: Tensor,
    n: int,
    steps: int,
    delta: float,
    generator: torch.Generator,
    stop: Callable[[Ritz], bool] | None = None,
    check_from: int = 6,
    keep: bool = False,
    local: bool = False,
) -> Ritz:
    """Lanczos with full re-orthogonalisation on a symmetric operator.

    ``local`` does without: three vectors in place of steps + 1. Eigenvalues found come again as copies, none of them
    beyond the spectrum but for rounding (Paige 1980), and the bounds hold by another argument, see :func:`edge`. Where
    the residual drowns in rounding the run ends.

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
        keep: leave basis and residual in the result, (steps + 1) d numbers; not where ``local``.
        local: no basis and no re-orthogonalisation.
    """
    eps = torch.finfo(start.dtype).eps
    basis = torch.empty(0 if local else steps, start.numel(), dtype=start.dtype, device=start.device)
    q = start / start.norm()
    previous = torch.zeros(0, dtype=start.dtype, device=start.device)
    alphas: list[float] = []
    betas: list[float] = []
    closed: list[int] = []
    scale = 0.0

    def ritz(complete: bool = False) -> Ritz:
        off = [0.0 if k + 1 in closed else beta for k, beta in enumerate(betas[:-1])]
        values = eigh_tridiagonal(np.array(alphas), np.array(off), eigvals_only=True)
        slack = 100 * eps * scale if complete or closed or local else 0.0
        kept: dict[str, Any] = {"rounding": rounding_slack(start.dtype)}
        if keep and not local:
            tail = torch.zeros_like(z) if complete or len(alphas) in closed else z
            kept |= {"basis": basis[: len(alphas)], "residual": tail, "closed": tuple(closed)}
        if complete:
            low, high = float(values[0]) - slack, float(values[-1]) + slack
            return Ritz(list(alphas), list(betas), values, low, high, **kept)
        upper = _bound(alphas, betas, closed, n, delta / 2, local) + slack
        lower = -_bound([-a for a in alphas], betas, closed, n, delta / 2, local) - slack
        return Ritz(list(alphas), list(betas), values, lower, upper, **kept)

    for j in range(min(steps, n)):
        z = product(q[:, None])[:, 0]
        scale = max(scale, norm(z))
        alphas.append(dot(z, q))
        if local:
            z = torch.add(z, q, alpha=-alphas[-1])
            if j:
                z = z.add_(previous, alpha=-betas[-1])
            betas.append(norm(z))
        else:
            basis[j] = q
            known = basis[: j + 1]
            for _ in range(2):
                z = z - known.T @ (known @ z)
            betas.append(norm(z))
        if scale == 0 or (j + 1 == n and not local):
            return ritz(complete=True)
        if local and betas[-1] <= 30 * eps * scale:
            betas[-1] = 30 * eps * scale  # a coupling that is counted as larger bounds no less
            break
        if betas[-1] <= 30 * eps * scale:
            betas[-1] = max(betas[-1], eps * scale)
            closed.append(j + 1)
            z = torch.where(start != 0, random_start(start.numel(), generator, start), torch.zeros_like(start))
            for _ in range(2):
                z = z - known.T @ (known @ z)
        if j + 1 == min(steps, n):
            break
        if stop is not None and j + 1 >= check_from and (j + 1) % 2 == 0:
            run = ritz()
            if stop(run):
                return run
        previous, q = q, unit(z)
    return ritz()


def _bound(
    alphas: Sequence[float], betas: Sequence[float], closed: Sequence[int], n: int, delta: float, local: bool
) -> float:
    """At least the largest eigenvalue, with probability 1 - delta.

    One Krylov space: its :func:`edge`. After r closed ones: an eigenvector has a component below t along all r
    independent starts with probability (t sqrt(2n/pi))^r at most, so with each space at delta^(1/r) one of their
    edges holds. An open space after closed ones lives in their complement, and has its own edge. Half of delta each.
    """
    cuts = [0, *closed]
    if local:
        return edge(alphas, betas, n, delta, _top(alphas, betas), local=True)
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


@dataclass(frozen=True)
class Extremes:
    """A Lanczos run on H: ``whole`` until both ends are known, ``norm`` the first part of it that knows max|eig H|.

    Bounds of both fail with probability DELTA/4 at most: a bracket that takes ``norm`` has the rest of DELTA to spend.
    """

    whole: Ritz
    norm: Ritz


def extremes(
    problem: Problem,
    *,
    steps: int = MAX_STEPS,
    seed: int = 0,
    progress: Progress | None = None,
    keep: bool = False,
    late: Callable[[], bool] | None = None,
) -> Extremes:
    """Lanczos on H from a random start until both ends are known to 0.5% of max|eig H|, or steps are used up.

    Where there is no room for a basis of so many steps none is held, nor kept.

    Args:
        keep: leave basis and residual in both runs, which share them.
        late: asked after every other step; where it says so the run ends there, with the bounds that it has.
    """
    first: list[Ritz] = []
    report = reporting(progress, "spectrum", steps)

    def stop(run: Ritz) -> bool:
        report(run.steps)
        if run.norm_known and not first:
            first.append(run)
        return (run.norm_known and run.ends_known) or (late is not None and late())

    generator = torch.Generator().manual_seed(seed)
    start = random_start(problem.d, generator, problem.like)
    with hessian(problem) as product:
        local = not memory_limit.holds_basis(problem, steps)
        run = lanczos(product, start, problem.d, steps, DELTA / 4, generator, stop, keep=keep, local=local)
    return Extremes(run, first[0] if first else run)


def spectrum(
    problem: Problem,
    *,
    steps: int = MAX_STEPS,
    run: Ritz | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Spectrum:
    """Largest and smallest eigenvalue of H = nabla^2 f(w) and the Ritz values between them.

    All eigenvalues where H is formed. Else Lanczos from a random start until both ends are known to
    0.5% of max|eig H|: every Ritz value lies between the ends but for rounding, and the bounds hold with probability
    0.999. Both ways they allow for the rounding of products in the parameters' format, a share of max|eig H|
    (``rounding_slack``), within which an eigenvalue is not told from 0 either.

    Cost: about two passes a step, none where ``run``, the whole one of ``extremes`` for the same problem, is given.

    Examples:
        >>> import torch
        >>> from estimators import Problem, spectrum
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> result = spectrum(problem)
        >>> print(f"{result.smallest:.2f} to {result.largest:.2f}")
        0.50 to 2.00
    """
    meter = Meter(problem)
    warnings: tuple[Finding, ...] = ()
    if problem.forms_hessian:
        values = torch.linalg.eigvalsh(dense_hessian(problem)).cpu().numpy()
        rounding = rounding_share(problem) * float(np.abs(values).max())
        bottom, top = ((end - rounding, end + rounding) for end in (values[0], values[-1]))
        used, confidence = problem.d, 1.0
    else:
        run = run or extremes(problem, steps=steps, seed=seed, progress=progress).whole
        values, bottom, top = run.values, run.smallest_interval, run.largest_interval
        used, confidence, rounding = run.steps, 1 - DELTA, rounding_share(problem) * run.norm
        if not run.ends_known:
            warnings = (not_converged("spectrum", run, run.steps),)
    return Spectrum(
        largest=float(values[-1]),
        smallest=float(values[0]),
        eigenvalues=[float(v) for v in values],
        steps=used,
        largest_lower=float(top[0]),
        largest_upper=float(top[1]),
        smallest_lower=float(bottom[0]),
        smallest_upper=float(bottom[1]),
        rounding=rounding,
        confidence=confidence,
        samples=problem.n,
        eigenvalue_density=None,
        directional=None,
        kinks=None,
        why=dict.fromkeys(("eigenvalue_density", "directional", "kinks"), "not measured by this call"),
        warnings=warnings,
        cost=meter.cost(),
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
