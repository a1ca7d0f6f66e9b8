"""Sums of squares of per-sample gradients, (d,): ours beside torch.func, opacus and BackPACK."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.tasks import Task, token_loss
from estimators.per_sample.gradients import gradient_moments

CHUNK = 16


def ours(task: Task) -> Tensor:
    """sum_i g_i^2 from the moments; the check of the fast way on two samples is included."""
    moments, _ = gradient_moments(task.problem)
    return moments.squares + moments.count * moments.mean.square()


def loop(task: Task) -> Tensor:
    """One sample at a time: the reference."""
    total = torch.zeros(task.problem.d, dtype=torch.float64)
    parameters = list(task.model.parameters())
    for i in range(task.problem.n):
        total += task.flat(torch.autograd.grad(_sample_loss(task, i), parameters)).square()
    return total


def torch_func(task: Task) -> Tensor:
    """vmap(grad) in chunks."""
    parameters = {name: p.detach() for name, p in task.model.named_parameters()}

    def loss(weights: Any, inputs: Any, target: Tensor) -> Tensor:
        if isinstance(inputs, dict):
            single = {name: value[None] for name, value in inputs.items()}
            return token_loss(functional_call(task.model, weights, (), single).logits, target[None])
        return F.cross_entropy(functional_call(task.model, weights, (inputs[None],)), target[None])

    rows = vmap(grad(loss), in_dims=(None, 0, 0))
    total = torch.zeros(task.problem.d, dtype=torch.float64)
    for start in range(0, task.problem.n, CHUNK):
        piece = slice(start, start + CHUNK)
        inputs = task.inputs
        part = {k: v[piece] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[piece]
        gradients = rows(parameters, part, task.targets[piece])
        total += task.flat(g.square().sum(0) for g in gradients.values())
    return total


def opacus(task: Task) -> Tensor:
    """GradSampleModule: gradients of each sample beside every parameter."""
    from opacus import GradSampleModule

    wrapped: Any = GradSampleModule(copy.deepcopy(task.model), loss_reduction="sum", strict=False)
    wrapped.train()  # in evaluation mode it keeps no activations
    for module in wrapped.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    output = wrapped(**task.inputs) if isinstance(task.inputs, dict) else wrapped(task.inputs)
    torch.autograd.backward(_summed(output, task.targets))
    samples = [p.grad_sample for p in wrapped.parameters()]
    rows = {g.shape[0] for g in samples}
    if rows != {task.problem.n}:
        raise ValueError(f"{sorted(rows)} rows for {task.problem.n} samples")
    return task.flat(g.square().sum(0) for g in samples)


def backpack(task: Task) -> Tensor:
    """SumGradSquared of a summed loss."""
    import backpack as library
    from backpack.extensions import SumGradSquared

    if isinstance(task.inputs, dict):
        raise NotImplementedError("takes one tensor, and modules of torch.nn that it knows")
    model = library.extend(copy.deepcopy(task.model))
    loss = library.extend(nn.CrossEntropyLoss(reduction="sum"))
    with library.backpack(SumGradSquared()):
        torch.autograd.backward(loss(model(task.inputs), task.targets))
    return task.flat(p.sum_grad_squared for p in model.parameters())


def _sample_loss(task: Task, i: int) -> Tensor:
    one = slice(i, i + 1)
    if isinstance(task.inputs, dict):
        inputs = {name: value[one] for name, value in task.inputs.items()}
        return token_loss(task.model(**inputs).logits, task.targets[one])
    return F.cross_entropy(task.model(task.inputs[one]), task.targets[one])


def _summed(output: Any, targets: Tensor) -> Tensor:
    """The sum over samples of each sample's mean loss."""
    if targets.dim() == 1:
        return F.cross_entropy(output, targets, reduction="sum")
    return token_loss(output.logits, targets) * targets.shape[0]


METHODS: dict[str, Callable[[Task], Tensor]] = {
    "diagnose": ours,
    "loop": loop,
    "torch.func": torch_func,
    "opacus": opacus,
    "backpack": backpack,
}
