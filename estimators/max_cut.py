"""The smallest diagonal that dominates a symmetric matrix, from products alone.

Lambda(H) = min{1'd : -diag(d) <= H <= diag(d)} = max{sum_ij H_ij <u_i, v_j> : |u_i| = |v_j| = 1}.

The maximum is a Grothendieck program, solved here in low rank: for unit rows V the best U is rownorm(HV)
with value sum_i |(HV)_i|, so every sweep gives a lower bound. Scaling by D^(-1/2) and bounding the largest
eigenvalue gives the upper bound mu sum(D) with the feasible vector L = mu D. Shapes: d rows, k columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from estimators.lanczos import Ritz, lanczos, random_start
from estimators.products import Counted, Product

COLUMNS = 12
MOMENTUM = 0.35
"""Both chosen on MLPs (start and trained) and a GPT-2 at its start: 8 columns stall at a gap of 4% on the latter."""
FIRST_SWEEPS = 6
FLOOR = 0.5
"""Floor of D as a share of the gap asked for, times the mean of D: 0.1 to 0.8 differ little, 0.5 was best."""
ATTEMPTS = 6
"""Certifying Lanczos runs at most; each has its share of the probability."""
LANCZOS_STEPS = 80
FEWEST_PRODUCTS = 2 * COLUMNS
ROUNDING = 2e-5
"""Slack of a bound from float32 products; 1e-10 where they are float64."""


@dataclass(frozen=True)
class Bracket:
    """lower <= Lambda(H) <= upper = sum(vector), the vector feasible with probability 1 - delta.

    ``first_row_norms`` are the row norms of H times k random unit columns: an estimate of sqrt((H^2)_jj).
    """

    lower: float
    upper: float
    vector: Tensor
    first_row_norms: Tensor
    products: int

    def times(self, scale: float) -> Bracket:
        """The bracket of ``scale`` times the operator."""
        return replace(
            self,
            lower=self.lower * scale,
            upper=self.upper * scale,
            vector=self.vector * scale,
            first_row_norms=self.first_row_norms * scale,
        )


class Sweeps:
    """Alternating sweeps Z+ = rownorm(HZ - beta n Z_prev), n the row norms of HZ; ``lower`` never falls."""

    def __init__(self, product: Product, d: int, columns: int, generator: torch.Generator, like: Tensor) -> None:
        self.product = product
        start = torch.randn(d, columns, generator=generator, dtype=torch.float64)
        self.z = (start / start.norm(dim=1, keepdim=True)).to(like.device, like.dtype)
        self.previous: Tensor | None = None
        self.norms: list[Tensor] = []
        self.lower = 0.0

    def sweep(self) -> None:
        image = self.product(self.z)
        norms = image.double().norm(dim=1)
        self.norms = [*self.norms[-1:], norms]
        self.lower = max(self.lower, float(norms.sum()))
        step = image
        if self.previous is not None:
            step = image - MOMENTUM * norms.to(image.dtype)[:, None] * self.previous
        length = step.norm(dim=1, keepdim=True)
        # A row without a direction (a token never seen) keeps its old one.
        self.previous, self.z = self.z, torch.where(length > 0, step / length.clamp_min(1e-30), self.z)

    @property
    def scaling(self) -> Tensor:
        """D: mean of the last two row norms, shape (d,), float64."""
        return sum(self.norms[1:], self.norms[0]) / len(self.norms)


def bracket(
    product: Counted,
    generator: torch.Generator,
    like: Tensor,
    gap: float,
    max_products: int,
    delta: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Bracket:
    """Sweep and certify until upper/lower - 1 <= gap or the products run out.

    Args:
        product: the operator, applied to blocks (d, k).
        like: a tensor with the dtype and device of the operator's vectors.
        gap: goal for upper/lower - 1.
        max_products: at least FEWEST_PRODUCTS.
        delta: probability with which the upper bound may fail.
        progress: called with the products so far.
    """
    d, before = product.d, product.products
    sweeps = Sweeps(product, d, COLUMNS, generator, like)
    sweeps.sweep()
    first = sweeps.norms[0]
    active = first > 0
    n = int(active.sum())
    if n == 0:
        zero = torch.zeros_like(first)
        return Bracket(0.0, 0.0, zero, first, product.products - before)
    rounding = ROUNDING if like.dtype == torch.float32 else 1e-10
    upper, vector = float("inf"), torch.zeros_like(first)

    def left() -> int:
        return max_products - (product.products - before)

    def affordable() -> bool:
        return left() >= COLUMNS + min(LANCZOS_STEPS, max_products // 4)

    due = FIRST_SWEEPS - 1
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        while (due > 0 or last) and affordable():
            sweeps.sweep()
            due -= 1
            progress(product.products - before)
        last = last or not affordable()
        scaling = floored(sweeps.scaling, active, FLOOR * gap)
        total = float(scaling.sum()) * (1 + rounding)
        goal = (1 + gap) * sweeps.lower

        def done(run: Ritz, total: float = total, goal: float = goal, last: bool = last) -> bool:
            """The goal is certified, or this scaling is seen to miss it."""
            return run.norm_bound * total <= goal or (not last and run.norm * total > goal)

        steps = min(LANCZOS_STEPS, left())
        run = certify(product, scaling, active, generator, like, steps, delta / ATTEMPTS, done)
        progress(product.products - before)
        if run.norm_bound * total < upper:
            upper, vector = run.norm_bound * total, run.norm_bound * (1 + rounding) * scaling
        if upper <= (1 + gap) * sweeps.lower or last:
            break
        due = FIRST_SWEEPS - 1 + 2 * attempt
    return Bracket(sweeps.lower, upper, vector, first, product.products - before)


def floored(scaling: Tensor, active: Tensor, share: float) -> Tensor:
    """D with a floor of a share of its mean on the active rows, 0 elsewhere."""
    floor = share * float(scaling.sum()) / max(int(active.sum()), 1)
    return torch.where(active, scaling + floor, torch.zeros_like(scaling))


def certify(
    product: Product,
    scaling: Tensor,
    active: Tensor,
    generator: torch.Generator,
    like: Tensor,
    steps: int,
    delta: float,
    stop: Callable[[Ritz], bool],
) -> Ritz:
    """Lanczos on D^(-1/2) H D^(-1/2) over the active rows, from a start drawn after D."""
    inverse_root = torch.where(active, scaling.clamp_min(1e-300).rsqrt(), torch.zeros_like(scaling))

    def scaled(block: Tensor) -> Tensor:
        image = product((inverse_root[:, None] * block.double()).to(like.dtype))
        return (inverse_root[:, None] * image.double()).to(like.dtype)

    start = torch.where(
        active, random_start(scaling.numel(), generator, like), torch.zeros_like(scaling).to(like.dtype)
    )
    return lanczos(scaled, start, int(active.sum()), steps, delta, generator, stop, check_from=8)


def dense_bracket(matrix: Tensor, generator: torch.Generator, gap: float, max_sweeps: int = 4000) -> Bracket:
    """The bracket of a formed symmetric matrix in float64; the upper bound is an eigenvalue, no probability."""
    d = matrix.shape[0]
    active = matrix.abs().sum(1) > 0
    n = int(active.sum())
    rows = matrix.norm(dim=1)
    if n == 0:
        return Bracket(0.0, 0.0, torch.zeros_like(rows), rows, d)
    scale = float(matrix.abs().max())
    part = matrix[active][:, active] / scale
    # Above sqrt(2n) columns the low-rank program has no spurious local maxima in general.
    sweeps = Sweeps(lambda block: part @ block, n, min(n, int(2 * n**0.5) + 3), generator, part)
    upper, best = float("inf"), torch.zeros(n, dtype=part.dtype, device=part.device)
    every = torch.ones(n, dtype=torch.bool, device=part.device)
    check = 16
    for count in range(1, max_sweeps + 1):
        sweeps.sweep()
        if count < check and count < max_sweeps:
            continue
        check = int(1.5 * count)
        for share in (gap / 4, gap / 40):
            scaling = floored(sweeps.scaling, every, share)
            root = scaling.rsqrt()
            norm = float(torch.linalg.eigvalsh(root[:, None] * part * root).abs().max()) * (1 + 1e-13 * n)
            if norm * float(scaling.sum()) < upper:
                upper, best = norm * float(scaling.sum()), norm * scaling
        if upper <= (1 + gap) * sweeps.lower:
            break
    vector = torch.zeros_like(rows)
    vector[active] = best
    return Bracket(sweeps.lower, upper, vector, rows / scale, d).times(scale)
