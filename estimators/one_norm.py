"""The (1,1)-norm of the Hessian, sum_jk |H_jk|: an upper bound of Lambda(H) and what Adam's theory calls for.

Xie et al., "Adam exploits l_infinity-geometry of loss landscape via coordinate-wise adaptivity" (2024), probe it with
Cauchy vectors; the bias of the geometric mean is from Li, Hastie & Church, "Nonlinear estimators and tail bounds
for dimension reduction in l1 using Cauchy random projections" (JMLR 2007).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from scipy.stats import t as student
from torch import Tensor

from estimators import memory
from estimators.errors import InputError
from estimators.lanczos import SLICE
from estimators.problem import Problem
from estimators.products import DENSE_LIMIT, Product, dense_hessian, hessian
from estimators.results import Cost, Interval, Progress

STAGE = "one-norm"
GROUP = 5
"""Probes in a group whose sums show the spread of the probes alone; fewer have too heavy a tail for a variance."""
FEWEST_PROBES = 4 * GROUP
LEVEL = 0.975
"""Level of Student's t that covers 95% in fact: at 0.95 the ratios, skewed to the right, gave 91 to 95%."""
BESIDE = 14
"""Vectors beside a block of products: sums over probes and counts, and the work of a product."""


@dataclass(frozen=True, kw_only=True)
class OneNorm:
    """sum_jk |H_jk| with a 95% interval ([x, x] where ``exact``).

    ``probes_alone`` is what the Cauchy probes say without the rows, ``probes_spread`` the relative standard deviation
    of its groups of 5 probes over sqrt(groups). ``vectors`` holds the row sums sum_k |H_jk| (estimates, unless exact).
    """

    value: float
    interval: Interval
    exact: bool
    products: int
    samples: int
    probes_alone: float | None
    probes_spread: float | None
    why: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    cost: Cost = field(default=Cost())


