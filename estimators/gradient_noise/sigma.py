"""Gradient noise: sigma_j^2 = Var_i(d_j l_i(w)), its norms, its density, its scale in samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.gradient_noise import batches
from estimators.gradient_noise.draw import Drawn, gradients, spread, tail_gradients
from estimators.gradient_noise.draw_intervals import FEWEST, PAIRS, Intervals, half_width, noise_intervals, samples_for
from estimators.numbers import tails
from estimators.numbers.moments import Moments, stored_dtype
from estimators.numbers.rare_rows import unseen_share
from estimators.numbers.thinning import Weights
from estimators.per_sample.gradients import STAGE
from estimators.results import NONE_MISSED, Finding, Noise, Progress
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.token_rows import token_deciles

FEW = 30
"""Below this many samples a warning: at 30 Gaussian samples one sigma_j has a relative standard error of
1/sqrt(2 n) = 13% and a bias of -1/(4 n) = -0.8%; heavier tails do worse."""
WIDE = 0.2
"""An interval wider than +-20% is a warning, with the number of samples that would do."""
ROUNDING = 8
"""A standard deviation of at most this many units in the last place of the gradient is rounding, and counts as 0."""


def noise(
    problem: Problem,
    *,
    rows: int | None = None,
    extra_passes: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Noise:
    """Noise of the per-sample gradients: that of the samples when they are all rows, else of the rows they came from.

    sigma_j^2 = (1/N) sum_i (d_j l_i - d_j f)^2, so a batch of M drawn with replacement has variance sigma^2 / M.
    density = ||sigma||_1 / (sqrt(d) ||sigma||_2), between 1/sqrt(d) (one noisy coordinate) and 1 (uniform);
    effective_dimension = (||sigma||_1 / ||sigma||_2)^2; noise_scale_l2 = ||sigma||_2^2 / ||grad f||_2^2 and
    noise_scale_l1 = (||sigma||_1 / ||grad f||_1)^2, in samples (McCandlish et al. 2018).

    All rows: plain values, every interval is [x, x]. A draw: estimates for the whole data set, freed of the bias of
    the root, with 95% intervals (``draw_intervals.noise_intervals``), which hold unless rows rarer than the share
    ``rare_rows`` carry the noise: no draw shows what it drew no row of (``rare_rows.py``). Null with a reason, and
    the finding ``heavy-tail``, where the draw cannot tell. gradient_l1, gradient_l2, dead_fraction and the vectors are
    the draw's own.

    Cost: about one forward+backward pass over the samples, and at most ``extra_passes``. Memory: a few vectors of size
    d, and for a draw 20 of at most 10^7 numbers; where n d <= 2^24 the gradients of single samples, for tails and
    batches.

    Args:
        problem: the task at a point.
        rows: size of the data set that the samples were drawn from, uniformly and without replacement;
            default ``problem.n``, so that the samples are the whole population and every value is exact.
        extra_passes: what ``tail_index`` (up to 64 samples) and ``batch_scaling`` may cost where the gradients of
            single samples are not kept.
        seed: of the groups, the coordinates whose tails are looked at, and the batches.
        progress: called with ("noise", samples done, samples).

    Raises:
        InputError: ``rows`` below the number of samples, or a gradient that is not finite.

    Examples:
        >>> import torch
        >>> from estimators import Problem, noise
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> start = problem.at({"weight": torch.zeros(1, 2)})
        >>> result = noise(start)  # gradients of the samples: (-2, 0) and (0, -1)
        >>> result.vectors["weight"], round(result.l1, 4), round(result.density, 4)
        (tensor([[1.0000, 0.5000]]), 1.5, 0.9487)
    """
    rows = problem.n if rows is None else rows
    if rows < problem.n:
        raise InputError(f"{rows} rows cannot hold {problem.n} samples", "rows", "give the size of the whole data set")
    meter = Meter(problem)
    drawn = gradients(problem, rows, seed, progress)
    sigma = _standard_deviation(drawn.moments, rows, problem.precision)
    tail_rows = tail_gradients(problem, drawn, extra_passes, seed)
    spent = 0.0 if drawn.rows is not None or tail_rows is None else len(tail_rows) / problem.n
    values, why, findings = _values(problem, drawn, sigma, rows, tail_rows)
    scaling = _batch_scaling(problem, drawn, extra_passes - spent, seed)
    values["batch_scaling"] = scaling
    if not scaling:
        values["batch_scaling"], why["batch_scaling"] = None, _unmeasured(problem, drawn)
    return Noise(
        **values,
        why=why,
        vectors=problem.unflatten(sigma.to(stored_dtype(problem.dtype))) if values["tensors"] is not None else {},
        warnings=(*findings, *drawn.findings),
        cost=meter.cost(),
    )


# -- parts ----------------------------------------------------------------------------------------


def _standard_deviation(moments: Moments, rows: int, dtype: torch.dtype) -> Tensor:
    """sigma, (d,) float64: the root of the unbiased variance, divisor ``rows``; that of the samples when they are all.

    0 where the gradients differ by their own rounding alone: equal samples leave a batched kernel with last bits
    that differ from row to row, and without this cut a task without noise would show a density made of rounding.
    """
    n = moments.count
    divisor = (n - 1) / (1 - 1 / rows) if 1 < n < rows else n
    sigma = (moments.squares / divisor).sqrt()
    return torch.where(sigma <= ROUNDING * torch.finfo(dtype).eps * moments.mean.abs(), 0.0, sigma)


def _tail_index(rows: Tensor | None) -> tuple[dict[str, Any] | None, str]:
    """Median and quartiles of the coordinates' tail indices, or None and the reason."""
    if rows is None:
        return None, ""
    index = tails.hill(rows)
    index = index[~index.isnan()]
    if not index.numel():
        return None, "no coordinate has enough samples that deviate"
    lower, median, upper = torch.quantile(index, index.new_tensor([0.25, 0.5, 0.75])).tolist()
    found = {"median": median, "lower": lower, "upper": upper, "coordinates": index.numel(), "samples": len(rows)}
    return found, ""


