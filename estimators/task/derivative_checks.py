"""Whether autograd's derivatives are those of the loss, told on opening by differences that share none of its trust.

A backward that is written by hand, an operation of torch with a wrong second derivative, a factor that is detached:
autograd answers all of them with numbers. So at a point beside w, along a few random directions v, on a few samples,

    (f(w + hv) - f(w - hv)) / 2h  is held against  v'g,
    (g(w + hv) - g(w - hv)) / 2h  against  Hv,  and  u'Hv  against  v'Hu.

In float64 where the model has room for a copy and takes it, else in its own format. A difference of smooth functions
parts by O(h^2) and by rounding / h, one that crosses kinks (ReLU, max pooling) by what changes with h; a derivative
that is wrong is off by the same vector at every h, and that alone is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.formats import COARSE
from estimators.numbers.vectors import random_start
from estimators.results import Finding
from estimators.task.function import Function
from estimators.task.lookups import FreePadding
from estimators.task.precision import LAST_PLACES, UNITS, InDouble, at_rounded_weights, double_copy
from estimators.task.products import hessian
from estimators.task.second_derivatives import REWRITE

FEWEST, SOME, MOST, SHARE = 2, 4, 32, 32
"""Samples that are looked at: one in 32 and at most 32; of a small set two, or up to four where they are one in 16."""
DIRECTIONS = 2
BESIDE = 1e-2
"""Length of the step away from w, as a share of each tensor's root mean square: w itself may lie in kinks (a bias of
0 under a ReLU), where no difference is a derivative."""
LEVELLED = 1e-2
"""A tensor near 0 moves as if its numbers were this share of the largest tensor's."""
MOVED, SHORTENED = 0.5, 12
"""Largest change of the loss on that step, as a share of it; where it changes more the step is cut to an eighth, so
many times at most."""
STAGE = "opening"
STEPS, TOLERANCE = (1e-5, 1e-6, 1e-4, 1e-7, 1e-3), 1e-3
"""In float64: h, those first that decide most models at once, and the share by which a derivative may be off."""
OWN_STEPS, OWN_TOLERANCE = (3e-3, 1e-3, 1e-2), 1e-2
"""In a model's own format of 32 bits."""
WHOLE = 1 / 1024
"""Share of the whole vector's norm that counts as size of each tensor: what cancels to 0 leaves rounding."""
CONSTANT = 0.1
"""An error that changes by less than this share of itself from one h to the next does not move with h."""


