"""The smoothness vector L of Assumption 3.3 (arXiv 2406.15244): -diag(L) <= nabla^2 f <= diag(L)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from estimators.curvature.lanczos import DELTA, MAX_STEPS, SHARPNESS_TOLERANCE, Ritz, lanczos, not_converged
from estimators.errors import InputError
from estimators.numbers.formats import COARSE, TOO_COARSE
from estimators.numbers.vectors import SLICE, random_start
from estimators.results import Ending, Finding, Interval, Progress, Smoothness, reporting
from estimators.smoothness_vector.bracket import MEMORY, Bracket, bracket, check_limits, room_in
from estimators.smoothness_vector.formed import dense_bracket
from estimators.smoothness_vector.known_subspace import Known, from_lanczos
from estimators.smoothness_vector.stopping import Goal, Threshold, check_thresholds, marks
from estimators.smoothness_vector.subspace_rounds import FEWEST_VECTORS
from estimators.task import memory_limit
from estimators.task.function import Meter
from estimators.task.problem import Problem
from estimators.task.products import Curvature, Product, dense_hessian, hessian
from estimators.task.token_rows import token_deciles

GAP = 0.05
DENSE_GAP = 0.01
MAX_PRODUCTS = 480
COARSE_VECTORS = 160
"""Vectors that are held in half precision: too few for rounds, whose bases its rounding would make nonsense of."""
KNOWN = 32
"""Ritz vectors of lambda's run that the bracket starts with."""
STANDS_OUT = 22
"""Lanczos steps for lambda up to which the bracket tries rounds: 12 to 22 on trained networks and matrices of low
rank, 24 to 42 on networks at their start and where the diagonal rules."""
STAGE = "smoothness"