def _batch_scaling(problem: Problem, drawn: Drawn, budget: float, seed: int) -> batches.Rows:
    if drawn.rows is not None:
        return batches.from_rows(drawn.rows, seed)
    if budget * problem.n < batches.CHEAPEST:
        return []
    sigma = spread(drawn.moments)
    return batches.from_passes(problem, drawn.moments.mean, float(sigma.sum()), float(sigma.norm()), budget, seed)


def _unmeasured(problem: Problem, drawn: Drawn) -> str:
    if problem.n == 1:
        return "there is one sample"
    return "the gradients of single samples are not kept (too many numbers), and extra_passes are too few"


# -- the numbers -----------------------------------------------------------------------------------


def density(l1: float, l2: float, coordinates: float) -> float | None:
    """||sigma||_1 / (sqrt(d) ||sigma||_2) over d coordinates; None without noise."""
    return l1 / (math.sqrt(coordinates) * l2) if l2 > 0 else None


Numbers = tuple[dict[str, Any], dict[str, str], tuple[Finding, ...]]
SHOWN = {"l1": "‖σ‖₁", "l2": "‖σ‖₂", "density": "φ(σ)"}
RATIOS = ("density", "density_interval", "density_live", "effective_dimension")
NORMS = ("l1", "l1_interval", "l2", "l2_interval", "sqrt_d_l2")
SCALES = ("noise_scale_l1", "noise_scale_l1_interval", "noise_scale_l2", "noise_scale_l2_interval")


def _values(problem: Problem, drawn: Drawn, sigma: Tensor, rows: int, tail_rows: Tensor | None) -> Numbers:
    """Everything but batch_scaling: the numbers, why some are null, and findings."""
    n, exact = problem.n, rows == problem.n
    table = _by_tensor(problem, sigma)
    values = _plain(table, drawn.moments.mean)
    why = _reasons(values, n, exact, problem.precision)
    findings = _few_samples(n, rows)
    if not exact and n > 1:
        found, reason = _intervals(drawn, problem, sigma, rows, tail_rows)
        if found is None:
            why |= {key: reason for key in values if key.endswith("_interval")}
            why |= dict.fromkeys(SCALES, f"not resolved: {reason}")
        else:
            values |= _corrected(found, values, problem.d)
            _overrule(why, found.why)
            findings = _judged(found, n, rows) or findings
            if found.l1 is not None:
                table = [row | {"l1": l1} for row, l1 in zip(table, found.tensors, strict=True)]
    values["tail_index"], reason = _tail_index(tail_rows)
    if values["tail_index"] is None:
        why["tail_index"] = reason or _unmeasured(problem, drawn)
    values["tensors"] = values["token_deciles"] = None
    if n > 1 or exact:
        values["tensors"] = table
        values["token_deciles"], reason = token_deciles(problem, problem.unflatten(sigma))
        why |= {"token_deciles": reason} if reason else {}
    values |= {"exact": exact, "samples": n, "rare_rows": unseen_share(n, rows)}
    if values["rare_rows"] is None:
        why["rare_rows"] = NONE_MISSED
    return {key: None if key in why else value for key, value in values.items()}, why, findings


