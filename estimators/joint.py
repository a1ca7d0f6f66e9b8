"""One smoothness vector for several points: the smallest 1'L with -diag(L) <= H_t <= diag(L) for every t."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators.anisotropic import rounded_up
from estimators.errors import InputError
from estimators.lanczos import DELTA, Ritz
from estimators.losses import COARSE
from estimators.max_cut import Sweeps, certify, floored
from estimators.problem import Problem
from estimators.products import DENSE_LIMIT, dense_hessian, hessian
from estimators.results import Cost, Finding, Progress, Smoothness

STAGE = "joint"
GAP = 0.05
DENSE_GAP = 0.01
MAX_PRODUCTS = 400
"""Products at each point."""
COLUMNS = 8
"""Columns for each point: the rows of all points are normalised together, so the program has T times as many."""
DENSE_COLUMNS = 24
FIRST_SWEEPS = 6
DENSE_SWEEPS = 2000
ATTEMPTS = 6
LANCZOS_STEPS = 80
FLOOR = 0.5
FEWEST_PRODUCTS = 2 * COLUMNS
ROUNDING = {torch.float64: 1e-10}
"""Slack of the upper bound from the rounding of products; 2e-5 for other formats."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """l1_lower <= min{1'L : -diag(L) <= H_t <= diag(L) for all t} <= l1_upper = sum of the feasible ``vectors``.

    ``binding`` holds for each point max|eig L^-1/2 H_t L^-1/2|, from 0 to 1: at points near 1 this L is tight, those
    near 0 cost nothing. ``largest_single`` = max_t of the points' own lower bounds, ``coordinatewise`` = sum_j max_t
    L_tj: the joint value lies between the two. Both come from ``singles``. ``products`` counts all points'.
    """

    l1_lower: float
    l1_upper: float
    confidence: float | None
    points: int
    binding: tuple[float, ...]
    largest_single: float | None
    coordinatewise: float | None
    products: int
    samples: int
    why: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    warnings: tuple[Finding, ...] = ()
    cost: Cost = field(default=Cost())


def joint_smoothness(
    problems: Sequence[Problem],
    *,
    gap: float | None = None,
    max_products: int = MAX_PRODUCTS,
    singles: Sequence[Smoothness] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Joint:
    """Bracket on the smallest sum of one L for the Hessians H_1..H_T of several points.

    The dual is max sum_t <H_t, U_t V_t'> over U, V whose rows have sum_t |u_ti|^2 = sum_t |v_ti|^2 = 1: for fixed V
    the best U is the rows of W = [H_1 V_1, ..., H_T V_T] scaled to unit length, and the value sum_i |W_i| is a lower
    bound. D is the mean of the last two row norms and upper = max_t |D^-1/2 H_t D^-1/2| sum D.

    d <= 2,000: the Hessians are formed and the bracket is certain but for float64 rounding. Else it holds with
    probability 0.999, a share of the rest for each point. Cost: about two passes a product at each point, and one more
    for each sweep and point; the graph of one point is in memory at a time.

    Args:
        problems: the same task at T points (``problem.at``), or on other samples; the parameters must agree.
        gap: goal for upper/lower - 1; default 0.01 where the Hessians are formed, else 0.05.
        max_products: products at each point.
        singles: ``smoothness`` of each point, for the two values beside the bracket; its lower bounds hold here too.
        seed: of the first columns and of Lanczos' starts.
        progress: called with ("joint", products done, most products) for all points together.

    Raises:
        InputError: no problem, parameters that differ, too few products, a gap that is not above 0, ``singles`` of
            another number of points.
    """
    gap, dense = _checked(problems, gap, max_products, singles)
    began = time.perf_counter()
    counters = list({id(problem.passes): problem.passes for problem in problems}.values())
    before = sum(counter.total for counter in counters)
    generator = torch.Generator().manual_seed(seed)
    first = problems[0]
    if dense:
        matrices = [dense_hessian(problem) for problem in problems]
        found = joint_of_matrices(matrices, generator, gap)
        products = sum(problem.d for problem in problems)
    else:

        def report(done: int) -> None:
            if progress:
                progress(STAGE, done, max_products * len(problems))

        found = _by_products(problems, generator, gap, max_products, report)
        products = found.products
    lower, why = found.lower, {}
    largest = coordinatewise = None
    if singles is None:
        why = dict.fromkeys(("largest_single", "coordinatewise"), "the points' own brackets were not given")
    else:
        largest = max(single.l1_lower or 0.0 for single in singles)
        stacked = torch.stack([first.flatten(single.vectors).double() for single in singles])
        coordinatewise = float(stacked.amax(0).sum())
        lower = max(lower, largest)
    confidence: float | None = 1.0 if dense else 1 - DELTA
    if any(problem.precision in COARSE for problem in problems):
        confidence = None
        why["confidence"] = "rounding of half precision exceeds what the bounds allow for; use model.float()"
    wide = found.upper > (1 + gap) * lower * (1 + 1e-9)
    return Joint(
        l1_lower=lower,
        l1_upper=found.upper,
        confidence=confidence,
        points=len(problems),
        binding=found.binding,
        largest_single=largest,
        coordinatewise=coordinatewise,
        products=products,
        samples=first.n,
        why=why,
        vectors=first.unflatten(rounded_up(found.vector, first.dtype)),
        warnings=(_wide(lower, found.upper, gap),) if wide else (),
        cost=Cost(sum(counter.total for counter in counters) - before, time.perf_counter() - began),
    )


@dataclass(frozen=True)
class Found:
    """A bracket with its feasible vector (d,) float64 and, for each point, how close to 1 its scaled norm comes."""

    lower: float
    upper: float
    vector: Tensor
    binding: tuple[float, ...]
    products: int


def joint_of_matrices(matrices: Sequence[Tensor], generator: torch.Generator, gap: float) -> Found:
    """The joint bracket of formed symmetric matrices (d, d) in float64; the upper bound is an eigenvalue."""
    alive = torch.stack([matrix.abs().sum(1) for matrix in matrices]).sum(0) > 0
    n = int(alive.sum())
    vector = torch.zeros(alive.numel(), dtype=torch.float64, device=alive.device)
    if n == 0:
        return Found(0.0, 0.0, vector, (0.0,) * len(matrices), 0)
    scale = max(float(matrix.abs().max()) for matrix in matrices)
    parts = torch.stack([matrix[alive][:, alive] / scale for matrix in matrices])
    columns = min(n, DENSE_COLUMNS)
    sweeps = Sweeps(lambda z: _stacked(parts, z), n, columns * len(matrices), generator, parts)
    upper, best, norms = float("inf"), vector, torch.zeros(len(matrices))
    every = torch.ones(n, dtype=torch.bool, device=parts.device)
    check = 16
    for count in range(1, DENSE_SWEEPS + 1):
        sweeps.sweep()
        if count < check and count < DENSE_SWEEPS:
            continue
        check = int(1.5 * count)
        for share in (gap / 4, gap / 40):
            scaling = floored(sweeps.scaling, every, share)
            root = scaling.rsqrt()
            each = torch.linalg.eigvalsh(root[:, None] * parts * root).abs().amax(1) * (1 + 1e-13 * n)
            norm = float(each.max())
            if norm * float(scaling.sum()) < upper:
                upper, best, norms = norm * float(scaling.sum()), norm * scaling, each / norm
        if upper <= (1 + gap) * sweeps.lower:
            break
    vector[alive] = best * scale
    return Found(sweeps.lower * scale, upper * scale, vector, tuple(norms.tolist()), 0)


def _stacked(parts: Tensor, z: Tensor) -> Tensor:
    """[H_1 Z_1, ..., H_T Z_T] for matrices (T, n, n) and columns (n, T k)."""
    t, n, _ = parts.shape
    blocks = z.reshape(n, t, -1).transpose(0, 1)
    return (parts @ blocks).transpose(0, 1).reshape(n, -1)


def _by_products(
    problems: Sequence[Problem],
    generator: torch.Generator,
    gap: float,
    max_products: int,
    progress: Callable[[int], None],
) -> Found:
    """Sweep and certify, as ``max_cut.bracket`` does for one point."""
    points, like = len(problems), next(iter(problems[0].parameters.values()))
    d, delta = problems[0].d, DELTA / (ATTEMPTS * points)
    spent = 0

    def stacked(block: Tensor) -> Tensor:
        nonlocal spent
        images = []
        for problem, part in zip(problems, block.chunk(points, 1), strict=True):
            with hessian(problem) as product:
                images.append(product(part))
        spent += block.shape[1]
        progress(spent)
        return torch.cat(images, 1)

    probe = stacked(_normal(d, points, generator, like)).double()
    # Near a perfect fit curvature may be 1e-30 and less: float32 norms of it would vanish.
    scale = float(probe.norm(dim=0).max())
    if scale == 0:
        zero = torch.zeros(d, dtype=torch.float64, device=like.device)
        return Found(0.0, 0.0, zero, (0.0,) * points, spent)
    sweeps = Sweeps(lambda block: stacked(block) / scale, d, COLUMNS * points, generator, like)
    sweeps.sweep()
    active = sweeps.norms[0] > 0
    limit, rounding = max_products * points, ROUNDING.get(like.dtype, 2e-5)
    reserve = points * min(LANCZOS_STEPS, max_products // 4)
    upper, vector, binding = float("inf"), torch.zeros_like(sweeps.norms[0]), (0.0,) * points
    order = list(range(points))
    due = FIRST_SWEEPS - 1
    for attempt in itertools.count():
        last = attempt == ATTEMPTS - 1
        while (due > 0 or last) and limit - spent >= COLUMNS * points + reserve:
            sweeps.sweep()
            due -= 1
        last = last or limit - spent < COLUMNS * points + reserve
        scaling = floored(sweeps.scaling, active, FLOOR * gap)
        total = float(scaling.sum()) * (1 + rounding)
        goal = (1 + gap) * sweeps.lower

        def done(run: Ritz, total: float = total, goal: float = goal, last: bool = last) -> bool:
            return run.norm_bound * total <= goal or (not last and run.norm * total > goal)

        runs: dict[int, Ritz] = {}
        for place, t in enumerate(order):
            steps = max(1, min(LANCZOS_STEPS, (limit - spent) // (points - place)))
            with hessian(problems[t]) as product:
                counted = product.products

                def one(block: Tensor) -> Tensor:
                    return product(block) / scale

                runs[t] = certify(one, scaling, active, generator, like, steps, delta, done)
                spent += product.products - counted
            progress(spent)
            if not last and runs[t].norm_bound * total > goal:
                break
        order.sort(key=lambda t: -runs[t].norm if t in runs else 0.0)
        if len(runs) == points:
            norms = {t: run.norm_bound for t, run in runs.items()}
            norm = max(norms.values())
            if norm * total < upper:
                upper, vector = norm * total, norm * (1 + rounding) * scaling
                binding = tuple(norms[t] / norm for t in range(points))
        if upper <= goal or last:
            break
        due = FIRST_SWEEPS - 1 + 2 * attempt
    return Found(sweeps.lower * scale, upper * scale, vector * scale, binding, spent)


def _normal(d: int, columns: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(d, columns, generator=generator, dtype=torch.float64).to(like.device, like.dtype)


def _checked(
    problems: Sequence[Problem], gap: float | None, max_products: int, singles: Sequence[Smoothness] | None
) -> tuple[float, bool]:
    """The gap, and whether the Hessians are formed."""
    if not problems:
        raise InputError("no point", "problems", "give one problem or more")
    for problem in problems:
        if problem.shapes != problems[0].shapes:
            raise InputError("the parameters of the points differ", "problems", "give one task at several points")
    if gap is not None and not 0 < gap < float("inf"):
        raise InputError(f"a gap of {gap} cannot be reached", "gap", "give a number above 0")
    if max_products < FEWEST_PRODUCTS:
        raise InputError(f"{max_products} products give no bracket", "max_products", f"allow {FEWEST_PRODUCTS} or more")
    if singles is not None and len(singles) != len(problems):
        raise InputError(f"{len(singles)} brackets for {len(problems)} points", "singles", "give one for each point")
    dense = problems[0].d <= DENSE_LIMIT
    return gap if gap is not None else (DENSE_GAP if dense else GAP), dense


def _wide(lower: float, upper: float, gap: float) -> Finding:
    reached = upper / lower - 1 if lower > 0 else float("inf")
    return Finding(
        code="bracket-wide",
        severity="warning",
        stage=STAGE,
        found=f"the bracket on ‖L‖₁ of all points together is {reached:.1%} wide, the goal was {gap:.1%}",
        meaning="the value lies between the two ends, but is known only this well",
        action="accept the width, or allow more with `max_products`",
    )
