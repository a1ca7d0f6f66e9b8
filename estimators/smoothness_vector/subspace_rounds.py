"""Rounds of the bracket on Lambda(H) in a subspace whose products are known.

With D of the sweeps and M = D^(-1/2) H D^(-1/2), vectors whose products H S have been paid for give an orthonormal Y
with M Y at no cost. Lanczos on P M P, P = I - Y Y', from a random start adds Q and bounds +-M beyond Y by b+ and b-.
For a unit vector x = B a + w with B = [Y, Q, ...] and w orthogonal to B,

    +-x'M x <= a'(+-T)a + 2 |w| |R a| + b |w|^2,    T = B'MB,  R = MB - B T,

so max|eig M| is at most the largest eigenvalue of [[+-T, (R'R)^(1/2)], [(R'R)^(1/2), b I]]. Directions a that attain
it are refined: R a joins the basis for one product, and b stays valid because it lies beyond Y. Between rounds the
dual program is solved within the known vectors, again without a product.

Shapes: d coordinates, p known vectors. Vectors are columns in the operator's dtype; their Gram matrices are products
over chunks of rows, summed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.curvature.lanczos import Ritz, lanczos
from estimators.numbers.vectors import random_start
from estimators.smoothness_vector.known_subspace import (
    Compression,
    Known,
    bordered,
    gram,
    largest,
    orthonormalising,
    symmetric,
    whitening,
)
from estimators.task.products import Product

KEPT = 32
"""Ritz vectors that a round hands to the next one."""
EXPLORING, LONGEST = 12, 40
"""Lanczos steps: to look at a scaling, and at most where it can certify the goal."""
BEYOND = 0.88
"""Lanczos goes on until the bound beyond Y is this share of the largest Ritz value."""
REFINED, REFINED_TO_CERTIFY, TOGETHER = 16, 64, 8
ON_ACTIVE = 0.03
"""Share of a known vector on the active rows below which it is left out: the rest of it is rounding."""
WEAK = 0.9
"""The known vectors are weak where M has a Ritz value of this share of the largest one beyond them."""
SETTLING_STEPS = 8
SETTLED_TO = 1e-3
FLOORS = (0.08, 0.05, 0.03, 0.02, 0.01, 0.005)
"""Floors of D in the rounds as shares of its mean."""
FEWEST_VECTORS = KEPT + LONGEST + REFINED


@dataclass(frozen=True)
class Scaled:
    """M = D^(-1/2) H D^(-1/2) on the rows where D > 0."""

    product: Product
    scaling: Tensor

    @property
    def active(self) -> Tensor:
        return self.scaling > 0

    def inverse_root(self, like: Tensor) -> Tensor:
        root = torch.where(self.active, self.scaling, torch.ones_like(self.scaling)).rsqrt()
        return torch.where(self.active, root, torch.zeros_like(root)).to(like)

    def __call__(self, block: Tensor) -> Tensor:
        s = self.inverse_root(block)[:, None]
        return s * self.product(s * block)

    def known(self, known: Known) -> Known:
        """An orthonormal basis Y of D^(1/2) S over the active rows, with M Y."""
        inside = torch.where(self.active[:, None], known.vectors, torch.zeros_like(known.vectors)).double().norm(dim=0)
        known = known.columns(inside > ON_ACTIVE * known.lengths())
        s = self.inverse_root(known.vectors)[:, None]
        root = self.scaling.sqrt().to(known.vectors)[:, None]
        vectors = root * known.vectors
        length = vectors.norm(dim=0)
        found = Known(vectors / length, s * known.images / length)
        for _ in range(2):
            found = found.combined(orthonormalising(found.vectors))
        return found

    def back(self, found: Known) -> Known:
        """The vectors s X with H s X = D^(1/2) M X, from X and M X."""
        s = self.inverse_root(found.vectors)[:, None]
        root = self.scaling.sqrt().to(found.vectors)[:, None]
        return Known(s * found.vectors, root * found.images)


@dataclass(frozen=True)
class Round:
    """What one scaling gave: norm <= max|eig M|, and max|eig M| <= bound with probability 1 - delta.

    ``beyond`` is the largest Ritz value beyond Y as a share of ``norm``: where it is near 1, the known vectors hold
    little of what matters. ``known`` holds Ritz vectors for the next round.
    """

    norm: float
    bound: float
    beyond: float
    known: Known


def explore(
    operator: Scaled,
    known: Known,
    generator: torch.Generator,
    goal: float,
    budget: int,
    delta: float,
    room: int,
) -> Round:
    """One round: deflated Lanczos, then refinement of the coupling.

    Args:
        operator: M, over its active rows.
        known: vectors with their products with H.
        generator: draws the start, after D and Y.
        goal: value of max|eig M| that certifies the gap asked for; a scaling seen to miss it is explored only.
        budget: products allowed, 1 or more.
        delta: probability of failure of the bounds beyond Y.
        room: basis vectors that may be held.
    """
    found = operator.known(known)
    whole = Compression(found.vectors, found.images)
    rounding = torch.finfo(found.vectors.dtype).eps * whole.norm
    beyond = int(operator.active.sum()) - found.count
    above = below = top = 0.0
    if beyond > 0:
        run = _deflated(operator, whole, generator, goal, min(LONGEST, budget, beyond), delta)
        rounding = max(rounding, torch.finfo(found.vectors.dtype).eps * run.norm)
        above, below, top = run.upper + 100 * rounding, -run.lower + 100 * rounding, run.norm
        basis, inside, tail = _opened(run, whole.basis)
        coupling = torch.zeros_like(basis)
        coupling[:, -1] = tail
        whole.append(basis, inside, coupling)
        budget -= run.steps
    affordable, refined = min(budget, room - whole.basis.shape[1]), 0
    best, values, directions = whole.bound(above, below)
    while True:
        norm = whole.norm
        certifying = norm <= goal and max(above, below) <= 0.95 * norm
        limit = min(REFINED_TO_CERTIFY if certifying else REFINED, affordable)
        aim = goal if norm <= goal else 1.003 * norm
        if best <= aim or refined >= limit or top > WEAK * norm:
            break
        attained = (values > (norm + aim) / 2).nonzero()[:, 0]
        order = attained[values[attained].argsort(descending=True)][: min(TOGETHER, limit - refined)]
        new = whole.towards(directions[:, order], 30 * rounding)
        if not new.shape[1]:
            break
        image = operator(new)
        inside = symmetric(gram(new, image))
        coupling = image - new @ inside.to(new)
        coupling = coupling - whole.basis @ gram(whole.basis, coupling).to(new)
        coupling = coupling - new @ gram(new, coupling).to(new)
        whole.append(new, inside, coupling)
        refined += new.shape[1]
        # A refinement may raise the bound of its step: each of them holds, so the smallest does.
        bound, values, directions = whole.bound(above, below)
        best = min(best, bound)
    return Round(norm, best, top / norm if norm > 0 else 0.0, operator.back(whole.leading(KEPT)))


def _deflated(
    operator: Scaled, whole: Compression, generator: torch.Generator, goal: float, steps: int, delta: float
) -> Ritz:
    """Lanczos on P M P from a random start orthogonal to Y."""
    y = whole.basis
    crossed: list[Tensor] = []

    def project(block: Tensor) -> Tensor:
        for _ in range(2):
            block = block - y @ (y.T @ block)
        return block

    def enough(run: Ritz) -> bool:
        """The scaling misses the goal, or what lies beyond Y is well below the largest Ritz value."""
        if run.closed:
            return True
        assert run.basis is not None
        done = sum(block.shape[0] for block in crossed)
        crossed.append(gram(run.basis[done:].T, whole.coupling))
        inside = torch.from_numpy(run.tridiagonal()).to(whole.inside)
        norm = largest(bordered(whole.inside, torch.cat(crossed).T, inside))
        return norm > goal or run.norm_bound <= BEYOND * norm

    active = operator.active
    start = random_start(active.numel(), generator, y) * active
    start = project(start[:, None])[:, 0]
    return lanczos(
        lambda block: project(operator(block)),
        start,
        int(active.sum()),
        steps,
        delta,
        generator,
        enough,
        check_from=EXPLORING,
        keep=True,
    )


def _opened(run: Ritz, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Basis, T and residual of the Krylov space that the start opened, as far as it is orthogonal to Y.

    Where M beyond Y is of low rank, residuals drown in the rounding of M: the vectors after that turn towards Y, and
    those of a space that was opened anew were never orthogonal to it. The bounds hold with all of them.
    """
    assert run.basis is not None
    assert run.residual is not None
    count = run.closed[0] if run.closed else run.steps
    turned = gram(y, run.basis[:count].T).abs() > 300 * torch.finfo(y.dtype).eps
    lost = turned.any(0).nonzero()
    if lost.numel():
        count = max(int(lost[0]), 1)
    inside = torch.from_numpy(run.tridiagonal()[:count, :count]).to(y.device)
    if count == run.steps:
        tail = run.residual
    elif count in run.closed:
        tail = torch.zeros_like(run.residual)
    else:
        tail = run.betas[count - 1] * run.basis[count]
    return run.basis[:count].T, inside, tail


