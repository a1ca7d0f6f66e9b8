"""Noise of a whole data set from a draw of its rows: corrected values and 95% intervals.

The draw comes as the moments of K disjoint random groups of its n samples. Everything is a function of sums over
coordinates with one group left out (``group_sums.py``), so memory is that of the groups.

Two inequalities hold whatever the gradients are (Jensen; the root is concave): the plain ||sigma_hat||_1 is too small
on average, and so is the true value beside the cross-fitted bound of :func:`group_sums.cross_fitted`. They make the
ends of the interval; the jackknife makes the value and the errors, skewed as its pseudo-values are (Hall 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from estimators.gradient_noise.group_sums import Groups, GroupSums, cross_fitted, group_sums
from estimators.numbers import tails
from estimators.numbers.t_intervals import quantile
from estimators.numbers.thinning import Weights
from estimators.results import Interval

LEVEL = 0.95
FEWEST = 8
"""Fewer samples give a value, but no interval."""
SETTLED = 0.3
"""Below this ``tails.settling`` a small draw's variance says nothing of the data set's (a tail index below 2.9)."""
SETTLED_ENERGIES = 0.12
"""The same for the samples' squared norms alone, one series in place of many coordinates. Both are meant times the
share of the rows that was not drawn."""
WIDEST = 10.0
"""An interval whose ends differ by more than this factor is given up."""
HEAVY_SHAPE, HEAVIEST_SHAPE = 0.7, 0.95
"""Shape of the tail of the samples' energies: where it is unknown, and the most that is believed."""


@dataclass(frozen=True)
class Intervals:
    """Of the data set that a draw came from. A number that cannot be told is None, with its reason in ``why``.

    ``heavy`` names the keys that are None because of heavy tails. ``tensors`` holds the corrected ||sigma||_1 of
    each tensor; they add up to ``l1``.
    """

    l1: float | None
    l1_interval: Interval | None
    l2: float | None
    l2_interval: Interval | None
    density: float | None
    density_interval: Interval | None
    noise_scale_l1: float | None
    noise_scale_l1_interval: Interval | None
    noise_scale_l2: float | None
    noise_scale_l2_interval: Interval | None
    tensors: Sequence[float]
    hidden: float
    """What coordinates that are 0 in the draw could add to ||sigma||_1; part of the upper ends."""
    heavy: tuple[str, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)


def noise_intervals(
    groups: Groups,
    rows: int,
    sizes: Sequence[int],
    live: Tensor | None = None,
    settled: float | None = None,
    weights: Weights | None = None,
) -> Intervals:
    """Corrected values and 95% intervals of ||sigma||_1, ||sigma||_2, the density and both noise scales.

    The samples are a uniform draw of n from ``rows`` without replacement; sigma_j^2 has divisor ``rows``. At
    n = rows every interval closes on the plain value, since all corrections and errors carry the factor 1 - n/rows.

    Args:
        groups: moments of K >= 8 random groups of the samples; K = n is best.
        rows: size of the data set, at least n.
        sizes: numbers of coordinates of the tensors, adding up to d.
        live: (d,) bool, False where the gradients differ by rounding alone; default all.
        settled: :func:`tails.settling` of the draw, where it is known.
        weights: of each tensor's sums where the groups (with ``sizes`` and ``live``) hold some of the coordinates.
    """
    sums = group_sums(groups, rows, sizes, live, weights)
    if sums.l1 <= 0:
        return _nothing("the gradients of the samples drawn are equal; the other rows may differ", sizes)
    if bool((sums.energy_out <= 0).any()):
        return _nothing("all noise comes from a few samples", sizes, heavy=True)
    draw = _Draw.of(sums)
    bound, bound_error = cross_fitted(groups, sums, sizes, live, weights)
    log_l1, log_l2 = sums.l1_out.log(), 0.5 * sums.energy_out.log()
    # The jackknife takes off the bias of the root (Quenouille 1956), to first order in 1/n - 1/rows.
    correction = draw.left * (draw.groups - 1)
    by_tensor = sums.l1_by_tensor + correction * (sums.l1_by_tensor - sums.l1_by_tensor_out.mean(0))
    l1, plain_l2, root = float(by_tensor.sum()), math.sqrt(sums.energy), math.sqrt(sums.d)
    l2 = max(plain_l2 + correction * (plain_l2 - float(sums.energy_out.sqrt().mean())), l1 / root)
    density = l1 / (root * l2)

    reach = _reach(log_l1, draw)
    # Where tails are heavy the correction may itself be too small by as much again.
    centre = max(l1 + max(l1 - sums.l1, 0.0), bound)
    above = reach.above * max(1.0, bound_error / max(reach.error * sums.l1, 1e-300))
    unseen = draw.left * _unseen(sums.influence, sums.n)
    l1_interval = (min(l1, sums.l1 * math.exp(-reach.below)), centre * math.exp(above) + unseen + sums.hidden)

    reach = _reach(log_l2, draw)
    extra = draw.left * _unseen(sums.energy_by_group, sums.n) / (2 * sums.energy)
    l2_interval = (
        plain_l2 * math.exp(-reach.below),
        math.hypot(l2 * (math.exp(reach.above) + extra), sums.hidden_l2),
    )

    reach = _reach(log_l1 - log_l2, draw)
    low = sums.l1 * math.exp(-reach.below) / (root * l2 * (1 + extra))
    high = (centre * math.exp(reach.above) + unseen + sums.hidden) / (root * l2)
    density_interval = (max(1 / root, min(low, density)), min(1.0, max(high, density)))

    scale_l2, scale_l2_interval, why_l2 = _scale_l2(sums, draw, extra)
    scale_l1, scale_l1_interval, why_l1 = _scale_l1(sums, draw, l1, l1_interval)
    if why_l2:  # a gradient that cannot be told from 0 divides nothing
        scale_l1, scale_l1_interval, why_l1 = None, None, why_l2
    result = Intervals(
        l1=l1,
        l1_interval=l1_interval,
        l2=l2,
        l2_interval=l2_interval,
        density=density,
        density_interval=density_interval,
        noise_scale_l1=scale_l1,
        noise_scale_l1_interval=scale_l1_interval,
        noise_scale_l2=scale_l2,
        noise_scale_l2_interval=scale_l2_interval,
        tensors=by_tensor.tolist(),
        hidden=sums.hidden,
        why=_both("noise_scale_l1", why_l1) | _both("noise_scale_l2", why_l2),
    )
    if draw.groups == sums.n:
        energies = tails.settling(sums.energy_by_group[:, None].sqrt())
        if energies is not None and energies < SETTLED_ENERGIES * draw.left:
            settled = energies if settled is None else min(settled, energies)
    return _given_up(result, settled, SETTLED * draw.left)


