"""Losses of many models at once with their derivatives by the outputs: in closed form where the loss has a name.

Autograd of the same losses takes 2 to 10 times as long (torch 2.13, one CPU thread): the derivative of cross-entropy
goes through a matrix of zeros, and a softmax over few classes that lie side by side is not vectorized. Here the classes
of a sample lie apart, the samples side by side.

Shapes: g groups of k models, each group with m samples of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from estimators.numbers.formats import COARSE
from estimators.task.losses import FEW_CLASSES
from estimators.task.problem import Problem

Sloped = tuple[Tensor, Callable[[], Tensor]]
"""The derivatives, and what makes the losses (g, k, m) where they are wanted."""


def output_slopes(problem: Problem, output: Tensor, targets: Tensor, weight: float) -> Sloped:
    """``weight`` times the derivatives of l_i by the output of each model, shaped like it, and what makes the l_i.

    Equal to the gradient of ``problem.loss_of`` but for rounding. Call it inside ``problem.measuring()``.

    Args:
        problem: whose loss it is; its model returns a tensor.
        output: (g, k, m, ...), without a graph.
        targets: (g, m, ...).
        weight: of every sample.
    """
    single = targets.dim() == 2
    if problem.loss_name == "logistic" and single and output[0, 0, 0].numel() == 1:
        return _logistic(output, targets, weight)
    if problem.loss_name == "cross-entropy" and single and output.dim() == 4:
        return _cross_entropy(output, targets, weight)
    if problem.loss_name == "squared" and output[0, 0].numel() == targets[0].numel():
        return _squared(output, targets, weight)
    return _by_autograd(problem, output, targets, weight)


def _logistic(output: Tensor, targets: Tensor, weight: float) -> Sloped:
    """l = log(1 + e^z) with z = -y f: -y / (1 + e^-z)."""
    y = targets[:, None]
    z = output.reshape(*output.shape[:2], -1).double() * -y
    slopes = z.sigmoid() * (-weight * y)
    return slopes.to(output.dtype).reshape(output.shape), lambda: F.softplus(z)


def _cross_entropy(output: Tensor, targets: Tensor, weight: float) -> Sloped:
    """l = log sum_c e^(f_c - f_y): softmax(f), less 1 at the target."""
    scores = output.mT  # (g, k, C, m)
    if scores.dtype in COARSE:
        scores = scores.float()
    elif scores.shape[2] <= FEW_CLASSES:
        scores = scores.double()
    right = targets[:, None, None].expand(*scores.shape[:2], 1, -1)
    below = scores - scores.amax(2, keepdim=True)
    shares = below.exp()
    total = shares.sum(2, keepdim=True)
    slopes = shares.mul_(weight / total).scatter_add_(2, right, total.new_full((), -weight).expand(right.shape))
    return slopes.to(output.dtype).mT, lambda: (total.log() - below.gather(2, right))[:, :, 0]


def _squared(output: Tensor, targets: Tensor, weight: float) -> Sloped:
    """l = ½ sum (f - y)^2: f - y."""
    away = output.reshape(*output.shape[:2], *targets.shape[1:]) - targets[:, None]
    slopes = (weight * away).to(output.dtype).reshape(output.shape)
    return slopes, lambda: 0.5 * away.square().reshape(*output.shape[:3], -1).sum(3)


def _by_autograd(problem: Problem, output: Tensor, targets: Tensor, weight: float) -> Sloped:
    """Of any loss function: the samples of all models as samples of one."""
    leaf = output.flatten(0, 2).requires_grad_()
    repeated = targets[:, None].expand(-1, output.shape[1], *targets.shape[1:]).flatten(0, 2)
    each = problem.loss_of(leaf.clone(), repeated)  # which may work in place
    slopes = torch.zeros_like(leaf)
    if each.requires_grad:
        (slopes,) = torch.autograd.grad(each, leaf, torch.full_like(each, weight), materialize_grads=True)
    return slopes.detach().reshape(output.shape), lambda: each.detach().reshape(output.shape[:3])