def settle(known: Known, weights: Tensor, columns: int, steps: int = SETTLING_STEPS) -> tuple[Tensor, Tensor]:
    """The dual program within the known vectors, without a product.

    Fixed point C <- (S' diag(n) S)^-1 S'HS C with n the row norms of H S C.

    Args:
        weights: C to start from, shape (p, q).
        columns: columns of the direction wanted.

    Returns:
        n, shape (d,), the mean of the last two; and H S C in its ``columns`` leading combinations, whose normalised
        rows are the next Z.
    """
    length = known.lengths()
    there = length > 0
    unit = known.columns(there).combined(torch.diag(1 / length[there]))
    c = (length[:, None] * weights.to(length))[there]
    inside = symmetric(gram(unit.vectors, unit.images))
    image = unit.images @ c.to(unit.images)
    before = last = image.square().sum(1).sqrt()
    for step in range(steps):
        if step and float((last - before).abs().sum()) <= SETTLED_TO * float(last.sum()):
            break
        before = last
        metric = symmetric(gram(unit.vectors, unit.vectors, last))
        basis = whitening(metric)
        c = basis @ (basis.T @ (inside @ c))
        image = unit.images @ c.to(unit.images)
        last = image.square().sum(1).sqrt()
    if image.shape[1] > columns:
        share = 1 / last.clamp_min(1e-6 * float(last.mean()))
        leading = torch.linalg.eigh(symmetric(gram(image, image, share))).eigenvectors[:, -columns:]
        image = image @ leading.to(image)
    return (last.double() + before.double()) / 2, image


def floor_share(known: Known, scaling: Tensor, wanted: float) -> tuple[float, bool]:
    """The largest of FLOORS with which the known vectors let D certify ``wanted``, and True; or what comes nearest.

    max|eig| of the pencil (S'HS, S'D_f S) times the sum of D_f: no product.
    """
    known = known.columns(known.lengths() > 0)
    inside = symmetric(gram(known.vectors, known.images))
    weighted, plain = gram(known.vectors, known.vectors, scaling.to(known.vectors)), gram(known.vectors, known.vectors)
    mean = float(scaling.sum()) / max(int((scaling > 0).sum()), 1)
    reached = {}
    for share in FLOORS:
        basis = whitening(symmetric(weighted + share * mean * plain))
        reached[share] = largest(symmetric(basis.T @ inside @ basis)) * float(scaling.sum()) * (1 + share)
        if reached[share] <= wanted:
            return share, True
    return min(reached, key=lambda share: reached[share]), False
