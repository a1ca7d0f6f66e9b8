"""Results of the estimators: frozen dataclasses that need no torch.

The stored fields of a class are the keys of its part of ``result.json``. A number that could not be
measured is ``None`` and ``why`` holds the reason under its key. ``vectors``, ``warnings`` and ``cost``
travel with a result but are stored elsewhere (``vectors.safetensors`` and the top level).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from estimators.rows import (
    Batch,
    Control,
    Density,
    Direction,
    Fitted,
    Group,
    Grouped,
    Isotropic,
    Kink,
    Named,
    Object,
    Point,
    Rows,
    TailIndex,
    Tensor,
    Tighter,
    WholeData,
    WholePair,
)
from estimators.rows import Ending as Ending
from estimators.rows import Interval as Interval

Vector = Mapping[str, Any]
"""Parameter name -> tensor (as measured) or numpy array (as read back), each of the parameter's shape."""
Progress = Callable[[str, float, float], None]
"""Called with (stage, done, total); done and total share a unit chosen by the caller."""
BESIDE = {"stored": False}
FAILS_MOSTLY = 0.5
"""A fit of generalized smoothness that fails at more than this share of the points left out of it is not supported."""
NO_EMBEDDING = "no token embedding among the parameters"
"""Why a result has no ``token_deciles``: no lack, there was nothing to group."""
ALL_ROWS = "all rows were measured: the interval is the bracket itself"
"""Why ``whole_data`` has no cross-fitted mean: no lack, there was nothing to infer."""
NONE_MISSED = "all rows were measured: none could be missed"
"""Why nothing is said about rare rows: no lack either."""
Part = TypeVar("Part")


def reporting(progress: Progress | None, stage: str, total: float) -> Callable[[float], None]:
    """A call that tells how much of the total is done, where somebody asked for it."""

    def report(done: float) -> None:
        if progress:
            progress(stage, done, total)

    return report


@dataclass(frozen=True)
class Finding:
    """A warning: what was found (with its number), what it means, what to do."""

    code: str
    severity: Literal["note", "warning"]
    stage: str
    found: str
    meaning: str
    action: str


@dataclass(frozen=True)
class Cost:
    """Cost of a measurement: forward+backward passes over the problem's samples, and seconds."""

    passes: float = 0.0
    seconds: float = 0.0


def stored_keys(part: type[Any] | Any) -> tuple[str, ...]:
    """Names of the fields that ``result.json`` holds for a part, ``why`` left out."""
    return tuple(f.name for f in fields(part) if f.metadata.get("stored", True) and f.name != "why")


def stored(part: Any) -> dict[str, Any]:
    """The part as a dict for ``result.json``; ``why`` only where something is null."""
    body: dict[str, Any] = {key: getattr(part, key) for key in stored_keys(part)}
    if part.why:
        body["why"] = dict(part.why)
    return body


