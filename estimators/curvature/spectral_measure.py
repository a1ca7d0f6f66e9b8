"""The spectral measure of an operator: known eigenvalues, and Gauss rules of random starts for the others.

For unit starts q that are uniform on the sphere of the n = d - p dimensional complement of the known eigenvalues,
n q'f(M)q is tr f(M) on average. A rule of s nodes has q'f(M)q exactly where f is a polynomial up to degree 2s - 1; else
it is off by no more than twice the distance of f from those polynomials, see :func:`distance`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive

from estimators.curvature.lanczos import Ritz
from estimators.numbers.t_intervals import form_quantile
from estimators.results import Interval

Array = NDArray[np.float64]
POINTS = 401
WIDTH = 0.01
"""Standard deviation of the smoothing kernel as a share of the distance between the extremal nodes: at least."""
UNRESOLVED = 0.1
"""Largest bias of a rule at the resolution, in heights of a single eigenvalue."""
MARGIN = 4
"""Kernel widths that the grid goes beyond the extremal nodes."""


@dataclass(frozen=True)
class Rule:
    """A Gauss rule; all eigenvalues of its operator lie in [low, high], with the probability of Lanczos' bounds."""

    nodes: Array
    weights: Array
    low: float
    high: float


def rule(run: Ritz) -> Rule:
    """That of a run's start: its Ritz values with the squared first components of their vectors."""
    nodes, vectors = np.linalg.eigh(run.tridiagonal())
    weights = vectors[0] ** 2
    return Rule(nodes, weights / weights.sum(), min(run.lower, float(nodes[0])), max(run.upper, float(nodes[-1])))


@dataclass(frozen=True)
class Smoothed:
    """A density with its standard error and its 95% band at each point."""

    density: Array
    spread: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Measure:
    """``atoms`` (p,) of weight 1/d each, known up to residuals of the norms ``residuals``, and ``rules`` for the rest.

    ``shift``: by so much eigenvalues of the whole and of the two parts may differ. ``rounding``: share of the
    operator's norm by which products are off.
    """

    d: int
    atoms: Array
    residuals: Array
    rules: Sequence[Rule]
    shift: float = 0.0
    rounding: float = 0.0

    @property
    def rest(self) -> int:
        """Dimension that the rules stand for."""
        return self.d - len(self.atoms)

    @property
    def steps(self) -> int:
        """Nodes of the shortest rule."""
        return min(len(r.nodes) for r in self.rules)

    @property
    def radius(self) -> float:
        """Half the range of the eigenvalues that the rules stand for."""
        return max(min(r.high for r in self.rules) - max(r.low for r in self.rules), 0.0) / 2

    def resolution(self) -> float:
        """The least width of a kernel whose bias stays below UNRESOLVED times the height of a single eigenvalue."""
        low, high = 1e-3 / self.steps, 1e3
        for _ in range(60):
            middle = math.sqrt(low * high)
            resolved = 2 * distance(self.steps, middle) <= UNRESOLVED / self.d
            low, high = (low, middle) if resolved else (middle, high)
        return high * self.radius

    def nodes_and_weights(self) -> tuple[list[Array], list[Array]]:
        """One row for each start, the atoms first; weights add up to 1."""
        share = np.full(len(self.atoms), 1 / self.d)
        nodes = [np.concatenate([self.atoms, r.nodes]) for r in self.rules]
        return nodes, [np.concatenate([share, r.weights * (self.rest / self.d)]) for r in self.rules]

    def moment(self, power: int) -> tuple[float, Interval]:
        """The mean of lambda^power, 1 or 2, with its 95% interval: of tr H^power / d.

        Exact for the atoms, coupling included: ||H||_F^2 is the sum of those of its blocks.
        """
        sums = float((self.atoms**power).sum())
        if power == 2:
            sums += 2 * float((self.residuals**2).sum())
        first, second = (self._mean([r.nodes**k for r in self.rules]) for k in (power, 2 * power))
        value = (sums + self.rest * float(first)) / self.d
        half = form_quantile(len(self.rules)) * float(self._error(first, second))
        size = value if power == 2 else math.sqrt(self.moment(2)[0])
        half += power * self.rounding * size
        return value, (max(value - half, 0.0) if power == 2 else value - half, value + half)

    def density(self, grid: Array, width: float) -> Smoothed:
        """That smoothed with a Gaussian kernel.

        The band holds scatter over the starts, the rules' bias, and how far eigenvalues may be off by coupling and
        rounding, times the slope that they have there.
        """
        first = self._mean([kernel(grid, r.nodes, width) for r in self.rules])
        # A Gaussian squared is one of 1/sqrt(2) of the width.
        half = width / math.sqrt(2)
        second = self._mean([kernel(grid, r.nodes, half) / (2 * width * math.sqrt(math.pi)) for r in self.rules])
        density = smoothed(self.atoms, np.full(len(self.atoms), 1 / self.d), grid, width) + self.rest / self.d * first
        spread = self._error(first, second)
        bias = 2 * distance(self.steps, width / self.radius) if self.radius > 0 else 0.0
        height = 1 / (width * math.sqrt(2 * math.pi))
        margin = form_quantile(len(self.rules)) * spread + bias * height * self.rest / self.d
        nodes, weights = self.nodes_and_weights()
        off = self.shift + self.rounding * max(float(np.abs(row).max()) for row in nodes)
        slopes = [_slope(grid, row, width) @ weight for row, weight in zip(nodes, weights, strict=True)]
        margin = margin + off * np.mean(slopes, 0)
        return Smoothed(density, spread, np.maximum(density - margin, 0.0), density + margin)

    def _mean(self, values: Sequence[Array]) -> Array:
        """Of a function over the rules, its values at the nodes in the last axis."""
        return np.asarray(np.mean([v @ r.weights for v, r in zip(values, self.rules, strict=True)], 0))

    def _error(self, first: Array, second: Array) -> Array:
        """Standard error of tr f(M)/d from the means of f and of f^2; a constant added to f changes no form."""
        square = self.rest * np.maximum(second - first**2, 0.0)
        return np.sqrt(2 * square / len(self.rules)) / self.d


