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
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor

from estimators import memory
from estimators.heads import IGNORED, head
from estimators.losses import LossFunction, prediction
from estimators.problem import Problem

GROUPS = 16
"""Parts of the samples whose squares are taken apart: each lessens the variance, each costs a call."""
Draw = Callable[[torch.Generator], Tensor]


def can_split(problem: Problem) -> bool:
    """Whether the loss is one of the named ones, whose curvature in the outputs is known in closed form."""
    return problem.loss_name is not None


def rest(problem: Problem) -> Problem:
    """The problem whose Hessian is H - J'SJ: the loss made linear in the outputs at the point. Passes add up."""
    other = copy(problem)
    other._dense = None
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
    return min(problem.n, max(GROUPS, -(-problem.n // problem._chunk)))


@contextlib.contextmanager
def squares(problem: Problem, project: Callable[[Tensor], Tensor] | None = None) -> Iterator[Draw]:
    """A draw of (1/n) sum over parts of (J'u)^2, shape (d,), with mean diag(J'SJ).

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
            targets = samples["labels"] if isinstance(samples, dict) else samples[1]
            outputs.append((prediction(problem.output(leaves, samples)), targets))
        problem.passes.add(1 / 3)

        def draw(generator: torch.Generator) -> Tensor:
            total = torch.zeros(problem.d, dtype=memory.sums_dtype(problem), device=problem.device)
            rows = []
            for values, targets in outputs:
                if not values.requires_grad:
                    continue
                signs = 2 * torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8) - 1
                z = signs.to(values.device, values.dtype)  # drawn on the CPU: the same on every device
                pull = torch.autograd.grad(
                    values,
                    list(leaves.values()),
                    root(problem, values.detach(), targets, z),
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                row = torch.cat([part.reshape(-1) for part in pull])
                if project is None:
                    wide = row.to(total.dtype)
                    total.addcmul_(wide, wide)
                else:
                    rows.append(row)
            if project is not None and rows:
                total = project(torch.stack(rows)).double().square_().sum(0)
            problem.passes.add(2 / 3)
            return total / problem.n

        yield draw


def root(problem: Problem, values: Tensor, targets: Tensor, z: Tensor) -> Tensor:
    """S^(1/2) z for the outputs of some samples, z of their shape: its covariance is S for z of independent signs.

    Squared: S = I. Logistic: S = p(1 - p). Cross-entropy: S = w (diag p - pp') with w = 1/(number of labels), whose
    root is diag(sqrt p) - p sqrt(p)'.
    """
    if problem.loss_name == "squared":
        return z
    if problem.loss_name == "logistic":
        p = values.sigmoid()
        return z * (p * (1 - p)).sqrt()
    p = values.softmax(-1, dtype=torch.promote_types(values.dtype, torch.float32))
    u = p.sqrt() * z
    u = u - p * u.sum(-1, keepdim=True)
    return (u * _label_weights(problem, values, targets).sqrt()[..., None]).to(values.dtype)


def _label_weights(problem: Problem, values: Tensor, targets: Tensor) -> Tensor:
    """The weight that each row of outputs has in its sample's mean, shape of the outputs without classes."""
    if values.dim() == 2 and targets.dim() == 1:
        return torch.ones(targets.shape, dtype=values.dtype, device=values.device)
    counted = (targets != IGNORED).to(values.dtype)
    if head(problem.model) == "causal":
        counted = torch.cat([counted[:, 1:], torch.zeros_like(counted[:, :1])], 1)
    return counted / counted.flatten(1).sum(1).reshape(-1, *[1] * (counted.dim() - 1))
