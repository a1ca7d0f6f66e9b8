"""Curvature as an update rule meets it: along its direction, and in the metric that it scales the coordinates with.

Directional sharpness: Pan & Li, "Toward understanding why Adam converges faster than SGD for transformers" (2023).
Preconditioned sharpness: Cohen et al., "Adaptive gradient methods at the edge of stability" (2022).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators import memory
from estimators.errors import InputError
from estimators.lanczos import DELTA, MAX_STEPS, Ritz, not_converged
from estimators.losses import COARSE, TOO_COARSE
from estimators.max_cut import certify
from estimators.problem import Parameters, Problem
from estimators.products import DENSE_LIMIT, dense_hessian, hessian
from estimators.results import Cost, Finding, Interval, Progress

STAGE = "preconditioned-sharpness"
DIRECTIONS = ("sgd", "sign-sgd", "adagrad")
FLOOR = 0.1
"""Share of its own mean that AdaGrad's scale is raised by: coordinates without signal would rule g/sqrt(v) else."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Along u: ``sharpness`` = u'Hu/u'u, and ``decrease`` = (g'u)^2/(2 u'Hu), the most that one step along u gains.

    ``decrease`` is that of the quadratic model at w with the best step size; None where u'Hu <= 0: the model has no
    best step there.
    """

    sharpness: float | None
    decrease: float | None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UpdateSharpness:
    """The directions of sgd, sign-sgd and adagrad. ``log_ratio`` = log(sgd's sharpness / adagrad's): > 0 where
    AdaGrad moves along flatter directions; None where one of the two is not above 0."""

    directions: Mapping[str, Direction]
    log_ratio: float | None
    batch_size: int
    samples: int
    why: Mapping[str, str] = field(default_factory=dict)
    cost: Cost = field(default=Cost())


@dataclass(frozen=True, kw_only=True)
class PreconditionedSharpness:
    """max|eig P^-1/2 H P^-1/2|: ``value`` is a lower bound, ``interval`` holds it with probability ``confidence``.

    A rule that moves by -eta g/P is stable along every direction while eta times it stays below 2.
    """

    value: float
    interval: Interval
    confidence: float | None
    products: int
    samples: int
    why: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()
    cost: Cost = field(default=Cost())


def directional_sharpness(problem: Problem, direction: Mapping[str, Tensor]) -> float:
    """u'Hu/u'u for H = nabla^2 f(w), with one product (about three passes).

    Raises:
        InputError: names or shapes that do not fit, a direction that is zero or not finite.
    """
    u = problem.flatten(problem._fitting(direction))
    length = float(u.double().norm())
    if not 0 < length < float("inf"):
        raise InputError("the direction is zero or not finite", "direction", "give one that moves some parameter")
    # In float32 the squares of a tiny direction would vanish.
    unit = (u.double() / length).to(u.dtype)
    with hessian(problem) as product:
        return _quadratic(unit, product(unit[:, None])[:, 0])


def update_sharpness(problem: Problem, sigma: Mapping[str, Tensor], *, batch_size: int) -> UpdateSharpness:
    """Directional sharpness of each update rule's direction at w.

    The directions are g (sgd), sign(g) (sign-sgd) and g/P with P = p + 0.1 mean(p), p = sqrt(g^2 + sigma^2/M)
    (adagrad: the root of the mean square of its batch gradients). Three products and a gradient: about eight passes.

    Args:
        problem: the task at a point.
        sigma: noise of the per-sample gradients, ``noise(problem).vectors``.
        batch_size: M.

    Raises:
        InputError: names or shapes that do not fit, a batch size below 1.
    """
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size}", "batch_size", "give 1 or more")
    began, before = time.perf_counter(), problem.passes.total
    g = problem.flatten(problem.gradient())
    noise = problem.flatten(problem._fitting(sigma))
    size = float(g.double().norm())
    if size == 0:
        why = dict.fromkeys(("sharpness", "decrease"), "the gradient is zero")
        still = Direction(sharpness=None, decrease=None, why=why)
        return UpdateSharpness(
            directions=dict.fromkeys(DIRECTIONS, still),
            log_ratio=None,
            batch_size=batch_size,
            samples=problem.n,
            why={"log_ratio": "the gradient is zero"},
            cost=Cost(problem.passes.total - before, time.perf_counter() - began),
        )
    units = update_directions(g, noise, batch_size)
    with hessian(problem) as product:
        images = product(torch.stack([unit.to(g.dtype) for unit in units.values()], 1))
    found = {}
    for (name, unit), image in zip(units.items(), images.unbind(1), strict=True):
        sharpness = _quadratic(unit, image)
        along = float(g.double() @ unit)
        bent = sharpness > 0
        found[name] = Direction(
            sharpness=sharpness,
            decrease=along * along / (2 * sharpness) if bent else None,
            why={} if bent else {"decrease": "no curvature above 0 along the direction"},
        )
    sgd, adagrad = found["sgd"].sharpness, found["adagrad"].sharpness
    ratio = math.log(sgd / adagrad) if sgd and adagrad and sgd > 0 and adagrad > 0 else None
    return UpdateSharpness(
        directions=found,
        log_ratio=ratio,
        batch_size=batch_size,
        samples=problem.n,
        why={} if ratio is not None else {"log_ratio": "no curvature above 0 along one of the two directions"},
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


def update_directions(gradient: Tensor, sigma: Tensor, batch_size: int) -> dict[str, Tensor]:
    """The unit vectors along g, sign(g) and g/P, (d,) float64, for a gradient that is not zero; see above."""
    g = gradient.double()
    p = (g.square() + sigma.double().square() / batch_size).sqrt()
    raw = {"sgd": g, "sign-sgd": g.sign(), "adagrad": g / (p + FLOOR * p.mean())}
    return {name: u / u.norm() for name, u in raw.items()}


def preconditioned_sharpness(
    problem: Problem,
    scale: Mapping[str, Tensor],
    *,
    steps: int = MAX_STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreconditionedSharpness:
    """max|eig P^-1/2 H P^-1/2| for P = diag(scale), the scale of AdaGrad being sqrt(v).

    d <= 2,000: from the formed Hessian, the interval [x, x]. Else by Lanczos from a random start until it is known to
    0.5% with probability 0.999; about two passes a step.

    Args:
        problem: the task at a point.
        scale: one number above 0 for each coordinate, as a parameter dict.
        steps: largest number of Lanczos steps.
        seed: of Lanczos' start.
        progress: called with ("preconditioned-sharpness", products done, steps).

    Raises:
        InputError: names or shapes that do not fit, a scale that is not above 0 and finite.
    """
    root = problem.flatten(_positive(problem, scale)).double()
    began, before = time.perf_counter(), problem.passes.total
    why: dict[str, str] = {}
    warnings: tuple[Finding, ...] = ()
    confidence: float | None
    if problem.d <= DENSE_LIMIT:
        inverse = root.rsqrt()
        value = float(torch.linalg.eigvalsh(inverse[:, None] * dense_hessian(problem) * inverse).abs().max())
        interval, confidence, products = (value, value), 1.0, problem.d
    else:
        generator = torch.Generator().manual_seed(seed)
        like = next(iter(problem.parameters.values()))
        # The mean scale is taken out: in float32 an extreme one would leave the range.
        middle = float(root.log().mean().exp())
        every = torch.ones_like(root, dtype=torch.bool)

        def known(run: Ritz) -> bool:
            if progress:
                progress(STAGE, run.steps, steps)
            return run.norm_known

        local = not memory.holds_basis(problem, steps)
        with hessian(problem) as product:
            run = certify(product, root / middle, every, generator, like, steps, DELTA, known, local)
            products = product.products
        value, interval, confidence = run.norm / middle, (run.norm / middle, run.norm_bound / middle), 1 - DELTA
        if not run.norm_known:
            warnings = (not_converged(STAGE, run, steps),)
    if problem.precision in COARSE:
        confidence = None
        why["confidence"] = TOO_COARSE
    return PreconditionedSharpness(
        value=value,
        interval=interval,
        confidence=confidence,
        products=products,
        samples=problem.n,
        why=why,
        warnings=warnings,
        cost=Cost(problem.passes.total - before, time.perf_counter() - began),
    )


def _positive(problem: Problem, scale: Mapping[str, Tensor]) -> Parameters:
    fitting = problem._fitting(scale)
    for name, part in fitting.items():
        if not bool(((part > 0) & torch.isfinite(part)).all()):
            raise InputError("the scale is not above 0 and finite everywhere", name, "add a small number to v")
    return fitting


def _quadratic(unit: Tensor, image: Tensor) -> float:
    return float(unit.double() @ image.double())
