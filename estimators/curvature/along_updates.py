"""Curvature as an update rule meets it: along its direction, and in the metric that it scales the coordinates with.

Directional sharpness: Pan & Li, "Toward understanding why Adam converges faster than SGD for transformers" (2023).
Preconditioned sharpness: Cohen et al., "Adaptive gradient methods at the edge of stability" (2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimators.curvature.lanczos import DELTA, MAX_STEPS, Ritz, not_converged
from estimators.curvature.scaled_lanczos import certify
from estimators.errors import InputError
from estimators.numbers.formats import COARSE, TOO_COARSE
from estimators.numbers.vectors import SLICE, dot, norm, unit
from estimators.results import Finding, Interval, Progress, Result, reporting
from estimators.task import memory_limit
from estimators.task.function import Meter, Parameters
from estimators.task.problem import Problem
from estimators.task.products import curvature, hessian

STAGE = "preconditioned-sharpness"
DIRECTIONS = ("sgd", "sign-sgd", "adagrad")
FLOOR = 0.1
"""Share of its own mean that AdaGrad's scale is raised by: coordinates without signal would rule g/sqrt(v) else."""
BESIDE = 14
"""Vectors beside a block of products: gradient, noise, a direction in the making, and the work of a product."""


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
class UpdateSharpness(Result):
    """The directions of sgd, sign-sgd and adagrad. ``log_ratio`` = log(sgd's sharpness / adagrad's): > 0 where
    AdaGrad moves along flatter directions; None where one of the two is not above 0."""

    directions: Mapping[str, Direction]
    log_ratio: float | None
    batch_size: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class PreconditionedSharpness(Result):
    """max|eig P^-1/2 H P^-1/2|: ``value`` is a lower bound but for rounding, which the ends of ``interval`` allow for;
    it holds with probability ``confidence``.

    A rule that moves by -eta g/P is stable along every direction while eta times it stays below 2.
    """

    value: float
    interval: Interval
    confidence: float | None
    products: int
    samples: int