def hessian_one_norm(problem: Problem, *, probes: int = 50, seed: int = 0, progress: Progress | None = None) -> OneNorm:
    """sum_jk |H_jk| for H = nabla^2 f(w), from ``probes`` products; exact where H is formed (d <= 2,000).

    Half of the products are with Cauchy vectors c: (Hc)_j is Cauchy with scale s_j = sum_k |H_jk|, so the geometric
    mean of m values |(Hc)_j| times cos(pi/2m)^m is an unbiased s^_j, in O(d) memory. Their sum is unbiased too, but
    rows share the probes, so its error does not average out: for a rank-one H it is that of one row, pi/(2 sqrt(m)).
    The other half are whole rows, drawn with probabilities p_j = s^_j / sum s^: sum_j s_j = E[s_j / p_j], without
    bias whatever the probes gave. What rows share cancels in s_j / s^_j and what they don't averages over rows, so
    the relative error is at most about 3 / probes, and the draws are independent: the interval is Student's t.

    Cost: about two passes a product. Memory: 20 vectors of size d, or 34 where there is room: a block of five products.

    Args:
        problem: the task at a point.
        probes: number of products, 20 or more.
        seed: of the probes and of the rows.
        progress: called with ("one-norm", products done, products).

    Raises:
        InputError: too few probes, curvature that is not finite.
    """
    if probes < FEWEST_PROBES:
        raise InputError(f"{probes} probes give no interval", "probes", f"give {FEWEST_PROBES} or more")
    began, before = time.perf_counter(), problem.passes.total
    why: dict[str, str] = {}
    alone = spread = None
    if problem.d <= DENSE_LIMIT:
        sums = dense_hessian(problem).abs().sum(1)
        value, products = float(sums.sum()), problem.d
        interval = (value, value)
        why = dict.fromkeys(("probes_alone", "probes_spread"), "the Hessian was formed")
    else:
        generator = torch.Generator().manual_seed(seed)
        like = next(iter(problem.parameters.values()))

        def report(done: int) -> None:
            if progress:
                progress(STAGE, done, probes)

        columns = memory.columns(problem, GROUP, memory.BLOCK, BESIDE)
        with hessian(problem) as product:
            found = one_norm_by_products(product, problem.d, probes, generator, like, report, columns)
            products = product.products
        sums, value, interval = found.row_sums, found.value, found.interval
        alone, spread = found.probes_alone, found.probes_spread
        if spread is None:
            why["probes_spread"] = "the Hessian is zero"
    return OneNorm(
        value=value,
        interval=interval,
        exact=problem.d <= DENSE_LIMIT,
        products=products,
        samples=problem.n,
        probes_alone=alone,
        probes_spread=spread,
        why=why,
        vectors=problem.unflatten(sums.to(problem.dtype)),
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


@dataclass(frozen=True)
class Sampled:
    """An estimate of sum_jk |A_jk| of an operator; ``row_sums`` (d,) float64 are those of the probes."""

    value: float
    interval: Interval
    probes_alone: float
    probes_spread: float | None
    row_sums: Tensor


def one_norm_by_products(
    product: Product,
    d: int,
    probes: int,
    generator: torch.Generator,
    like: Tensor,
    progress: Callable[[int], None] = lambda _: None,
    columns: int = GROUP,
) -> Sampled:
    """The estimate of :func:`hessian_one_norm` for a symmetric operator on blocks (d, k).

    ``like`` has the dtype and device of the operator's vectors; a block has no more than so many ``columns``.
    """
    groups = probes // (2 * GROUP)
    rows = probes - groups * GROUP
    logarithms = torch.zeros(d, dtype=torch.float64, device=like.device)
    counts = torch.zeros(d, dtype=torch.int32, device=like.device)
    sums: list[float] = []
    for group in range(groups):
        part, count = torch.zeros_like(logarithms), torch.zeros_like(counts)
        for start in range(0, GROUP, columns):
            _add_logarithms(product(_cauchy(d, min(columns, GROUP - start), generator, like)), part, count)
        sums.append(float(_scales(part, count).sum()))
        logarithms += part
        counts += count
        progress((group + 1) * GROUP)
    del part, count
    scales = _scales(logarithms, counts)
    del logarithms, counts
    total = float(scales.sum())
    if total == 0:
        return Sampled(0.0, (0.0, 0.0), 0.0, None, scales)
    means = torch.tensor(sums, dtype=torch.float64)
    spread = float(means.std() / means.mean()) / math.sqrt(groups)
    # By the cumulative sum: torch.multinomial takes 2^24 coordinates at most.
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    steps = scales.cpu().cumsum(0)
    drawn = torch.searchsorted(steps, uniform * steps[-1], right=True).clamp_max(d - 1)
    del steps
    different, where = torch.unique(drawn, return_inverse=True)
    exact: list[float] = []
    for some in different.split(columns):
        block = torch.zeros(some.numel(), d, dtype=like.dtype, device=like.device)
        block[torch.arange(some.numel(), device=like.device), some.to(like.device)] = 1
        exact += [_absolute_sum(row) for row in product(block.T).unbind(1)]
        progress(groups * GROUP + len(exact))
    ratios = torch.tensor(exact, dtype=torch.float64)[where] / scales.cpu()[drawn]
    mean = float(ratios.mean())
    # On the logarithm: the ratios lean to the right, and a low mean comes with a low standard deviation.
    margin = math.exp(float(student.ppf(0.5 + LEVEL / 2, rows - 1)) * float(ratios.std()) / (math.sqrt(rows) * mean))
    return Sampled(total * mean, (total * mean / margin, total * mean * margin), total, spread, scales)


def _add_logarithms(image: Tensor, logarithms: Tensor, counts: Tensor) -> None:
    """Adds log|A c|, summed over the columns of (d, k), and how many of them are known."""
    for column in image.unbind(1):
        for x, log, count in zip(*(torch.split(each, SLICE) for each in (column, logarithms, counts)), strict=True):
            size = x.double().abs()
            # A zero that is no zero row is an underflow: it says nothing about the row's scale.
            known = size > 0
            log += torch.where(known, size, 1.0).log()
            count += known


def _absolute_sum(row: Tensor) -> float:
    return sum(float(x.double().abs().sum()) for x in torch.split(row, SLICE))


def _scales(logarithms: Tensor, counts: Tensor) -> Tensor:
    """Unbiased Cauchy scales from sums of m logarithms, m >= 2: E|C|^(1/m) = 1/cos(pi/2m). 0 where m < 2."""
    found = torch.empty_like(logarithms)
    for log, count, into in zip(*(torch.split(each, SLICE) for each in (logarithms, counts, found)), strict=True):
        m = count.double().clamp_min(2.0)
        into.copy_(torch.where(count >= 2, (log / m + m * (math.pi / (2 * m)).cos().log()).exp(), 0.0))
    return found


def _cauchy(d: int, columns: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard Cauchy numbers (d, columns), drawn on the CPU so that they are the same on every device."""
    found = torch.empty(columns, d, dtype=like.dtype, device=like.device)
    for column in found:
        for into in torch.split(column, SLICE):
            normal = torch.randn(2, into.numel(), generator=generator, dtype=torch.float64)
            into.copy_(normal[0] / normal[1])
    return found.T