def _plain(table: Sequence[Mapping[str, Any]], gradient: Tensor) -> dict[str, Any]:
    """The numbers of sigma and the gradient as they are; those that :func:`_reasons` names mean nothing."""
    d = gradient.numel()
    l1, l2 = sum(row["l1"] for row in table), math.hypot(*(row["l2"] for row in table))
    live = d - round(sum(row["dead_fraction"] * row["parameters"] for row in table))
    gradient_l1, gradient_l2 = float(gradient.abs().sum()), float(gradient.norm())
    phi = density(l1, l2, d)
    scale_l1 = (l1 / gradient_l1) ** 2 if gradient_l1 > 0 else None
    scale_l2 = (l2 / gradient_l2) ** 2 if gradient_l2 > 0 else None
    numbers = {"l1": l1, "l2": l2, "density": phi, "noise_scale_l1": scale_l1, "noise_scale_l2": scale_l2}
    return {
        **numbers,
        **{f"{key}_interval": (value, value) for key, value in numbers.items()},
        "sqrt_d_l2": math.sqrt(d) * l2,
        "density_live": density(l1, l2, live),
        "dead_fraction": 1 - live / d,
        "effective_dimension": None if phi is None else d * phi**2,
        "gradient_l1": gradient_l1,
        "gradient_l2": gradient_l2,
    }


def _intervals(
    drawn: Drawn, problem: Problem, sigma: Tensor, rows: int, tail_rows: Tensor | None
) -> tuple[Intervals | None, str]:
    if drawn.groups is None:
        if drawn.moments.count < FEWEST:
            return None, f"{drawn.moments.count} samples are too few for an interval"
        return None, "moments of groups of samples take more memory than allowed"
    settled = None if tail_rows is None else tails.settling(tail_rows)
    live = sigma > 0
    if (part := drawn.part) is None:
        return noise_intervals(drawn.groups, rows, problem.sizes, live, settled), ""
    weights = Weights.of(part, sigma, drawn.moments.mean)
    if weights is None:
        return None, f"the {len(part.at):,} coordinates that were drawn of {problem.d:,} miss the noise of a tensor"
    return noise_intervals(drawn.groups, rows, part.sizes, live[part.at.to(live.device)], settled, weights), ""


def _corrected(found: Intervals, plain: Mapping[str, Any], d: int) -> dict[str, Any]:
    """What an interval's estimates replace; None where they are."""
    values = {key: getattr(found, key) for name in PAIRS for key in (name, f"{name}_interval")}
    live = round((1 - plain["dead_fraction"]) * d)
    phi = found.density
    return values | {
        "sqrt_d_l2": None if found.l2 is None else math.sqrt(d) * found.l2,
        "effective_dimension": None if phi is None else d * phi**2,
        "density_live": None if phi is None or not live else min(1.0, phi * math.sqrt(d / live)),
    }


def _overrule(why: dict[str, str], found: Mapping[str, str]) -> None:
    """Reasons of the intervals, carried to what follows from them; those of :func:`_reasons` that stand stay."""
    for key, reason in found.items():
        why.setdefault(key, reason)
    if "density" in found:
        for key in ("effective_dimension", "density_live"):
            why.setdefault(key, found["density"])
    if "l2" in found:
        why.setdefault("sqrt_d_l2", found["l2"])