def half_width(interval: Interval) -> float:
    """Relative half width, (hi/lo)^(1/2) - 1: 0.2 for an interval of +-20%."""
    return math.sqrt(interval[1] / interval[0]) - 1


def samples_for(interval: Interval, samples: int, rows: int, precision: float = 0.2) -> int:
    """How many samples would bring a 95% interval within 1 +- ``precision`` of its middle, by its width now.

    The logarithm of the interval's half width falls like sqrt(1/n - 1/rows), so 1/n' = 1/rows + (1/n - 1/rows) q^2
    with q = log(1 + precision) over that half width. Rounded up to two digits, at most ``rows``.
    """
    half = math.log1p(half_width(interval))
    if half <= 0:
        return samples
    wanted = math.log1p(precision) / half
    needed = 1 / (1 / rows + (1 / samples - 1 / rows) * wanted**2)
    unit: int = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return min(rows, math.ceil(needed / unit) * unit)


# -- errors ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    """Groups, the share of the rows that was not drawn, and the t quantile."""

    groups: int
    left: float
    quantile: float

    @staticmethod
    def of(sums: GroupSums) -> _Draw:
        return _Draw(len(sums.counts), 1 - sums.n / sums.rows, quantile(len(sums.counts) - 1, LEVEL))


@dataclass(frozen=True)
class _Reach:
    """The standard error of a logarithm, and how far its interval reaches below and above."""

    error: float
    below: float
    above: float


def _reach(left_out: Tensor, draw: _Draw) -> _Reach:
    """Of a statistic, by its logarithms with one group left out, (K,) (Tukey 1958).

    The interval follows Hall's transformation (J. R. Stat. Soc. B 1992), which removes the skewness of the
    pseudo-values from Student's t, and is never shorter than that of t.
    """
    k = draw.groups
    pseudo = left_out.mean() - left_out
    error = math.sqrt(draw.left * (k - 1) / k * float(pseudo.square().sum()))
    below = above = draw.quantile
    spread = float(pseudo.square().mean().sqrt())
    skew = float((pseudo / spread).pow(3).mean()) / math.sqrt(k) if spread > 0 else 0.0
    if abs(skew) > 1e-6:
        below, above = max(below, _hall(skew, below)), max(above, -_hall(skew, -above))
    return _Reach(error, below * error, above * error)


def _hall(skew: float, quantile: float) -> float:
    """The inverse of T + skew T^2/3 + skew^2 T^3/27 + skew/6, skew over the root of the number of terms."""
    inner = 1 + skew * (quantile - skew / 6)
    return 3 / skew * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def _unseen(energies: Tensor, samples: int) -> float:
    """What samples beyond the largest seen could add to the mean of ``energies`` (K,) >= 0.

    Beyond its 1/n quantile a tail of shape k holds about x_max / (n (1 - k)) of the mean. The shape is taken at the
    upper end of its error where each energy is that of one sample; of means of groups it is not known.
    """
    k = energies.numel()
    shape = HEAVY_SHAPE
    if k == samples and (fitted := tails.pareto_shape(energies)) is not None:
        found, top = max(fitted[0], 0.0), fitted[1]
        shape = min(HEAVIEST_SHAPE, found + 1.64 * (1 + found) / math.sqrt(top))
    return float(energies.max() - energies.mean()) / (k * (1 - shape))


# -- noise scales ----------------------------------------------------------------------------------

Scale = tuple[float | None, Interval | None, str]