def smoothness(
    problem: Problem,
    *,
    gap: float | None = None,
    thresholds: Sequence[Threshold] = (),
    max_products: int = MAX_PRODUCTS,
    run: Ritz | None = None,
    start: Smoothness | None = None,
    keep: bool = False,
    beside: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Smoothness:
    """Bracket on Lambda(H) = min{1'L : -diag(L) <= H <= diag(L)} and the feasible L of its upper end.

    Where H is formed the bracket is certain but for float64 rounding. Else the bracket and the interval of lambda =
    max|eig H| hold together with probability 0.999 (random starts of Lanczos). Cost: about two passes for each of the
    ``products``. R_L = upper/(d lambda) is ``density``.

    ``row_norm_sum`` = sum_j sqrt((H^2)_jj) is a lower bound of Lambda; where H is not formed it is estimated
    from 8 or 12 random products (a few per cent too small), null with a ``start``. ``diagonal_sum`` is left to
    ``hessian_diagonal`` there. ``global_l1`` bounds Lambda at every w for linear models with a convex loss.

    Few vectors of d numbers (``problem.memory_bytes``, ``memory_limit.py``) mean no subspace rounds, Lanczos without a
    basis, fewer columns and a wider bracket, certified all the same.

    Args:
        gap: goal for upper/lower - 1; default 0.01 where H is formed, else 0.05.
        thresholds: values at which what is read from the bracket changes: it ends as soon as it is told from all of
            them, with lambda's own interval, even where the gap is not reached; none: at the gap alone. Not used where
            H is formed: there a narrow bracket costs next to nothing.
        max_products: products that the bracket may take, those for lambda apart.
        run: that of ``lanczos.extremes(problem, keep=True).norm``, where it is there already: its steps count as
            products, its basis as vectors that are held. Not used where H is formed.
        start: the result of a point nearby, taken with ``keep``: sweeps begin with its rows. The bracket holds as
            without: any unit rows give a lower bound, and the random numbers, those of Lanczos' starts among them, come
            from a stream that depends on the rows. Not used where H is formed: there the cost is in forming it.
        keep: leave ``rows`` in the result, for the ``start`` of the next; none where H is formed.
        beside: vectors that the caller holds meanwhile, within the memory limit.

    Raises:
        InputError: too few products allowed, a gap that is not above 0, a threshold that is no interval above 0,
            curvature that is not finite, a run without its basis or of other parameters, a start without its rows or of
            other parameters.

    Examples:
        >>> import torch
        >>> from estimators import Problem, smoothness
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> result = smoothness(problem)
        >>> print(f"{result.l1_lower:.2f} to {result.l1_upper:.2f}, R_L {result.density:.3f}")
        2.50 to 2.50, R_L 0.625
    """
    check_limits(gap, max_products)
    check_thresholds(thresholds)
    meter = Meter(problem)
    dense = problem.forms_hessian
    gap = gap if gap is not None else (DENSE_GAP if dense else GAP)
    rows = None if start is None or dense else _rows(problem, start)
    generator = torch.Generator().manual_seed(seed if rows is None else _apart(seed, rows))
    why: dict[str, str] = {}
    warnings: list[Finding] = []
    hessian_11 = diagonal_sum = None
    confidence: float | None = 1.0
    if dense:
        matrix = dense_hessian(problem)
        found = dense_bracket(matrix, generator, gap)
        sharpness = float(torch.linalg.eigvalsh(matrix).abs().max())
        interval = (sharpness, sharpness)
        hessian_11 = float(matrix.abs().sum())
        diagonal_sum = float(matrix.diagonal().abs().sum())
        products = problem.d
    else:
        room = memory_limit.vectors(problem) - beside - (0 if rows is None else 2 * rows.shape[1])
        held = min(max(room, memory_limit.FEWEST), COARSE_VECTORS if problem.precision in COARSE else MEMORY)
        with hessian(problem) as product:
            paid = 0
            if run is not None:
                paid = _fitting(run, problem.d).steps
                held = max(held - (MAX_STEPS + 1 if run.basis is not None else 0), memory_limit.FEWEST)
            run = run or sharpness_run(product, problem.d, generator, problem.like, held)
            spent = paid + product.products
            report = reporting(progress, STAGE, spent + max_products)
            # Near a perfect fit curvature may be 1e-30 and less: row norms are taken of H / ||H||.
            scale = run.norm or 1.0
            scaled = Curvature(lambda block: product(block).div_(scale), problem.d)
            # Where the top of the spectrum does not stand out, rounds in a subspace are no use.
            known = None
            if run.basis is not None and run.steps <= STANDS_OUT:
                basis = from_lanczos(run, KNOWN)
                known = Known(basis.vectors, basis.images / scale)
            run = replace(run, basis=None, residual=None)
            whole = _times(problem.d, run.norm_interval)
            found = bracket(
                scaled,
                generator,
                problem.like,
                gap,
                max_products,
                3 * DELTA / 4,
                lambda done: report(spent + done),
                known=known,
                memory=held,
                start=rows,
                marks=marks(thresholds, whole, scale),
            ).times(scale)
            products = paid + product.products
        sharpness, interval = run.norm, run.norm_interval
        found = capped(found, interval[1])
        if not run.norm_known:
            warnings.append(not_converged(STAGE, run, run.steps))
        confidence = 1 - DELTA
        why["hessian_11"] = why["hessian_11_interval"] = "measured by hessian_one_norm"
        why["diagonal_sum"] = "measured by the Hessian diagonal"
    if problem.precision in COARSE:
        confidence = None
        why["confidence"] = TOO_COARSE
    whole = _times(problem.d, interval)
    ended = _ending(Goal(gap, () if dense else marks(thresholds, whole)), found)
    around = None if not interval[0] else (found.lower / whole[1], found.upper / whole[0])
    if ended == "products":
        warnings.append(_wide(found, gap, products, around if thresholds and not dense else None))
    global_l1 = closed_form(problem)
    if global_l1 is None:
        why["global_l1"] = "a closed form exists for linear models with a convex loss alone"
    density = found.upper / (problem.d * sharpness) if sharpness > 0 else None
    row_norm_sum = None
    if rows is None:
        row_norm_sum = float(found.first_row_norms.sum(dtype=torch.float64))
    else:
        why["row_norm_sum"] = "its random products are not made where sweeps are given a start"
    if density is None:
        why["density"] = why["density_interval"] = "the Hessian is zero"
    vectors = problem.unflatten(rounded_up(found.vector, problem.dtype))
    why |= dict.fromkeys(("density_rotated", "points", "whole_data"), "not measured by this call")
    deciles, reason = token_deciles(problem, vectors)
    why |= {"token_deciles": reason} if deciles is None else {}
    return Smoothness(
        l1_lower=found.lower,
        l1_upper=found.upper,
        confidence=confidence,
        gap_wanted=gap,
        ended_by=ended,
        sharpness=sharpness,
        sharpness_interval=interval,
        sharpness_wanted=0.0 if dense else SHARPNESS_TOLERANCE,
        density=density,
        density_interval=around,
        density_rotated=None,
        diagonal_sum=diagonal_sum,
        row_norm_sum=row_norm_sum,
        hessian_11=hessian_11,
        hessian_11_interval=None if hessian_11 is None else (hessian_11, hessian_11),
        products=products,
        samples=problem.n,
        global_l1=global_l1,
        whole_data=None,
        points=None,
        tensors=[{"name": name, "parameters": v.numel(), "l1": float(v.double().sum())} for name, v in vectors.items()],
        token_deciles=deciles,
        why=why,
        vectors=vectors,
        rows=_by_name(problem, found.rows) if keep and found.rows is not None else {},
        warnings=tuple(warnings),
        cost=meter.cost(),
    )


def sharpness_run(product: Product, d: int, generator: torch.Generator, like: Tensor, held: int) -> Ritz:
    """Lanczos on H until max|eig H| is known to 0.5% with probability 1 - DELTA/4.

    Its basis is kept where the vectors that may be held are enough for rounds.
    """
    return lanczos(
        product,
        random_start(d, generator, like),
        d,
        MAX_STEPS,
        DELTA / 4,
        generator,
        lambda run: run.norm_known,
        keep=room_in(held) >= FEWEST_VECTORS,
        local=held < MAX_STEPS + memory_limit.STEP,
    )


def _fitting(run: Ritz, d: int) -> Ritz:
    if run.basis is not None and run.basis.shape[1] != d:
        raise InputError("the Lanczos run is of other parameters", "run", "give that of the same problem")
    return run


def _rows(problem: Problem, start: Smoothness) -> Tensor:
    """The rows Z with which the sweeps of an earlier result ended, shape (d, k)."""
    if not start.rows:
        raise InputError("the earlier result holds no rows", "start", "take it with `keep=True`")
    if {name: len(part) for name, part in start.rows.items()} != dict(zip(problem.names, problem.sizes, strict=True)):
        raise InputError("the earlier result is of other parameters", "start", "give that of the same model")
    return torch.cat([start.rows[name].to(problem.device) for name in problem.names])


def _by_name(problem: Problem, rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(problem.names, torch.split(rows, problem.sizes), strict=True))


def _apart(seed: int, rows: Tensor) -> int:
    """A seed that depends on the rows.

    They go back to random vectors of the seed with which they were made. The same stream once more would give Lanczos
    a start that its D is not independent of.
    """
    return seed ^ zlib.crc32(rows[:1024].float().cpu().numpy().tobytes())


def capped(found: Bracket, norm: float) -> Bracket:
    """The bracket, with the uniform vector L = ||H|| on the active rows where that sum is smaller."""
    active = found.first_row_norms > 0
    upper = norm * int(active.sum())
    if upper >= found.upper:
        return found
    return replace(found, upper=upper, vector=norm * active.double())


def closed_form(problem: Problem) -> float | None:
    """sum_j L_j with L_j = c mean_i |x_ij| |x_i|_1 >= Lambda(H(w)) for every w, for one linear layer.

    c = max l'': 1/4 (logistic), 1 (squared), 1/2 for each class (cross-entropy, whose Hessian in the scores,
    diag(p) - pp', lies below I/2). Because xx' <= diag(|x| |x|_1). None for other models.
    """
    layer = _only_linear(problem.model)
    bound = {"logistic": 0.25, "squared": 1.0, "cross-entropy": 0.5}.get(problem.loss_name or "")
    if layer is None or bound is None or isinstance(problem.samples, dict) or problem.unrotated is not None:
        return None
    if len(problem.parameters) != len(list(layer.parameters())):
        return None
    x = problem.samples[0].flatten(1)
    if x.shape[1] != layer.in_features:
        return None
    length = x.abs().sum(1, dtype=torch.float64) + (1 if layer.bias is not None else 0)
    return float(bound * layer.out_features * length.square().mean())


def _only_linear(model: nn.Module) -> nn.Linear | None:
    if type(model) is nn.Linear:
        return model
    if type(model) is nn.Sequential:
        layers = [m for m in model if not isinstance(m, nn.Flatten | nn.Identity)]
        if len(layers) == 1 and type(layers[0]) is nn.Linear:
            return layers[0]
    return None


def _times(d: int, interval: Interval) -> Interval:
    return d * interval[0], d * interval[1]


def _ending(goal: Goal, found: Bracket) -> Ending:
    if found.upper <= (1 + goal.gap) * found.lower * (1 + 1e-9):
        return "gap"
    return "thresholds" if goal.cleared(found.lower, found.upper) else "products"


def _wide(found: Bracket, gap: float, products: int, density: Interval | None) -> Finding:
    """``density``: R_L, where the bracket was to end once that is told from what it is read against."""
    reached = found.upper / found.lower - 1 if found.lower > 0 else float("inf")
    read = "" if density is None else f", and R_L between {density[0]:.3g} and {density[1]:.3g} holds a value at which "
    read += "" if density is None else "its reading changes"
    return Finding(
        code="bracket-wide",
        severity="warning",
        stage=STAGE,
        found=f"the bracket on ‖L‖₁ is {reached:.1%} wide after {products} products, the goal was {gap:.1%}",
        meaning=f"‖L‖₁ lies between the two ends, but the ratio to d·λ is known only this well{read}",
        action="accept the width, or ask for a wider one with `--gap`",
    )


def rounded_up(vector: Tensor, dtype: torch.dtype) -> Tensor:
    """The vector in another dtype, no entry smaller than it was: a feasible L stays feasible."""
    cast = vector.to(dtype)
    for own, into in zip(torch.split(vector, SLICE), torch.split(cast, SLICE), strict=True):
        above = torch.nextafter(into, torch.full_like(into, float("inf")))
        into.copy_(torch.where(into.double() < own, above, into))
    return cast


def norms(vector: Tensor) -> tuple[float, float]:
    """l1 and l2 norm, summed in float64."""
    v = vector.double()
    return float(v.abs().sum()), float(v.norm())
