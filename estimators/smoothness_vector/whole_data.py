"""What a draw of samples says about Lambda of the whole data set's Hessian.

Lambda(H) = min{1'L : -diag(L) <= H <= diag(L)} is convex in H, so that of a draw is too large on average (several
times at tens of samples), and no bracket on it, however tight, is one on the data set's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.rare_rows import unseen_share
from estimators.numbers.t_intervals import quantile
from estimators.numbers.vectors import SLICE, norm, random_start
from estimators.results import Interval, Progress, Result, Smoothness, reporting
from estimators.smoothness_vector.at_a_point import smoothness as bracket_of
from estimators.smoothness_vector.sweeps import Sweeps
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import Product, hessian

STAGE = "crossfit"
COLUMNS = 4
"""Of the directions: 8 hold 2% more of an MLP's Lambda for half as many products again, 2 hold 8% less. Fewer where
memory is short."""
BATCHES = 16
"""Pieces of the draw whose scatter gives the standard error."""
NOTHING_SHARED = "directions of one part of the samples find no curvature on the others: too few samples"
MAX_SWEEPS = 30
FEWEST_SWEEPS = 5
GROWTH = 0.003
"""Sweeps end when the lower bound grows by less: what they still gain on one part is mostly its own noise."""


@dataclass(frozen=True, kw_only=True)
class Crossfit(Result):
    """A 95% interval for Lambda of the data set's Hessian, from a draw of ``samples`` of its ``rows`` (None: endless).

    ``crossfit_mean`` <= Lambda in expectation, and ``sample_interval``, the bracket on Lambda of the draw itself, lies
    above it in expectation; ``standard_error`` is that of crossfit_mean. ``inflation`` = the draw's upper bound /
    crossfit_mean: near 1 the draw is large enough. ``products`` are those over all samples: one over a part counts its
    share. ``rare_rows``: the share of the rows below which a draw misses all of them in more than 2.5% of draws; the
    interval holds unless rarer ones carry Lambda. None where all rows were drawn.
    """

    interval: Interval | None
    crossfit_mean: float
    sample_interval: Interval
    standard_error: float
    inflation: float | None
    folds: int
    batches: int
    products: float
    samples: int
    rows: int | None
    rare_rows: float | None


def crossfit_smoothness(
    problem: Problem,
    *,
    rows: int | None = None,
    folds: int = 2,
    batches: int = BATCHES,
    smoothness: Smoothness | None = None,
    max_products: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Crossfit:
    """An interval for Lambda of the data set's Hessian, when the problem's samples are a draw from it.

    Lower end: directions U, V with unit rows from one part A of the samples, the value <H_B, UV'> from the other part
    B. For every U, V, <H, UV'> <= Lambda(H), and it is linear in H, so on samples that had no say in U, V its mean is
    that of the data set. Every fold is B once; the scatter over batches gives the standard error.

    Upper end: E Lambda(H_n) >= Lambda(H) (Jensen), so the bracket of all samples is too high on average, and its own
    error is to first order that of <H_n, UV'> (the gradient of Lambda is UV'). Directions of other samples see only a
    part of Lambda and of its scatter, so the relative error of the lower end is taken for both. The scaling of A tried
    on batches of B, E|D^-1/2 H_B D^-1/2| tr D >= Lambda, is an upper bound too, but that of a batch: about twice as
    high.

    Both ends use Student's t at 97.5% with batches - folds degrees of freedom. They fail together at most about 5% of
    the time while no rows rarer than ``rare_rows`` carry Lambda; curvature of rows that the draw missed is in neither
    end.

    Cost: folds - 1 times about 65 products over the samples, 4 more, and the bracket unless given. Fewer sweeps lower
    the lower end alone: it is valid for any U, V.

    Args:
        problem: the task at a point; its samples are a draw without replacement.
        rows: size of the data set; None where it is endless or much larger.
        folds: parts that take turns as B.
        batches: pieces of the draw, at most its samples.
        smoothness: the bracket on the same samples at the same point; measured where it isn't given.
        max_products: products over all samples that directions and values may take; None: until sweeps gain little.
        seed: of the split and of the directions.
        progress: called with ("crossfit", folds done, folds).

    Raises:
        InputError: too few samples, folds, batches or products, ``rows`` below the samples, a bracket of other samples.

    Examples:
        >>> import torch
        >>> from estimators import Problem, crossfit_smoothness
        >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))  # of rows whose H is the identity
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), (x, torch.ones(64, 1)), loss="squared")
        >>> low, high = crossfit_smoothness(problem).interval
        >>> low < 2 < high
        True
    """
    batches = min(batches, problem.n)
    columns = memory_limit.sweeping([problem], COLUMNS)
    _check(problem, rows, folds, batches, smoothness)
    sweeps = MAX_SWEEPS if max_products is None else min(MAX_SWEEPS, _sweeps_within(max_products, folds, columns))
    meter = Meter(problem)
    generator = torch.Generator().manual_seed(seed)
    whole = smoothness or bracket_of(problem, seed=seed)
    assert whole.l1_lower is not None
    assert whole.l1_upper is not None
    products = 0.0 if smoothness else float(whole.products or 0)
    order = torch.randperm(problem.n, generator=generator)
    pieces = list(order.tensor_split(batches))
    means, squares, report = [], 0.0, reporting(progress, STAGE, folds)
    for fold in range(folds):
        inside = [piece for number, piece in enumerate(pieces) if number % folds != fold]
        outside = pieces[fold::folds]
        fitted, left, right, swept = _directions(problem, torch.cat(inside), generator, columns, sweeps)
        values = _along(problem, outside, left, right)
        sizes = torch.tensor([piece.numel() for piece in outside], dtype=torch.float64)
        mean = float((values * sizes).sum() / sizes.sum())
        squares += float((values - mean).square().sum())
        # Drawn without replacement: B speaks for the rows outside A, and what A holds of the data set is known.
        share = (problem.n - float(sizes.sum())) / rows if rows else 0.0
        means.append(share * fitted + (1 - share) * mean)
        products += swept * sum(piece.numel() for piece in inside) / problem.n
        products += columns * float(sizes.sum()) / problem.n
        report(fold + 1)
    left_out = 1 - problem.n / rows if rows else 1.0
    error = math.sqrt(squares / (batches - folds) / batches * left_out)
    middle = sum(means) / folds
    why = {} if middle > 0 else dict.fromkeys(("interval", "inflation"), NOTHING_SHARED)
    return Crossfit(
        interval=None if why else _limits(middle, whole.l1_upper, error, batches - folds),
        crossfit_mean=middle,
        sample_interval=(whole.l1_lower, whole.l1_upper),
        standard_error=error,
        inflation=None if why else whole.l1_upper / middle,
        folds=folds,
        batches=batches,
        products=products,
        samples=problem.n,
        rows=rows,
        rare_rows=unseen_share(problem.n, rows),
        why=why,
        cost=meter.cost(),
    )


def _limits(middle: float, upper: float, error: float, freedom: int) -> Interval:
    """Both ends; the upper one on the logarithm, as sums of squares lean to the right."""
    margin = quantile(freedom) * error
    # A relative error beyond e^50 is as good as no bound, and must not overflow.
    return max(middle - margin, 0.0), upper * math.exp(min(margin / middle, 50.0))


def _sweeps_within(products: int, folds: int, columns: int) -> int:
    """Sweeps on each part for so many products: one to scale, then a block for each sweep, for U and for the values.

    Raises:
        InputError: they are too few for one.
    """
    sweeps = ((products - columns) // (folds - 1) - 1) // columns - 1
    if sweeps < 1:
        least = (folds - 1) * (2 * columns + 1) + columns
        raise InputError("too few products for a sweep", "max_products", f"allow {least} or more")
    return sweeps


def _directions(
    problem: Problem, index: Tensor, generator: torch.Generator, columns: int, most: int
) -> tuple[float, Tensor, Tensor, int]:
    """<H_A, UV'>, U and V (d, k) with unit rows, and the products taken, for the samples A of the index."""
    like = problem.like
    part = problem.subset(index)
    with hessian(part) as product:
        # Near a perfect fit curvature may be 1e-30 and less: float32 norms of it would vanish.
        scale = norm(product(random_start(problem.d, generator, like)[:, None])[:, 0]) or 1.0

        def scaled(block: Tensor) -> Tensor:
            return product(block).div_(scale)

        sweeps = Sweeps(scaled, problem.d, columns, generator, like, lean=True)
        for count in range(most):
            last = sweeps.lower
            sweeps.sweep()
            if count >= FEWEST_SWEEPS and sweeps.lower <= (1 + GROWTH) * last:
                break
        left, value = _partner(scaled, sweeps.z)
        products = product.products
    problem.passes.add(part.passes.total * part.n / problem.n)
    return value * scale, left, sweeps.z, products