def _scale_l2(sums: GroupSums, draw: _Draw, extra: float) -> Scale:
    """tr(Sigma) / ||grad f||_2^2 with Fieller's interval: all ratios that the two estimates do not refuse.

    ||g_bar||^2 overstates ||grad f||^2 by the variance of the mean, which is taken off.
    """
    k, t = draw.groups, draw.quantile
    kept, divisor = sums.n - sums.counts, 1 - 1 / sums.rows
    square = sums.gradient_square - draw.left * sums.energy / (divisor * sums.n)
    squares = sums.gradient_square_out - (1 - kept / sums.rows) * sums.energy_out / (divisor * kept)
    pseudo = torch.stack([sums.energy_out.mean() - sums.energy_out, squares.mean() - squares]) * (k - 1)
    cov = (draw.left * pseudo @ pseudo.T / (k * (k - 1))).tolist()
    # No gradient of this noise has a smaller error than that of equal noise in all d coordinates.
    cov[1][1] = max(cov[1][1], draw.left * 2 / sums.d * (sums.energy / sums.n) ** 2)
    a = square**2 - t**2 * cov[1][1]
    if square <= 0 or a <= 0:
        return None, None, _drowned(sums.n)
    b = sums.energy * square - t**2 * cov[0][1]
    c = sums.energy**2 - t**2 * cov[0][0]
    root = math.sqrt(max(b**2 - a * c, 0.0))
    value = sums.energy / square
    low, high = max((b - root) / a, 0.0), (b + root) / a * (1 + extra) ** 2
    return value, (min(low, value), max(high, value)), ""


def _scale_l1(sums: GroupSums, draw: _Draw, l1: float, l1_interval: Interval) -> Scale:
    """(||sigma||_1 / ||grad f||_1)^2 from a bracket on ||grad f||_1.

    ||g_bar||_1 is too large on average (the norm is convex); s'grad f with the signs s of the other groups is
    too small. The value takes the geometric mean of both.
    """
    k = draw.groups
    plain, signed = sums.gradient_l1, sums.gradient_signed
    weights = sums.counts / sums.n
    lower = sums.n / sums.rows * plain + draw.left * float((weights * signed).sum())
    error_low = math.sqrt(draw.left / k * float(signed.var()))
    left_out = sums.gradient_l1_out
    error_high = math.sqrt(draw.left * (k - 1) / k * float((left_out - left_out.mean()).square().sum()))
    least, most = lower - draw.quantile * error_low, plain + draw.quantile * error_high
    if least <= 0:
        return None, None, _drowned(sums.n)
    value = l1**2 / (lower * plain)
    return value, ((l1_interval[0] / most) ** 2, (l1_interval[1] / least) ** 2), ""


def _drowned(n: int) -> str:
    return f"not resolved: the gradient of {n} samples is within its own sampling error"


# -- what is given up ------------------------------------------------------------------------------


def _both(key: str, reason: str) -> dict[str, str]:
    return {key: reason, f"{key}_interval": reason} if reason else {}


PAIRS = ("l1", "l2", "density", "noise_scale_l1", "noise_scale_l2")


def _nothing(reason: str, sizes: Sequence[int], heavy: bool = False) -> Intervals:
    keys = [key for pair in PAIRS for key in (pair, f"{pair}_interval")]
    empty: dict[str, Any] = dict.fromkeys(keys)
    return Intervals(
        **empty,
        tensors=[0.0] * len(sizes),
        hidden=0.0,
        heavy=PAIRS if heavy else (),
        why=dict.fromkeys(keys, f"heavy tails: {reason}" if heavy else reason),
    )


def _given_up(found: Intervals, settled: float | None, least: float) -> Intervals:
    """Without the numbers that heavy tails leave open, and without intervals of no use."""
    reasons: dict[str, str] = {}
    if settled is not None and settled < least:
        index = 2 / (1 - max(settled, 0.0))
        reason = (
            f"heavy tails (index about {index:.1f}): the variance is owed to its largest samples and has not settled, "
            "so rows beyond the draw may hold more than all of it"
        )
        reasons = dict.fromkeys(PAIRS, reason)
    for key in PAIRS:
        interval: Interval | None = getattr(found, f"{key}_interval")
        widest = WIDEST**2 if key.startswith("noise_scale") else WIDEST
        if key in reasons or interval is None or interval[1] <= widest * interval[0]:
            continue
        ends = f"between {interval[0]:.2g} and {interval[1]:.2g}"
        scale = key.startswith("noise_scale")
        reasons[key] = f"not resolved: {ends}" if scale else f"heavy tails: the draw leaves it open, {ends}"
    for norm in ("l1", "l2"):
        if norm in reasons:
            reasons.setdefault(f"noise_scale_{norm}", reasons[norm])
    heavy = tuple(key for key, reason in reasons.items() if reason.startswith("heavy"))
    why = dict(found.why)
    for key, reason in reasons.items():
        if getattr(found, key) is not None:
            why |= _both(key, reason)
    nulls: dict[str, Any] = dict.fromkeys(why)
    return replace(found, **nulls, heavy=heavy, why=why)
