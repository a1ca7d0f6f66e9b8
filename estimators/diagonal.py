"""The diagonal of the Hessian with a bound for each coordinate; its trace and the sum of absolute values.

Hutchinson's estimator (1990) in the form of Bekas, Kokiopoulou & Saad (Appl. Numer. Math. 2007):
E[z * Hz] = diag(H) for z with independent signs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from scipy.stats import t as student
from torch import Tensor

from estimators.errors import InputError
from estimators.problem import Problem
from estimators.products import DENSE_LIMIT, dense_hessian, hessian
from estimators.results import Cost, HessianDiagonal, Interval, Progress, Smoothness

PROBES = 64
LEVEL = 0.95
STAGE = "hessian_diagonal"


def hessian_diagonal(
    problem: Problem,
    *,
    probes: int = PROBES,
    smoothness: Smoothness | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> HessianDiagonal:
    """h_j = d_j^2 f(w) with lower and upper bounds, tr H and sum_j |h_j| with 95% intervals.

    d <= 2,000: read off the formed Hessian, all intervals are [x, x]. Else ``probes`` random sign vectors z:
    h_j is the mean of z_j (Hz)_j, its bounds a 95% t interval *for each coordinate alone*, cut to
    [-L_j, L_j] where a smoothness result of the same samples is given (lower = upper = the nearer end where
    the two do not meet; the value is moved into its bounds). Bounds lean on normality of a mean of ``probes``
    terms: a coordinate coupled to one other takes two values alone, and its interval is rougher.
    The trace's interval uses the independent probes. The interval of sum|h_j| is conservative: see
    :func:`absolute_sum`. Cost: about two passes for each probe.

    Raises:
        InputError: fewer than 4 probes; a smoothness result of another problem.
    """
    if probes < 4:
        raise InputError(f"{probes} probes are too few for an interval", "probes", "use at least 4")
    began, before = time.perf_counter(), problem.passes.total
    cut = _flat_bound(problem, smoothness)
    error: Tensor | None
    if problem.d <= DENSE_LIMIT:
        value = dense_hessian(problem).diagonal().clone()
        lower, upper, error = value, value, torch.zeros_like(value)
        trace, total = float(value.sum()), float(value.abs().sum())
        trace_interval, total_interval = (trace, trace), (total, total)
        used = None
    else:
        sums = _probe(problem, probes, seed, progress)
        value = sums.mean
        error = sums.standard_error
        width = float(student.ppf(0.5 + LEVEL / 2, probes - 1)) * error
        lower, upper = value - width, value + width
        trace, trace_interval = mean_interval(sums.traces)
        total, total_interval = absolute_sum(sums)
        if smoothness is not None and smoothness.l1_upper is not None:
            total_interval = (total_interval[0], min(total_interval[1], smoothness.l1_upper))
            total = min(total, total_interval[1])
        used = probes
    if cut is not None:
        lower, upper = lower.clamp(-cut, cut), upper.clamp(-cut, cut)
        value = value.clamp(lower, upper)
    sizes = unfolded(value.abs(), error)
    negative = None
    if used is None:
        negative = float((value < -torch.finfo(problem.precision).eps * value.abs().max()).double().mean())
        why = {"probes": "read off the formed Hessian, no probes"}
    else:
        why = {"negative_fraction": "the sign of a noisy estimate says little; see the bounds of each coordinate"}
    vectors = problem.unflatten(value.to(problem.dtype))
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
            {
                "name": name,
                "parameters": v.numel(),
                "trace": float(v.double().sum()),
                "abs_sum": float(size.sum()),
            }
            for (name, v), size in zip(vectors.items(), torch.split(sizes, problem.sizes), strict=True)
        ],
        why=why,
        vectors=vectors,
        lower=problem.unflatten(lower.to(problem.dtype)),
        upper=problem.unflatten(upper.to(problem.dtype)),
        standard_error=problem.unflatten(error.to(problem.dtype)),
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


class _Sums:
    """Running sums over probes, in O(d): means of z*Hz in four groups, its squares, and scalars of each probe."""

    GROUPS = 4

    def __init__(self, d: int, device: torch.device) -> None:
        self.groups = torch.zeros(self.GROUPS, d, dtype=torch.float64, device=device)
        self.counts = [0] * self.GROUPS
        self.shift: Tensor | None = None
        self.squares = torch.zeros(d, dtype=torch.float64, device=device)
        self.traces: list[float] = []

    def add(self, sample: Tensor) -> None:
        """One probe's z * Hz; squares are taken about the first probe to avoid cancellation."""
        self.shift = sample.clone() if self.shift is None else self.shift
        group = len(self.traces) % self.GROUPS
        self.groups[group] += sample
        self.counts[group] += 1
        self.squares += (sample - self.shift).square()
        self.traces.append(float(sample.sum()))

    @property
    def count(self) -> int:
        return len(self.traces)

    @property
    def mean(self) -> Tensor:
        return self.groups.sum(0) / self.count

    @property
    def standard_error(self) -> Tensor:
        m = self.count
        assert self.shift is not None
        variance = (self.squares - m * (self.mean - self.shift).square()) / (m - 1)
        return (variance.clamp_min(0) / m).sqrt()

    def group_mean(self, group: int) -> Tensor:
        return self.groups[group] / self.counts[group]