def _reasons(plain: Mapping[str, Any], n: int, exact: bool, dtype: torch.dtype) -> dict[str, str]:
    """Which of the plain numbers cannot be told, and why."""
    why: dict[str, str] = {}
    if n == 1 and not exact:
        tables = ("dead_fraction", "tensors", "token_deciles")
        return dict.fromkeys((*NORMS, *RATIOS, *SCALES, *tables), "one sample of many rows shows no variation")
    if plain["l2"] == 0:
        same = "there is one sample" if n == 1 else f"the gradients of the {n} samples are equal"
        why |= dict.fromkeys(RATIOS, f"no noise: {same}")
    for norm in ("l2", "l1"):
        if plain[f"gradient_{norm}"] <= ROUNDING * torch.finfo(dtype).eps * plain[norm]:
            keys = (f"noise_scale_{norm}", f"noise_scale_{norm}_interval")
            why |= dict.fromkeys(keys, "not resolved: the gradient vanishes at this point")
    return why


def _by_tensor(problem: Problem, sigma: Tensor) -> list[dict[str, Any]]:
    """One row for each parameter: name, parameters, l1, l2, density, dead_fraction."""
    table: list[dict[str, Any]] = []
    for name, part in zip(problem.names, torch.split(sigma, problem.sizes), strict=True):
        l1, l2, size = float(part.sum()), float(part.norm()), part.numel()
        phi = density(l1, l2, size)
        row: dict[str, Any] = {
            "name": name,
            "parameters": size,
            "l1": l1,
            "l2": l2,
            "density": phi,
            "dead_fraction": 1 - int(part.count_nonzero()) / max(size, 1),
        }
        if phi is None:
            row["why"] = {"density": "no noise in this tensor"}
        table.append(row)
    return table


def _few_samples(n: int, rows: int) -> tuple[Finding, ...]:
    if n >= FEW:
        return ()
    exact = n == rows
    rough = f"each standard deviation is off by about {100 / math.sqrt(2 * n):.0f}%, more where tails are heavy"
    return (
        Finding(
            code="too-few-samples",
            severity="warning",
            stage=STAGE,
            found=f"noise measured on {n} sample{'s' if n > 1 else ''}",
            meaning="exact for these rows, but little evidence about further data of the same kind" if exact else rough,
            action="collect more rows: these are all that the data hold"
            if exact
            else f"use `--samples {min(FEW, rows)}`" + (" (all rows)" if rows <= FEW else " or more"),
        ),
    )


def _judged(found: Intervals, n: int, rows: int) -> tuple[Finding, ...]:
    """What the intervals of a draw say about it: heavy tails, or more samples needed."""
    if heavy := [SHOWN[key] for key in ("l1", "l2", "density") if key in found.heavy]:
        return (
            Finding(
                code="heavy-tail",
                severity="warning",
                stage=STAGE,
                found=f"{n:,} of {rows:,} rows do not tell {' and '.join(heavy)} of all rows",
                meaning=found.why[next(key for key in SHOWN if key in found.heavy)],
                action=f"use `--samples {min(rows, 4 * n)}`{' (all rows)' if 4 * n >= rows else ''}; the tables and "
                "vectors are those of the draw",
            ),
        )
    shown = {"l1": found.l1_interval, "density": found.density_interval}
    widths = {key: half_width(interval) for key, interval in shown.items() if interval is not None}
    if not widths or max(widths.values()) <= WIDE:
        return ()
    key = max(widths, key=lambda name: widths[name])
    low, high = interval = shown[key] or (0.0, 0.0)
    # A number near the one that was used would be within the error of this estimate.
    needed = min(rows, max(samples_for(interval, n, rows, WIDE), 3 * n // 2))
    room = found.hidden > 0.05 * (found.l1 or math.inf)
    return (
        Finding(
            code="too-few-samples",
            severity="warning",
            stage=STAGE,
            found=f"noise measured on {n:,} of {rows:,} rows; the 95% interval of {SHOWN[key]} is "
            f"[{low:.3g}, {high:.3g}]",
            meaning="the value is known to more than 20% only with more samples"
            + ("; part of it is room for coordinates, as of tokens, that no sample moved" if room else ""),
            action=f"use `--samples {needed}`" + (" (all rows)" if needed >= rows else ""),
        ),
    )
