"""One smoothness vector for several points: the smallest 1'L with -diag(L) <= H_t <= diag(L) for every t."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.curvature.lanczos import DELTA, Ritz, rounding_slack
from estimators.curvature.scaled_lanczos import certify
from estimators.errors import InputError
from estimators.numbers.formats import COARSE, TOO_COARSE
from estimators.numbers.vectors import norm, random_start
from estimators.results import Finding, Progress, Result, Smoothness, reporting
from estimators.smoothness_vector.at_a_point import rounded_up
from estimators.smoothness_vector.bracket import check_limits, floored
from estimators.smoothness_vector.formed import JointBracket, formed_bracket
from estimators.smoothness_vector.sweeps import Sweeps
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian, hessian

STAGE = "joint"
GAP = 0.05
DENSE_GAP = 0.01
MAX_PRODUCTS = 400
"""Products at each point."""
COLUMNS = 8
"""Columns for each point: the rows of all points are normalised together, so the program has T times as many. Fewer
where memory is short."""
DENSE_COLUMNS = 24
FIRST_SWEEPS = 6
DENSE_SWEEPS = 2000
ATTEMPTS = 6
LANCZOS_STEPS = 80
FLOOR = 0.5
FEWEST_PRODUCTS = 2 * COLUMNS


@dataclass(frozen=True, kw_only=True)
class Joint(Result):
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


def joint_smoothness(
    problems: Sequence[Problem],
    *,
    gap: float | None = None,
    max_products: int = MAX_PRODUCTS,
    singles: Sequence[Smoothness] | None = None,
    delta: float = DELTA,
    seed: int = 0,
    progress: Progress | None = None,
) -> Joint:
    """Bracket on the smallest sum of one L for the Hessians H_1..H_T of several points.

    The dual is max sum_t <H_t, U_t V_t'> over U, V whose rows have sum_t |u_ti|^2 = sum_t |v_ti|^2 = 1: for fixed V
    the best U is the rows of W = [H_1 V_1, ..., H_T V_T] scaled to unit length, and the value sum_i |W_i| is a lower
    bound. D is the mean of the last two row norms and upper = max_t |D^-1/2 H_t D^-1/2| sum D.

    Where the Hessians are formed the bracket is certain but for float64 rounding. Else it holds with probability 1 -
    ``delta``, a share of the rest for each point. Cost: about two passes a product at each point, and one more for each
    sweep and point; the graph of one point is in memory at a time, with six vectors of size d for each of the eight
    columns of every point. Little memory means fewer columns, and products where Hessians could be formed.

    Args:
        problems: the same task at T points (``problem.at``), or on other samples; the parameters must agree.
        gap: goal for upper/lower - 1; default 0.01 where the Hessians are formed, else 0.05.
        max_products: products at each point.
        singles: ``smoothness`` of each point, for the two values beside the bracket; its lower bounds hold here too.
        delta: probability with which the bracket may fail.
        seed: of the first columns and of Lanczos' starts.
        progress: called with ("joint", products done, most products) for all points together.

    Raises:
        InputError: no problem, parameters that differ, too few products, a gap that is not above 0, ``singles`` of
            another number of points, a memory limit with less room than one column for each point.

    Examples:
        >>> import torch
        >>> from estimators import Problem, joint_smoothness
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> other = problem.with_samples((torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.ones(2, 1)))  # H = diag(1/2, 2)
        >>> result = joint_smoothness([problem, other])  # one L for both: (2, 2)
        >>> print(f"{result.l1_lower:.2f} to {result.l1_upper:.2f}")
        4.00 to 4.00
    """
    gap, dense = _checked(problems, gap, max_products, singles)
    meter = Meter(*problems)
    generator = torch.Generator().manual_seed(seed)
    first = problems[0]
    if dense:
        matrices = [dense_hessian(problem) for problem in problems]
        found = joint_of_matrices(matrices, generator, gap)
        products = sum(problem.d for problem in problems)
    else:
        report = reporting(progress, STAGE, max_products * len(problems))
        found, products = _by_products(problems, generator, gap, max_products, delta, report)
    lower, why = found.lower, {}
    largest = coordinatewise = None
    if singles is None:
        why = dict.fromkeys(("largest_single", "coordinatewise"), "the points' own brackets were not given")
    else:
        largest = max(single.l1_lower or 0.0 for single in singles)
        stacked = torch.stack([first.flatten(single.vectors).double() for single in singles])
        coordinatewise = float(stacked.amax(0).sum())
        lower = max(lower, largest)
    confidence: float | None = 1.0 if dense else 1 - delta
    if any(problem.precision in COARSE for problem in problems):
        confidence = None
        why["confidence"] = TOO_COARSE
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
        cost=meter.cost(),
    )


def joint_of_matrices(matrices: Sequence[Tensor], generator: torch.Generator, gap: float) -> JointBracket:
    """The joint bracket of formed symmetric matrices (d, d) in float64; the upper bound is an eigenvalue."""
    stacked = torch.stack(list(matrices))
    columns = min(int((stacked.abs().sum((0, 2)) > 0).sum()), DENSE_COLUMNS)
    return formed_bracket(stacked, generator, gap, columns, DENSE_SWEEPS)


def _by_products(
    problems: Sequence[Problem],
    generator: torch.Generator,
    gap: float,
    max_products: int,
    delta: float,
    progress: Callable[[float], None],
) -> tuple[JointBracket, int]:
    """Sweep and certify, as ``bracket.bracket`` does for one point; and the products taken."""
    points, like = len(problems), problems[0].like
    d, delta = problems[0].d, delta / (ATTEMPTS * points)
    columns = memory_limit.sweeping(problems, COLUMNS) * points
    # Sweeps hold three blocks between two calls of theirs.
    local = not all(memory_limit.holds_basis(problem, LANCZOS_STEPS + 3 * columns) for problem in problems)
    spent = 0

    def stacked(block: Tensor) -> Tensor:
        nonlocal spent
        images = torch.empty(block.shape[1], d, dtype=block.dtype, device=block.device).T
        for problem, part, into in zip(problems, block.chunk(points, 1), images.chunk(points, 1), strict=True):
            with hessian(problem) as product:
                into.copy_(product(part))
        spent += block.shape[1]
        progress(spent)
        return images

    probe = stacked(torch.stack([random_start(d, generator, like) for _ in problems], 1))
    # Near a perfect fit curvature may be 1e-30 and less: float32 norms of it would vanish.
    scale = max(norm(column) for column in probe.unbind(1))
    del probe
    if scale == 0:
        zero = torch.zeros(d, dtype=torch.float64, device=like.device)
        return JointBracket(0.0, 0.0, zero, (0.0,) * points), spent
    sweeps = Sweeps(lambda block: stacked(block).div_(scale), d, columns, generator, like, lean=True)
    sweeps.sweep()
    active = sweeps.norms[0] > 0
    limit, rounding = max_products * points, rounding_slack(like.dtype)
    reserve = points * min(LANCZOS_STEPS, max_products // 4)
    upper, vector, binding = float("inf"), torch.zeros_like(sweeps.norms[0]), (0.0,) * points
    order = list(range(points))
    due = FIRST_SWEEPS - 1
    for attempt in itertools.count():
        last = attempt == ATTEMPTS - 1
        while (due > 0 or last) and limit - spent >= columns + reserve:
            sweeps.sweep()
            due -= 1
        last = last or limit - spent < columns + reserve
        scaling = floored(sweeps.scaling, active, FLOOR * gap)
        total = float(scaling.sum(dtype=torch.float64)) * (1 + rounding)
        goal = (1 + gap) * sweeps.lower

        def done(run: Ritz, total: float = total, goal: float = goal, last: bool = last) -> bool:
            return run.norm_bound * total <= goal or (not last and run.norm * total > goal)

        runs: dict[int, Ritz] = {}
        for place, t in enumerate(order):
            steps = max(1, min(LANCZOS_STEPS, (limit - spent) // (points - place)))
            with hessian(problems[t]) as product:
                counted = product.products

                def one(block: Tensor) -> Tensor:
                    return product(block).div_(scale)

                runs[t] = certify(one, scaling, active, generator, like, steps, delta, done, local)
                spent += product.products - counted
            progress(spent)
            if not last and runs[t].norm_bound * total > goal:
                break
        order.sort(key=lambda t: -runs[t].norm if t in runs else 0.0)
        if len(runs) == points:
            norms = {t: run.norm_bound for t, run in runs.items()}
            largest = max(norms.values())
            if largest * total < upper:
                upper, vector = largest * total, largest * (1 + rounding) * scaling
                binding = tuple(norms[t] / largest for t in range(points))
        if upper <= goal or last:
            break
        due = FIRST_SWEEPS - 1 + 2 * attempt
    return JointBracket(sweeps.lower * scale, upper * scale, vector * scale, binding), spent


def _checked(
    problems: Sequence[Problem], gap: float | None, max_products: int, singles: Sequence[Smoothness] | None
) -> tuple[float, bool]:
    """The gap, and whether the Hessians are formed."""
    if not problems:
        raise InputError("no point", "problems", "give one problem or more")
    for problem in problems:
        if problem.shapes != problems[0].shapes:
            raise InputError("the parameters of the points differ", "problems", "give one task at several points")
    check_limits(gap, max_products, FEWEST_PRODUCTS)
    if singles is not None and len(singles) != len(problems):
        raise InputError(f"{len(singles)} brackets for {len(problems)} points", "singles", "give one for each point")
    dense = problems[0].forms_hessian and memory_limit.holds_formed(problems[0], len(problems))
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