def points(nodes: Array, share: float, least: float = 0.0) -> tuple[Array, float]:
    """Points from MARGIN kernel widths below the least node to as many above the largest, and the width in use.

    The width is a share of the range of the nodes, or ``least`` where that is more.
    """
    low, high = float(nodes.min()), float(nodes.max())
    size = max(high, -low)
    # The ends of a multiple of the identity differ by rounding alone: then a share of its size, or of 1.
    span = high - low if high - low > 1e-6 * size else size or 1.0
    width = max(share * span, least)
    count = max(POINTS, math.ceil(3 * (2 * MARGIN + span / width)))
    return np.linspace(low - MARGIN * width, high + MARGIN * width, count), width


def kernel(grid: Array, nodes: Array, width: float) -> Array:
    """N(x; theta, width^2) at the grid's points, (grid, nodes)."""
    return np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))


def distance(steps: int, width: float) -> float:
    """Of a Gaussian on [-1, 1] from the polynomials up to degree 2 steps - 1, as a share of its height: at most.

    The Chebyshev coefficients of exp(-x^2/2h^2) are 2 e^-z I_k(z) at degree 2k, z = 1/4h^2; sums of those left out are
    up to 1.3 times as large for a Gaussian about another point, and twice the sum is returned. Where z is large it is
    4 Q(2 steps h), with Q the upper tail of the normal distribution.
    """
    z = 1 / (4 * width * width)
    orders = np.arange(steps, steps + 60 + math.ceil(12 * math.sqrt(z)))
    return float(min(4 * ive(orders, z).sum(), 1.0))


def _slope(grid: Array, nodes: Array, width: float) -> Array:
    """The size of its derivative, (grid, nodes)."""
    return np.abs(grid[:, None] - nodes) / width**2 * kernel(grid, nodes, width)


def smoothed(nodes: Array, weights: Array, grid: Array, width: float) -> Array:
    """sum_k w_k N(x; theta_k, width^2) at the grid's points; node by node, as there may be thousands."""
    total = np.zeros(len(grid))
    for node, weight in zip(nodes, weights, strict=True):
        total += weight * np.exp(-0.5 * ((grid - node) / width) ** 2)
    return total / (width * math.sqrt(2 * math.pi))
