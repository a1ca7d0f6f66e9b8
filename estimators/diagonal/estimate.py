"""The diagonal of the Hessian with a bound for each coordinate; its trace and the sum of absolute values.

Hutchinson's estimator (1990) in the form of Bekas, Kokiopoulou & Saad (Appl. Numer. Math. 2007):
E[z * Hz] = diag(H) for z with independent signs; ``probes.py`` lessens its noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from estimators.curvature.lanczos import Ritz, rounding_share
from estimators.diagonal.deflation import deflation
from estimators.diagonal.probe_plan import choose
from estimators.diagonal.probes import Estimate, Purse, carry_out
from estimators.errors import InputError
from estimators.numbers.t_intervals import LEVEL, quantile, standard_error, sum_interval
from estimators.results import HessianDiagonal, Interval, Progress, Smoothness, reporting
from estimators.task.function import Meter
from estimators.task.plain_networks import plain_network
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian, finite
from estimators.task.stagewise import diagonal, diagonal_passes

PROBES = 64
STAGE = "hessian_diagonal"


def hessian_diagonal(
    problem: Problem,
    *,
    probes: int = PROBES,
    smoothness: Smoothness | None = None,
    krylov: Ritz | None = None,
    shrink: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> HessianDiagonal:
    """h_j = d_j^2 f(w) with lower and upper bounds, tr H and sum_j |h_j| with 95% intervals.

    Read off the Hessian where it is formed: all intervals are [x, x]. So they are for a plain network of any size,
    layer by layer (``stagewise.py``), where that costs no more than the probes. Else random probes, in the way that a
    pilot finds best (``probe_plan.py``): h_j is estimated without bias, its bounds are a 95% t interval *for each
    coordinate alone*, cut to [-L_j, L_j] where a smoothness result of the same samples is given (lower = upper = the
    nearer end where the two do not meet; the value is moved into its bounds). Bounds lean on normality of a mean of a
    few probes: a coordinate coupled to one other takes two values alone, and its interval is rougher. The trace's
    interval uses the independent probes. The interval of sum|h_j| is conservative: see ``absolute_sum``.

    Args:
        probes: Hessian-vector products that may be spent, backward passes for the Gauss-Newton part counted with a
            third of one each. ``probes`` of the result are those that were. Cost: two passes each, and one.
        smoothness: a result of the same samples and point, whose L cuts the bounds.
        krylov: a Lanczos run on H at the same samples and point that kept its basis: its products are not paid again.
        shrink: give up unbiasedness of the value, and of nothing else, for a smaller error: see ``shrunk``.

    Raises:
        InputError: fewer than 4 probes; a smoothness result or a Lanczos run of another problem.

    Examples:
        >>> import torch
        >>> from estimators import Problem, hessian_diagonal
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> result = hessian_diagonal(problem)
        >>> result.vectors["weight"], round(result.trace, 2)
        (tensor([[2.0000, 0.5000]]), 2.5)
    """
    if probes < 4:
        raise InputError(f"{probes} probes are too few for an interval", "probes", "use at least 4")
    meter = Meter(problem)
    cut = _flat_bound(problem, smoothness)
    exact = _exact(problem, probes)
    if exact is not None:
        (value, reason), point = exact, exact[0]
        lower, upper, error = value, value, torch.zeros_like(value)
        trace, total = float(value.sum()), float(value.abs().sum())
        trace_interval, total_interval = (trace, trace), (total, total)
        used = None
    else:
        report = reporting(progress, STAGE, probes)
        generator, purse = torch.Generator().manual_seed(seed), Purse(probes, lambda spent: report(min(spent, probes)))
        known = None if krylov is None else deflation(krylov, problem.d)
        found = carry_out(problem, choose(problem, purse, known, generator, shrink), purse, generator)
        value, error, half = _bounds(found)
        lower, upper = value - half, value + half
        point = shrunk(value, found, problem.sizes).clamp(lower, upper) if shrink else value
        trace, trace_interval, trace_error = sum_interval(found.traces, found.known_trace)
        total, total_interval = absolute_sum(found.groups, error, trace_error)
        if smoothness is not None and smoothness.l1_upper is not None:
            total_interval = (total_interval[0], min(total_interval[1], smoothness.l1_upper))
            total = min(total, total_interval[1])
        used = math.ceil(found.products - 1e-9)
        report(probes)
    if cut is not None:
        cut = cut.to(lower)
        lower, upper = lower.clamp(-cut, cut), upper.clamp(-cut, cut)
        value, point = value.clamp(lower, upper), point.clamp(lower, upper)
    negative = None
    if used is None:
        negative = float((value < -rounding_share(problem) * value.abs().max()).double().mean())
        why = {"probes": reason}
    else:
        why = {"negative_fraction": "the sign of a noisy estimate says little; see the bounds of each coordinate"}
    parts = (torch.split(v, problem.sizes) for v in (value, unfolded(value.abs(), error)))
    return HessianDiagonal(
        abs_sum=total,
        abs_sum_interval=total_interval,
        trace=trace,
        trace_interval=trace_interval,
        probes=used,
        samples=problem.n,
        exact=used is None,
        negative_fraction=negative,
        tensors=[
            {"name": name, "parameters": own.numel(), "trace": _total(own), "abs_sum": _total(size)}
            for name, own, size in zip(problem.names, *parts, strict=True)
        ],
        why=why,
        vectors=problem.unflatten(point.to(problem.dtype)),
        lower=problem.unflatten(lower.to(problem.dtype)),
        upper=problem.unflatten(upper.to(problem.dtype)),
        standard_error=problem.unflatten(error.to(problem.dtype)),
        cost=meter.cost(),
    )


def _exact(problem: Problem, probes: int) -> tuple[Tensor, str] | None:
    """diag(H) in float64 and how it was found; None where that would cost more than random probes."""
    if problem.forms_hessian:
        return dense_hessian(problem).diagonal().clone(), "read off the formed Hessian, no probes"
    network = plain_network(problem)
    if network is None or not by_layers(layered_passes(problem), probes) or problem.curvature_fault is not None:
        return None
    with problem.measuring():
        return finite(diagonal(network, problem.dtype)), "computed exactly, layer by layer: no probes"


def layered_passes(problem: Problem) -> float:
    """What the exact diagonal of a plain network costs; infinite for other problems."""
    network = plain_network(problem)
    return math.inf if network is None else diagonal_passes(network)


def by_layers(passes: float, probes: int) -> bool:
    """Whether it is worked out exactly: at no more than the random probes cost."""
    return passes <= 2 * probes


def _bounds(found: Estimate) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard error and half the width of the 95% t interval of each coordinate, (d,).

    Two sources of noise of unequal size have Welch's number of degrees of freedom.
    """
    variance, freedom = found.variance, found.freedom
    if found.square_variance is not None:
        square, draws = found.square_variance, found.draws - 1
        total = variance + square
        share = variance / total.clamp_min(torch.finfo(total.dtype).tiny)
        freedom = 1 / (share.square() / freedom + (1 - share).square() / draws)
        variance = total
    error = variance.sqrt()
    most = int(freedom.max()) + 1
    quantiles = torch.from_numpy(stdtrit(np.arange(1, most + 1), 0.5 + LEVEL / 2)).to(error)
    return found.groups.mean(0), error, quantiles[(freedom + 1e-6).long() - 1] * error