def directional_sharpness(problem: Problem, direction: Mapping[str, Tensor]) -> float:
    """u'Hu/u'u for H = nabla^2 f(w), with one product (about three passes).

    Raises:
        InputError: names or shapes that do not fit, a direction that is zero or not finite.

    Examples:
        >>> import torch
        >>> from estimators import Problem, directional_sharpness
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> print(f"{directional_sharpness(problem, {'weight': torch.tensor([[1.0, 0.0]])}):.2f}")
        2.00
    """
    u = problem.flatten(problem.fitting(direction))
    if not 0 < norm(u) < float("inf"):
        raise InputError("the direction is zero or not finite", "direction", "give one that moves some parameter")
    u = unit(u)
    with hessian(problem) as product:
        return dot(u, product(u[:, None])[:, 0])


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

    Examples:
        >>> import torch
        >>> from estimators import Problem, noise, update_sharpness
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> start = problem.at({"weight": torch.zeros(1, 2)})
        >>> result = update_sharpness(start, noise(start).vectors, batch_size=1)
        >>> {name: round(direction.sharpness, 2) for name, direction in result.directions.items()}
        {'sgd': 1.7, 'sign-sgd': 1.25, 'adagrad': 1.3}
    """
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size}", "batch_size", "give 1 or more")
    meter = Meter(problem)
    g = problem.flatten(problem.gradient())
    noise = problem.flatten(problem.fitting(sigma))
    if norm(g) == 0:
        why = dict.fromkeys(("sharpness", "decrease"), "the gradient is zero")
        still = Direction(sharpness=None, decrease=None, why=why)
        return UpdateSharpness(
            directions=dict.fromkeys(DIRECTIONS, still),
            log_ratio=None,
            batch_size=batch_size,
            samples=problem.n,
            why={"log_ratio": "the gradient is zero"},
            cost=meter.cost(),
        )
    width = memory_limit.columns(problem, len(DIRECTIONS), memory_limit.BLOCK, BESIDE)
    found = {}
    with hessian(problem) as product:
        for start in range(0, len(DIRECTIONS), width):
            names = DIRECTIONS[start : start + width]
            block = torch.stack([update_direction(name, g, noise, batch_size) for name in names])
            for name, u, image in zip(names, block, product(block.T).unbind(1), strict=True):
                found[name] = _along(dot(u, image), dot(g, u))
    sgd, adagrad = found["sgd"].sharpness, found["adagrad"].sharpness
    ratio = math.log(sgd / adagrad) if sgd and adagrad and sgd > 0 and adagrad > 0 else None
    return UpdateSharpness(
        directions=found,
        log_ratio=ratio,
        batch_size=batch_size,
        samples=problem.n,
        why={} if ratio is not None else {"log_ratio": "no curvature above 0 along one of the two directions"},
        cost=meter.cost(),
    )


def _along(sharpness: float, slope: float) -> Direction:
    """The direction with u'Hu and g'u."""
    bent = sharpness > 0
    return Direction(
        sharpness=sharpness,
        decrease=slope * slope / (2 * sharpness) if bent else None,
        why={} if bent else {"decrease": "no curvature above 0 along the direction"},
    )


def update_direction(rule: str, gradient: Tensor, sigma: Tensor, batch_size: int) -> Tensor:
    """The unit vector along g (sgd), sign(g) (sign-sgd) or g/P (adagrad), see above, for a gradient that is not zero.

    Shape (d,), in the gradient's number format; computed in float64, a slice at a time.
    """
    if rule == "sgd":
        return unit(gradient)
    if rule == "sign-sgd":
        return unit(gradient.sign())
    slices = list(zip(torch.split(gradient, SLICE), torch.split(sigma, SLICE), strict=True))
    floor = FLOOR * sum(float(_scale(g, s, batch_size).sum()) for g, s in slices) / gradient.numel()
    found = torch.empty_like(gradient)
    for (g, s), into in zip(slices, torch.split(found, SLICE), strict=True):
        into.copy_(g.double() / (_scale(g, s, batch_size) + floor))
    return unit(found)


def _scale(gradient: Tensor, sigma: Tensor, batch_size: int) -> Tensor:
    """p = sqrt(g^2 + sigma^2/M) in float64."""
    return (gradient.double().square() + sigma.double().square() / batch_size).sqrt()


def preconditioned_sharpness(
    problem: Problem,
    scale: Mapping[str, Tensor],
    *,
    steps: int = MAX_STEPS,
    delta: float = DELTA,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreconditionedSharpness:
    """max|eig P^-1/2 H P^-1/2| for P = diag(scale), the scale of AdaGrad being sqrt(v).

    From H where it is formed, the interval [x, x]. Else by Lanczos from a random start until it is known to 0.5% with
    probability 1 - ``delta``; about two passes a step.

    Args:
        problem: the task at a point.
        scale: one number above 0 for each coordinate, as a parameter dict.
        steps: largest number of Lanczos steps.
        delta: probability with which the interval may fail.
        seed: of Lanczos' start.
        progress: called with ("preconditioned-sharpness", products done, steps).

    Raises:
        InputError: names or shapes that do not fit, a scale that is not above 0 and finite.

    Examples:
        >>> import torch
        >>> from estimators import Problem, preconditioned_sharpness
        >>> samples = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> problem = Problem(torch.nn.Linear(2, 1, bias=False), samples, loss="squared")  # H = diag(2, 1/2)
        >>> result = preconditioned_sharpness(problem, {"weight": torch.tensor([[4.0, 1.0]])})
        >>> print(f"{result.value:.2f}")
        0.50
    """
    root = problem.flatten(_positive(problem, scale))
    meter = Meter(problem)
    why: dict[str, str] = {}
    warnings: tuple[Finding, ...] = ()
    confidence: float | None
    with curvature(problem) as operator:
        if operator.matrix is not None:
            inverse = root.double().rsqrt()
            value = float(torch.linalg.eigvalsh(inverse[:, None] * operator.matrix * inverse).abs().max())
            interval, confidence = (value, value), 1.0
        else:
            generator = torch.Generator().manual_seed(seed)
            # The mean scale is taken out: in float32 an extreme one would leave the range.
            middle = math.exp(sum(float(part.double().log().sum()) for part in torch.split(root, SLICE)) / problem.d)
            root = root / middle
            every = torch.ones_like(root, dtype=torch.bool)
            report = reporting(progress, STAGE, steps)

            def stop(run: Ritz) -> bool:
                report(run.steps)
                return run.norm_known

            local = not memory_limit.holds_basis(problem, steps)
            run = certify(operator, root, every, generator, problem.like, steps, delta, stop, local)
            lower, upper = run.norm_interval
            value, interval, confidence = run.norm / middle, (lower / middle, upper / middle), 1 - delta
            if not run.norm_known:
                warnings = (not_converged(STAGE, run, steps),)
    if problem.precision in COARSE:
        confidence = None
        why["confidence"] = TOO_COARSE
    return PreconditionedSharpness(
        value=value,
        interval=interval,
        confidence=confidence,
        products=operator.products,
        samples=problem.n,
        why=why,
        warnings=warnings,
        cost=meter.cost(),
    )


def _positive(problem: Problem, scale: Mapping[str, Tensor]) -> Parameters:
    fitting = problem.fitting(scale)
    for name, part in fitting.items():
        if not bool(((part > 0) & torch.isfinite(part)).all()):
            raise InputError("the scale is not above 0 and finite everywhere", name, "add a small number to v")
    return fitting