def _partner(product: Product, right: Tensor) -> tuple[Tensor, float]:
    """The best U for V: the rows of HV at unit length, those of V where they vanish; and sum of their lengths."""
    image = product(right)
    length = image.norm(dim=1, keepdim=True)
    left = torch.where(length > 0, image / length.clamp_min(1e-30), right)
    return left, float(length.double().sum())


def _along(problem: Problem, pieces: Sequence[Tensor], left: Tensor, right: Tensor) -> Tensor:
    """<H_B, UV'> for each of the pieces B of the samples, float64 on the CPU."""
    values = []
    for piece in pieces:
        part = problem.subset(piece)
        with hessian(part) as product:
            values.append(_inner(left, product(right)))
        problem.passes.add(part.passes.total * part.n / problem.n)
    return torch.tensor(values, dtype=torch.float64)


def _inner(a: Tensor, b: Tensor) -> float:
    """tr a'b, summed in float64 without float64 copies of the whole blocks."""
    pieces = zip(torch.split(a, SLICE), torch.split(b, SLICE), strict=True)
    return sum(float((x.double() * y.double()).sum()) for x, y in pieces)


def _check(problem: Problem, rows: int | None, folds: int, batches: int, smoothness: Smoothness | None) -> None:
    if folds < 2:
        raise InputError(f"{folds} fold leaves nothing to check on", "folds", "give 2 or more")
    if batches < 2 * folds:
        raise InputError(
            f"{problem.n} samples in {batches} batches are too few for {folds} folds",
            "batches",
            f"give {2 * folds} samples and batches or more",
        )
    if rows is not None and rows < problem.n:
        raise InputError(f"{rows} rows cannot hold {problem.n} samples", "rows", "give the size of the whole data set")
    if smoothness is not None and (smoothness.l1_upper is None or smoothness.samples != problem.n):
        raise InputError(
            "a bracket of other samples", "smoothness", "give that of the same samples, or leave it to be measured"
        )