def shrunk(value: Tensor, found: Estimate, sizes: list[int]) -> Tensor:
    """The value with what probes add to the anchor scaled down, tensor by tensor, by the noise in it.

    The factor is max(0, 1 - sum of variances / sum of squares) (James & Stein 1961, positive part): near 1 where the
    probes resolve a tensor's diagonal, 0 where they show nothing but their noise, which is then left out.
    """
    added, noise = torch.split(value - found.anchor, sizes), torch.split(found.variance, sizes)
    scaled = [
        a * (1 - v.sum(dtype=torch.float64) / a.square().sum(dtype=torch.float64).clamp_min(1e-300)).clamp_min(0)
        for a, v in zip(added, noise, strict=True)
    ]
    return found.anchor + torch.cat(scaled)


def absolute_sum(groups: Tensor, error: Tensor, trace_error: float) -> tuple[float, Interval]:
    """A value and a conservative 95% interval for sum_j |h_j| from independent noisy estimates of h, (k, d).

    sum|ĥ_j| is too large by the noise: that is the upper end's basis. sum_j s_j h_j <= sum|h_j| for any signs
    s, and is estimated without bias by s from the other groups and ĥ from one: that is the lower end's, beside
    |tr H|. The margins come from the groups: t with k - 1 degrees of freedom, 2.5% a side. The value is the largest
    of :func:`unfolded` and the two estimates behind the lower end, moved into the interval; it is the weakest of the
    three numbers.
    """
    count = len(groups)
    whole = groups.mean(0)
    half = quantile(count - 1)
    cross, folded = [], []
    for own in groups:
        rest = (whole * count - own) / (count - 1)
        cross.append(_total(rest.sign() * own))
        folded.append(_total(rest.abs()))
    signed = sum(cross) / count - half * standard_error(cross)
    trace = abs(_total(whole))
    lower = max(0.0, signed, trace - half * trace_error)
    # Delete-a-group jackknife of sum|ĥ|.
    f = torch.tensor(folded, dtype=torch.float64)
    jackknife = math.sqrt((count - 1) / count * float((f - f.mean()).square().sum()))
    upper = _total(whole.abs()) + half * jackknife
    value = max(_total(unfolded(whole.abs(), error)), sum(cross) / count, trace)
    return min(max(value, lower), upper), (min(lower, upper), upper)


def _total(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def unfolded(magnitude: Tensor, error: Tensor) -> Tensor:
    """|ĥ| freed of the bias of the absolute value: sqrt(max(ĥ^2 - s^2, 0)), elementwise."""
    return (magnitude.square() - error.square()).clamp_min(0).sqrt()


def _flat_bound(problem: Problem, smoothness: Smoothness | None) -> Tensor | None:
    if smoothness is None or not smoothness.vectors:
        return None
    vectors: Mapping[str, Tensor] = smoothness.vectors
    if set(vectors) != set(problem.names) or smoothness.samples != problem.n:
        raise InputError("the smoothness result is of another problem", "smoothness", "measure it on the same samples")
    return problem.flatten(vectors)
