"""The (1,1)-norm of the Hessian, sum_jk |H_jk|: an upper bound of Lambda(H) and what Adam's theory calls for.

Xie et al., "Adam exploits l_infinity-geometry of loss landscape via coordinate-wise adaptivity" (2024), probe it with
Cauchy vectors; the bias of the geometric mean is from Li, Hastie & Church, "Nonlinear estimators and tail bounds
for dimension reduction in l1 using Cauchy random projections" (JMLR 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.t_intervals import quantile
from estimators.numbers.vectors import SLICE, dot
from estimators.results import Interval, Progress, Result, reporting
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import Product, curvature

STAGE = "one-norm"
GROUP = 5
"""Probes in a group whose sums show the spread of the probes alone; fewer have too heavy a tail for a variance."""
FEWEST_PROBES = 4 * GROUP
BESIDE = 14
"""Vectors beside a block of products: sums over probes and counts, and the work of a product."""
APART = math.pi**2 / 4
"""Variance of log|C| for a Cauchy number C: that of a row's logarithm where it shares nothing with the others."""


@dataclass(frozen=True, kw_only=True)
class OneNorm(Result):
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


def hessian_one_norm(problem: Problem, *, probes: int = 50, seed: int = 0, progress: Progress | None = None) -> OneNorm:
    """sum_jk |H_jk| for H = nabla^2 f(w), from ``probes`` products; exact where H is formed.

    Half of the products are with Cauchy vectors c: (Hc)_j is Cauchy with scale s_j = sum_k |H_jk|, so the geometric
    mean of m values |(Hc)_j| times cos(pi/2m)^m is an unbiased s^_j, in O(d) memory. Their sum is unbiased too, but
    rows share the probes, so its error does not average out: for a rank-one H it is that of one row, pi/(2 sqrt(m)).
    The other half are whole rows, drawn with probabilities p_j = s^_j / sum s^: sum_j s_j = E[s_j / p_j], without
    bias whatever the probes gave. What rows share cancels in s_j / s^_j and what they don't averages over rows, so
    the relative error is at most about 3 / probes.

    The interval is Student's t on the logarithm. Ten rows may all have the ratio of one group of rows and say nothing
    of another, so beside their scatter stands that of all rows, by the probes: the logarithms of a row and of the mean
    row part by as much from probe to probe as the row's ratio may be off (``_ratio_variance``). The larger counts.

    Cost: about two passes a product. Memory: 20 vectors of size d, or 34 where there is room: a block of five products;
    and one for each Cauchy probe where there is room. Else rows are taken to share nothing, and the interval is wide.

    Args:
        problem: the task at a point.
        probes: number of products, 20 or more.
        seed: of the probes and of the rows.
        progress: called with ("one-norm", products done, products).

    Raises:
        InputError: too few probes, curvature that is not finite.

    Examples:
        >>> import torch
        >>> from estimators import Problem, hessian_one_norm
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> print(f"{hessian_one_norm(problem).value:.2f}")
        2.50
    """
    if probes < FEWEST_PROBES:
        raise InputError(f"{probes} probes give no interval", "probes", f"give {FEWEST_PROBES} or more")
    meter = Meter(problem)
    why: dict[str, str] = {}
    alone = spread = None
    with curvature(problem) as operator:
        if operator.matrix is not None:
            sums = operator.matrix.abs().sum(1)
            value = float(sums.sum())
            interval = (value, value)
            why = dict.fromkeys(("probes_alone", "probes_spread"), "the Hessian was formed")
        else:
            generator = torch.Generator().manual_seed(seed)
            report = reporting(progress, STAGE, probes)
            columns = memory_limit.columns(problem, GROUP, memory_limit.BLOCK, BESIDE)
            keep = memory_limit.vectors(problem) >= memory_limit.BLOCK * columns + BESIDE + probes // 2
            sampled = one_norm_by_products(operator, problem.d, probes, generator, problem.like, report, columns, keep)
            sums, value, interval = sampled.row_sums, sampled.value, sampled.interval
            alone, spread = sampled.probes_alone, sampled.probes_spread
            if spread is None:
                why["probes_spread"] = "the Hessian is zero"
    return OneNorm(
        value=value,
        interval=interval,
        exact=operator.matrix is not None,
        products=operator.products,
        samples=problem.n,
        probes_alone=alone,
        probes_spread=spread,
        why=why,
        vectors=problem.unflatten(sums.to(problem.dtype)),
        cost=meter.cost(),
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
    progress: Callable[[float], None] = lambda _: None,
    columns: int = GROUP,
    keep: bool = True,
) -> Sampled:
    """The estimate of :func:`hessian_one_norm` for a symmetric operator on blocks (d, k).

    ``like`` has the dtype and device of the operator's vectors; a block has no more than so many ``columns``; ``keep``
    the images of all Cauchy probes.
    """
    groups = probes // (2 * GROUP)
    rows = probes - groups * GROUP
    logarithms = torch.zeros(d, dtype=torch.float64, device=like.device)
    counts = torch.zeros(d, dtype=torch.int32, device=like.device)
    sums: list[float] = []
    logs: list[Tensor] = []
    for group in range(groups):
        part, count = torch.zeros_like(logarithms), torch.zeros_like(counts)
        for start in range(0, GROUP, columns):
            image = product(_cauchy(d, min(columns, GROUP - start), generator, like))
            _add_logarithms(image, part, count)
            logs += [_logarithm(column) for column in image.unbind(1)] if keep else []
            del image
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
    apart = _ratio_variance(logs, scales) if keep else APART / (groups * GROUP)
    logs.clear()
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
    error = math.sqrt(max(float(ratios.var()) / mean**2, apart) / rows)
    margin = math.exp(quantile(rows - 1) * error)
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


def _logarithm(column: Tensor) -> Tensor:
    """log|A c|, in the column's format but no half precision; what underflowed counts as the least number."""
    found = torch.empty_like(column, dtype=torch.promote_types(column.dtype, torch.float32))
    least = torch.finfo(column.dtype).tiny
    for x, into in zip(torch.split(column, SLICE), torch.split(found, SLICE), strict=True):
        into.copy_(x.double().abs().clamp_min(least).log())
    return found


def _ratio_variance(logs: Sequence[Tensor], scales: Tensor) -> float:
    """Variance of log(s_j / s^_j) over all rows, each as likely as it is drawn, from how the probes' logarithms part.

    With l_ij = log|(A c_i)_j| and t_i its mean over the rows, s^_j is off by what l_ij - t_i makes on average over the
    probes beside what it makes for every row: the variance over probes, divided by their number, averaged over rows.
    It is 0 for rank one, where all rows have the same ratio, and pi^2/4m where they share nothing.
    """
    weights = scales / scales.sum()
    shared = [dot(weights, log) for log in logs]
    total = 0.0
    for weight, *parts in zip(*(torch.split(each, SLICE) for each in (weights, *logs)), strict=True):
        apart = torch.stack([part.double() - mean for part, mean in zip(parts, shared, strict=True)])
        total += float(weight @ apart.var(0))
    return total / len(logs)


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
