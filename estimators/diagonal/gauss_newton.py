"""The Hessian in two parts: Gauss-Newton, J'SJ with S the loss's curvature in the outputs, and the rest.

The diagonal of J'SJ is a mean of squares: with u of covariance S, E[((J'u)_j)^2] = (J'SJ)_jj. One backward pass gives
every coordinate with a relative variance of at most 2, whatever the other coordinates are, where z * Hz carries
the off-diagonal of its whole row. Signs for u are those of Hutchinson, for J'SJ as in Martens, Sutskever & Swersky
(ICML 2012), "Estimating the Hessian by back-propagating curvature". The rest, sum of dl/dz times the outputs' own
curvature, is the Hessian of the loss made linear in the outputs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from estimators.task import memory_limit
from estimators.task.function import targets_of
from estimators.task.losses import LossFunction, curved, prediction
from estimators.task.model_kinds import IGNORED, head
from estimators.task.problem import Problem

GROUPS = 16
"""Parts of the samples whose squares are taken apart: each lessens the variance, each costs a call."""
TOGETHER, SMALL = 8, 100_000
"""Draws that go through the graphs together, up to so many parameters: there calls are the time. GPT-2 of 2 x 8 on 16
sequences of 32 characters takes a third of it so."""
Draw = Callable[[torch.Generator, int], Tensor]
"""The next draws, so many of them in rows."""


def can_split(problem: Problem) -> bool:
    """Whether the loss is one of the named ones, whose curvature in the outputs is known in closed form."""
    return problem.loss_name is not None


def rest(problem: Problem) -> Problem:
    """The problem whose Hessian is H - J'SJ: the loss made linear in the outputs at the point. Passes add up."""
    other = problem.derived()
    other._loss = _linear(problem._loss)
    return other


def _linear(loss: LossFunction) -> LossFunction:
    def linear(output: Any, targets: Tensor) -> Tensor:
        values = prediction(output)
        leaf = values.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(leaf, targets).sum(), leaf)
        return (values * slope).reshape(values.shape[0], -1).sum(1)

    return linear


def parts(problem: Problem) -> int:
    """How many parts of the samples are squared apart."""
    return min(problem.n, max(GROUPS, -(-problem.n // problem.chunk)))


@contextlib.contextmanager
def squares(problem: Problem, project: Callable[[Tensor], Tensor] | None = None) -> Iterator[Draw]:
    """Draws of (1/n) sum over parts of (J'u)^2, (number, d), with mean diag(J'SJ).

    ``project`` is a linear map C of rows (m, d): the mean is then diag(C J'SJ C'). Cost: a forward pass with its
    graph, which stays until the context closes, and two thirds of a pass a draw.
    """
    count = parts(problem)
    edges = [problem.n * k // count for k in range(count + 1)]
    leaves = problem.leaves()
    with problem.measuring():
        outputs = []
        for start, stop in itertools.pairwise(edges):
            samples = problem.trimmed(problem.take(slice(start, stop)))
            outputs.append((prediction(problem.output(leaves, samples)), targets_of(samples)))
        problem.passes.add(1 / 3)

        def draw(generator: torch.Generator, number: int) -> Tensor:
            total = torch.zeros(number, problem.d, dtype=memory_limit.sums_dtype(problem), device=problem.device)
            rows: list[Tensor] = []
            # Drawn on the CPU, one draw after another: the same on every device and in any company.
            signs = [[_signs(values, generator) for values, _ in outputs] for _ in range(number)]
            for (values, targets), drawn in zip(outputs, zip(*signs, strict=True), strict=True):
                if not values.requires_grad:
                    continue
                row = _pulled(
                    values, list(leaves.values()), root(problem, values.detach(), targets, torch.stack(drawn))
                )
                if project is None:
                    wide = row.to(total.dtype)
                    total.addcmul_(wide, wide)
                else:
                    rows.append(row)
            if rows and project is not None:
                for into, own in zip(total, torch.stack(rows, 1), strict=True):
                    into.copy_(project(own).double().square_().sum(0))
            problem.passes.add(2 / 3 * number)
            return total / problem.n

        yield draw


def together(problem: Problem) -> int:
    """How many draws are worth asking for at once."""
    return TOGETHER if problem.d <= SMALL and problem.memory_bytes is None else 1


def _signs(values: Tensor, generator: torch.Generator) -> Tensor:
    signs = 2 * torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8) - 1
    return signs.to(values.device, values.dtype)


def _pulled(values: Tensor, leaves: list[Tensor], vectors: Tensor) -> Tensor:
    """J'u for vectors (k, ...) of the shape of the outputs, (k, d)."""
    pull: Sequence[Tensor | None]
    try:
        pull = _backward(values, leaves, vectors if len(vectors) > 1 else vectors[0], len(vectors) > 1)
    except RuntimeError:
        if len(vectors) == 1:
            raise
        # An operation whose backward looks at numbers, or has no rule for several at once.
        return torch.cat([_pulled(values, leaves, vector[None]) for vector in vectors])
    parts = [
        vectors.new_zeros(len(vectors), leaf.numel()) if part is None else part.reshape(len(vectors), -1)
        for leaf, part in zip(leaves, pull, strict=True)
    ]
    return torch.cat(parts, 1)


def _backward(values: Tensor, leaves: list[Tensor], vectors: Tensor, together: bool) -> Sequence[Tensor | None]:
    return torch.autograd.grad(values, leaves, vectors, retain_graph=True, allow_unused=True, is_grads_batched=together)


def root(problem: Problem, values: Tensor, targets: Tensor, z: Tensor) -> Tensor:
    """S^(1/2) z for the outputs of some samples, z of their shape, or several such: its covariance is S for z of
    independent signs.

    Cross-entropy: S = w (diag p - pp') with w = 1/(number of labels).
    """
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    u = curved(problem.loss_name or "", wide).root(z)
    if problem.loss_name == "cross-entropy":
        u = u * _label_weights(problem, values, targets).sqrt()[..., None]
    return u.to(values.dtype)


def _label_weights(problem: Problem, values: Tensor, targets: Tensor) -> Tensor:
    """The weight that each row of outputs has in its sample's mean, shape of the outputs without classes."""
    if values.dim() == 2 and targets.dim() == 1:
        return torch.ones(targets.shape, dtype=values.dtype, device=values.device)
    counted = (targets != IGNORED).to(values.dtype)
    if head(problem.model) == "causal":
        counted = torch.cat([counted[:, 1:], torch.zeros_like(counted[:, :1])], 1)
    return counted / counted.flatten(1).sum(1).reshape(-1, *[1] * (counted.dim() - 1))