def absent(part: type[Part], reason: str) -> Part:
    """A part that was not measured: every key null, every key with the reason."""
    keys = stored_keys(part)
    kind: Callable[..., Part] = part
    return kind(**dict.fromkeys(keys), why=dict.fromkeys(keys, reason))


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result carries beside its numbers: ``why`` some are null, ``vectors``, findings, and what it took."""

    why: Mapping[str, str] = field(default_factory=dict)
    vectors: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)
    warnings: tuple[Finding, ...] = field(default=(), metadata=BESIDE)
    cost: Cost = field(default=Cost(), metadata=BESIDE)


@dataclass(frozen=True, kw_only=True)
class Noise(Result):
    """Gradient noise: sigma_j^2 = Var_i(d_j l_i(w)) over all rows of the data, measured (``exact``) or estimated from
    a draw with 95% intervals for the data set's values. ``rare_rows``: the share of the rows below which a draw misses
    all of them in more than 2.5% of draws, so that the intervals hold unless rarer ones carry the noise; null where all
    rows were measured.

    ``batch_scaling`` holds one row for each batch size M: batch_size, l1, l2 (norms of the noise of batches drawn
    with replacement, as measured), l1_predicted, l2_predicted (those of sigma / sqrt(M)), batches. ``tail_index``
    holds median, lower and upper (quartiles) over coordinates of Hill's tail index over samples, coordinates, samples.
    ``tensors`` holds one row for each parameter: name, parameters, l1, l2, density, dead_fraction;
    ``token_deciles`` one for each frequency group of the rows of token embedding and output head
    (``token_rows.token_deciles``).
    """

    l1: float | None
    l2: float | None
    sqrt_d_l2: float | None
    density: float | None
    density_interval: Interval | None
    l1_interval: Interval | None
    l2_interval: Interval | None
    exact: bool | None
    rare_rows: float | None
    density_live: float | None
    dead_fraction: float | None
    effective_dimension: float | None
    noise_scale_l2: float | None
    noise_scale_l1: float | None
    noise_scale_l2_interval: Interval | None
    noise_scale_l1_interval: Interval | None
    tail_index: Annotated[Object | None, TailIndex]
    samples: int | None
    batch_scaling: Annotated[Rows | None, list[Batch]]
    gradient_l1: float | None
    gradient_l2: float | None
    tensors: Annotated[Rows | None, list[Tensor]]
    token_deciles: Annotated[Rows | None, list[Group]]


@dataclass(frozen=True, kw_only=True)
class HessianDiagonal(Result):
    """Diagonal of the Hessian, h_j = d_j^2 f, with bounds for each coordinate in ``lower`` and ``upper``.

    ``exact`` says whether the diagonal is, from the formed Hessian or layer by layer; ``probes`` is then null.
    ``tensors`` holds one row for each parameter: name, parameters, trace, abs_sum (freed of the bias of |noise|).
    """

    abs_sum: float | None
    abs_sum_interval: Interval | None
    trace: float | None
    trace_interval: Interval | None
    probes: int | None
    samples: int | None
    exact: bool | None
    negative_fraction: float | None
    tensors: Annotated[Rows | None, list[Tensor]]
    lower: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)
    upper: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)
    standard_error: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)


@dataclass(frozen=True, kw_only=True)
class Smoothness(Result):
    """Bracket on the smallest ||L||_1 with -diag(L) <= H <= diag(L); ``vectors`` is a feasible L.

    ``confidence`` is the probability with which bracket and sharpness hold (1 where H was formed).
    ``sharpness_interval`` bounds lambda = max|eig H|. ``hessian_11`` is sum|H_jk|, beyond d = 2,000 an estimate
    with a 95% interval. All of these are of the ``samples`` measured; ``whole_data`` is the 95% interval for the
    smallest ||L||_1 of all rows of the data: {interval, mean, inflation, samples, rows, products}, see
    ``whole_data.Crossfit``; where all rows were measured it is the bracket.
    ``density_interval`` is the bracket over d lambda with both ends of lambda. The bracket was to be ``gap_wanted``
    wide (upper/lower - 1) at most; ``ended_by`` says what ended it: that gap, "thresholds" (it is told from every
    value at which its reading changes) or the number of products. lambda was to be known to ``sharpness_wanted``,
    relative; 0: exactly.
    ``points`` holds one row for each point along the runs: method, step, l1_lower, l1_upper, sharpness, density,
    density_interval, gap_wanted, ended_by, gradient_l1, gradient_l2, and for adagrad preconditioned =
    max|eig P^-1/2 H P^-1/2|, P = diag(sqrt(v)), with
    preconditioned_interval.
    ``tensors`` holds one row for each parameter: name, parameters, l1. ``rows``, where they were asked for, are the
    unit rows with which the sweeps ended, by parameter: its entries in rows, k columns.
    """

    l1_lower: float | None
    l1_upper: float | None
    confidence: float | None
    gap_wanted: float | None
    ended_by: Ending | None
    sharpness: float | None
    sharpness_interval: Interval | None
    sharpness_wanted: float | None
    density: float | None
    density_interval: Interval | None
    density_rotated: float | None
    diagonal_sum: float | None
    row_norm_sum: float | None
    hessian_11: float | None
    hessian_11_interval: Interval | None
    products: int | None
    samples: int | None
    global_l1: float | None
    whole_data: Annotated[Object | None, WholeData]
    points: Annotated[Rows | None, list[Point]]
    tensors: Annotated[Rows | None, list[Tensor]]
    token_deciles: Annotated[Rows | None, list[Group]]
    rows: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)


@dataclass(frozen=True, kw_only=True)
class Spectrum(Result):
    """Extremal eigenvalues of the Hessian; ``eigenvalues`` are Ritz values in ascending order, all where it was formed.

    ``largest_lower`` and ``largest_upper`` hold the largest with probability ``confidence``, rounding included, and
    ``smallest_lower`` and ``smallest_upper`` the smallest; one of a size up to ``rounding`` is not told from 0.
    ``directional`` holds
    u'Hu/u'u along the update of each rule: {rule: {sharpness, decrease}}; ``kinks`` one row for each direction and
    step: direction, h, curvature (by autograd), finite (over the step). ``eigenvalue_density`` is the smoothed density
    of all eigenvalues: {grid, density, spread, lower, upper, width, resolution, outliers, starts, mean, mean_interval,
    mean_square, mean_square_interval}, see ``density.SpectralDensity``.
    """

    largest: float | None
    smallest: float | None
    eigenvalues: Sequence[float] | None
    steps: int | None
    largest_lower: float | None
    largest_upper: float | None
    smallest_lower: float | None
    smallest_upper: float | None
    rounding: float | None
    confidence: float | None
    samples: int | None
    eigenvalue_density: Annotated[Object | None, Density]
    directional: Annotated[Named | None, dict[str, Direction]]
    kinks: Annotated[Rows | None, list[Kink]]


@dataclass(frozen=True, kw_only=True)
class GeneralizedSmoothness(Result):
    """A pair (L0, L1) by coordinate with |H(w)| <= diag(L0 + L1 |grad f(w)|) at every fitted point.

    ``identified_fraction`` is the share of coordinates whose gradients span a decade, ``helps_fraction`` of those with
    L1 > 0, ``permutation_p`` how often it helps as much with the gradients in another order. ``coverage`` and
    ``tightness`` (mean of bound/measured) are those of held-out points; ``tighter`` {assumption, factor} says which
    assumption bounds them closer. ``whole`` {l0, l1, gradient_range} is the pair of sum L <= l0 + l1 ||grad f||_1,
    ``isotropic`` that of ||H|| <= l0 + l1 ||grad f||_2: l0, l1, l0_interval, l1_interval, coverage, tightness,
    permutation_p.
    ``l1_by_group`` holds one row for each group of points: group, points, gradient_norms, gradient_range, isotropic_l1,
    l1_median, isotropic_l1_interval, l1_median_interval. ``control`` repeats the fits on the frozen quadratic at the
    first point, where the true L1 is 0: l1_median, helps_fraction, tensors_l1 (largest), whole_l1, isotropic_l1.
    ``points`` holds one row for each point: fitted, group (where given), gradient_l1, gradient_l2, sharpness,
    l1_lower, l1_upper, density. ``tensors`` holds one row for each parameter: name, parameters, l0_l1, l1_median,
    helps_fraction (of its coordinates), l0, l1 (of sum L <= l0 + l1 ||grad||_1 over the tensor), gradient_range.
    """

    l0_l1: float | None
    l0_l1_interval: Interval | None
    l1_median: float | None
    l1_median_interval: Interval | None
    identified_fraction: float | None
    helps_fraction: float | None
    permutation_p: float | None
    coverage: float | None
    tightness: float | None
    tighter: Annotated[Object | None, Tighter]
    whole: Annotated[Object | None, WholePair]
    isotropic: Annotated[Object | None, Isotropic]
    l1_by_group: Annotated[Rows | None, list[Grouped]]
    control: Annotated[Object | None, Control]
    points: Annotated[Rows | None, list[Fitted]]
    tensors: Annotated[Rows | None, list[Tensor]]
    l0: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)
    l1: Vector = field(default_factory=dict, metadata=BESIDE, repr=False)