def _probe(problem: Problem, probes: int, seed: int, progress: Progress | None) -> _Sums:
    generator = torch.Generator().manual_seed(seed)
    sums = _Sums(problem.d, problem.device)
    with hessian(problem) as product:
        for done in range(probes):
            signs = torch.randint(0, 2, (problem.d,), generator=generator, dtype=torch.int8)
            z = (2 * signs - 1).to(problem.device, problem.dtype)
            sums.add(z.double() * product(z[:, None])[:, 0].double())
            if progress:
                progress(STAGE, done + 1, probes)
    return sums


def mean_interval(values: list[float]) -> tuple[float, Interval]:
    """Mean of independent values and its 95% t interval."""
    mean = sum(values) / len(values)
    half = float(student.ppf(0.5 + LEVEL / 2, len(values) - 1)) * _standard_error(values)
    return mean, (mean - half, mean + half)


def absolute_sum(sums: _Sums) -> tuple[float, Interval]:
    """A value and a conservative 95% interval for sum_j |h_j| from noisy h_j.

    sum|ĥ_j| is too large by the noise: that is the upper end's basis. sum_j s_j h_j <= sum|h_j| for any signs
    s, and is estimated without bias by s from one group of probes and ĥ from the others: that is the lower
    end's, beside |tr H|. The margins come from the four groups of probes: t with 3 degrees of freedom, 2.5% a
    side. The value is the largest of :func:`unfolded` and the two estimates behind the lower end, moved into the
    interval; it is the weakest of the three numbers.
    """
    groups = sums.GROUPS
    whole, error = sums.mean, sums.standard_error
    quantile = float(student.ppf(0.5 + LEVEL / 2, groups - 1))
    cross, folded = [], []
    for group in range(groups):
        own = sums.group_mean(group)
        rest = (whole * sums.count - sums.groups[group]) / (sums.count - sums.counts[group])
        cross.append(float((rest.sign() * own).sum()))
        folded.append(float(rest.abs().sum()))
    signed = sum(cross) / groups - quantile * _standard_error(cross)
    trace = abs(float(whole.sum()))
    lower = max(0.0, signed, trace - quantile * _standard_error(sums.traces))
    # Delete-a-group jackknife of sum|ĥ|.
    f = torch.tensor(folded, dtype=torch.float64)
    jackknife = math.sqrt((groups - 1) / groups * float((f - f.mean()).square().sum()))
    raw = float(whole.abs().sum())
    upper = raw + quantile * jackknife
    value = max(float(unfolded(whole.abs(), error).sum()), sum(cross) / groups, trace)
    return min(max(value, lower), upper), (min(lower, upper), upper)


def _standard_error(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(len(values))


def unfolded(magnitude: Tensor, error: Tensor) -> Tensor:
    """|ĥ| freed of the bias of the absolute value: sqrt(max(ĥ^2 - s^2, 0)), elementwise."""
    return (magnitude.square() - error.square()).clamp_min(0).sqrt()


def _flat_bound(problem: Problem, smoothness: Smoothness | None) -> Tensor | None:
    if smoothness is None or not smoothness.vectors:
        return None
    vectors: Mapping[str, Tensor] = smoothness.vectors
    if set(vectors) != set(problem.names) or smoothness.samples != problem.n:
        raise InputError("the smoothness result is of another problem", "smoothness", "measure it on the same samples")
    return problem.flatten(vectors).double()