def curvature_fault(problem: Function, *, double: bool = True) -> InputError | None:
    """Why curvature can't be measured: second derivatives that are missing or wrong; None where they are right.

    Cost: about twelve forward+backward passes over 2 to 32 samples, in float64 where the model has room for a copy.

    Args:
        problem: the task at a point.
        double: whether a copy in float64 may be made.

    Raises:
        InputError: the gradient itself is not that of the loss.
    """
    least = max(FEWEST, min(SOME, 2 * problem.n // SHARE))
    count = min(problem.n, max(least, min(MOST, problem.n // SHARE)))
    few = problem.subset(torch.linspace(0, problem.n - 1, count).round().long())
    few.curvature_fault = None  # it is told anew
    copy = double_copy(few) if double else None
    try:
        if copy is not None:
            try:
                with InDouble(), FreePadding():
                    return _fault(copy)
            except InputError:
                raise
            except Exception:
                # A forward that took float64 once, and then does not, is measured in its own format.
                copy = None
        with FreePadding():
            return _fault(few)
    finally:
        problem.passes.add(few.passes.total * few.n / problem.n)


def finding(fault: InputError) -> Finding:
    """What a fault leaves unmeasured."""
    return Finding(
        code="no-curvature",
        severity="warning",
        stage=STAGE,
        found=str(fault),
        meaning="smoothness, spectrum, Hessian diagonal and generalized smoothness are not measured; noise and race "
        "need gradients alone",
        action=fault.hint,
    )


@dataclass(frozen=True)
class Quotients:
    """Along one direction with step ``h``: differences of the loss and of the gradient over 2h."""

    h: float
    slope: Tensor
    change: Tensor


@dataclass(frozen=True)
class Errors:
    """What a derivative is off by at each h, from the smallest h on, its size, and what rounding may make of it."""

    where: str
    derivative: Tensor
    differences: Sequence[Tensor]
    size: float
    rounding: Sequence[float]

    @cached_property
    def each(self) -> list[float]:
        """The norm of the error at each h."""
        return [float((quotient - self.derivative).norm()) for quotient in self.differences]

    def agree(self, tolerance: float) -> bool:
        """Whether derivative and differences are the same at one h."""
        return any(
            error <= tolerance * self.size + rounding for error, rounding in zip(self.each, self.rounding, strict=True)
        )

    def wrong(self, tolerance: float) -> bool:
        """Whether they never agree, and differences and error stay as they are from one h to the next."""
        if self.agree(tolerance):
            return False
        steps = itertools.pairwise(zip(self.differences, self.each, strict=True))
        return any(
            float((here - there).norm()) <= CONSTANT * min(error, max(float(here.norm()), float(there.norm())))
            for (here, error), (there, _) in steps
        )

    @property
    def share(self) -> float:
        return min(self.each) / self.size


def _fault(problem: Function) -> InputError | None:
    beside, scale = _beside(problem)
    there = problem.at(problem.unflatten(beside))
    loss, gradient = there.loss_and_gradient()
    slope = problem.flatten(gradient).double()
    rounding = _rounding(there, scale, loss, slope)
    generator = torch.Generator().manual_seed(1)
    directions = [(random_start(problem.d, generator, scale) * scale).to(problem.dtype) for _ in range(DIRECTIONS)]
    images: Sequence[Tensor] = ()
    missing = None
    try:
        with hessian(there) as product:
            images = product(torch.stack(directions, 1)).double().unbind(1)
    except InputError as error:
        missing = error
    if problem.precision in COARSE:
        return missing  # rounding drowns every difference
    tolerance = TOLERANCE if problem.dtype == torch.float64 else OWN_TOLERANCE
    for number, v in enumerate(directions):
        image = images[number] if images else None
        gradient_errors, product_errors = _errors(problem, beside, v, (slope, image), rounding, tolerance)
        if gradient_errors.wrong(tolerance):
            raise _no_gradient(problem, gradient_errors)
        if missing is None and (off := [each for each in product_errors if each.wrong(tolerance)]):
            missing = _no_product(max(off, key=lambda each: each.share))
    if missing is None and _asymmetric(directions, images, tolerance, rounding[1]):
        missing = InputError("autograd's Hessian is not symmetric: u'Hv and v'Hu differ", _name(problem), REWRITE)
    return missing


def _rounding(problem: Function, scale: Tensor, loss: float, slope: Tensor) -> tuple[float, float]:
    """What rounding may move the loss and the norm of the gradient by.

    That is what a move of the weights in their last places does to them, and the last places of what loss and gradient
    are elsewhere: a softmax that is sure of itself rounds to a share of 1, not of the loss that is left.
    """
    eps = LAST_PLACES * torch.finfo(problem.precision).eps
    step = random_start(problem.d, torch.Generator().manual_seed(2), scale) * scale
    away = problem.at(problem.unflatten(problem.flatten(problem.parameters) + step))
    moved, size = 0.0, abs(loss)
    shifted, length = 0.0, float(slope.norm())
    for other, elsewhere in ((at_rounded_weights(problem), False), (away, True)):
        value, gradient = other.loss_and_gradient()
        flat = problem.flatten(gradient).double()
        if not math.isfinite(value) or not bool(torch.isfinite(flat).all()):
            continue
        if elsewhere:
            size, length = max(size, abs(value)), max(length, float(flat.norm()))
        else:
            moved, shifted = UNITS * abs(value - loss), UNITS * float((flat - slope).norm())
    return moved + eps * size, shifted + eps * length


def _errors(
    problem: Function,
    at: Tensor,
    v: Tensor,
    told: tuple[Tensor, Tensor | None],
    rounding: tuple[float, float],
    tolerance: float,
) -> tuple[Errors, list[Errors]]:
    """Of the slope along v, and of each tensor's part of Hv, for as many h as it takes until they agree at one."""
    slope, image = told
    along = slope * v.double()
    size = sum(abs(float(part.sum())) for part in torch.split(along, problem.sizes))
    steps = STEPS if problem.dtype == torch.float64 else OWN_STEPS
    seen: list[Quotients] = []
    for h in steps:
        seen = sorted([*seen, _quotients(problem, at, v, h)], key=lambda each: each.h)
        noise = [rounding[0] / each.h for each in seen]
        slopes = [each.slope for each in seen]
        first = Errors(_name(problem), along.sum(), slopes, max(size, min(float(each.abs()) for each in slopes)), noise)
        second = [] if image is None else _by_tensor(problem, image, seen, rounding[1])
        if first.agree(tolerance) and all(each.agree(tolerance) for each in second):
            break
    return first, second


def _by_tensor(problem: Function, image: Tensor, seen: Sequence[Quotients], noise: float) -> list[Errors]:
    own = torch.split(image, problem.sizes)
    changes = [torch.split(each.change, problem.sizes) for each in seen]
    whole = float(image.norm()) * WHOLE
    found = []
    for i, (name, part) in enumerate(zip(problem.names, own, strict=True)):
        theirs = [change[i] for change in changes]
        size = max(float(part.norm()), min(float(each.norm()) for each in theirs)) + whole
        found.append(Errors(name, part, theirs, size, [noise / each.h for each in seen]))
    return found


def _quotients(problem: Function, at: Tensor, v: Tensor, h: float) -> Quotients:
    ends = []
    for sign in (1, -1):
        loss, gradient = problem.at(problem.unflatten(at + sign * h * v)).loss_and_gradient()
        ends.append((loss, problem.flatten(gradient).double()))
    (f, g), (f_back, g_back) = ends
    return Quotients(h, g.new_tensor((f - f_back) / (2 * h)), (g - g_back) / (2 * h))


def _beside(problem: Function) -> tuple[Tensor, Tensor]:
    """A point at a random step from w, and for each coordinate how far a direction moves it."""
    roots = [float(p.double().square().mean().sqrt()) if p.numel() else 0.0 for p in problem.parameters.values()]
    least = LEVELLED * (max(roots) or 1.0)
    parts = [p.new_full((p.numel(),), max(r, least)) for p, r in zip(problem.parameters.values(), roots, strict=True)]
    scale, at = torch.cat(parts), problem.flatten(problem.parameters)
    step = random_start(problem.d, torch.Generator().manual_seed(0), at) * scale * BESIDE
    before, share = problem.loss(), 1.0
    for _ in range(SHORTENED):
        loss = problem.at(problem.unflatten(at + share * step)).loss()
        if math.isfinite(loss) and abs(loss - before) <= MOVED * max(abs(before), MOVED):
            break
        share /= 8
    return at + share * step, share * scale


def _asymmetric(directions: Sequence[Tensor], images: Sequence[Tensor], tolerance: float, rounding: float) -> bool:
    """Whether u'Hv and v'Hu differ beyond what rounding of Hu and Hv can do."""
    u, v = (each.double() for each in directions)
    size = float((u * images[1]).norm() + (v * images[0]).norm())
    apart = abs(float(u @ images[1] - v @ images[0]))
    return apart > tolerance * size + rounding * float(u.norm() + v.norm())


def _name(problem: Function) -> str:
    return type(problem.model).__name__


def _no_gradient(problem: Function, errors: Errors) -> InputError:
    return InputError(
        f"the gradient is not that of the loss: along a random step it is off by {errors.share:.1%} of what the loss "
        "changes by",
        errors.where,
        "take out of forward and loss what changes gradients on their way back (rounding passed straight through, "
        "reversed or clamped gradients, detached factors)",
    )


def _no_product(errors: Errors) -> InputError:
    return InputError(
        f"autograd's second derivative is off by {errors.share:.1%} of what the gradient changes by",
        errors.where,
        REWRITE,
    )
