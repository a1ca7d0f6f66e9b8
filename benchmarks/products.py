"""Hessian-vector products: ours beside torch.func, curvlinops and hessian-eigenthings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, jvp

from benchmarks import operators
from benchmarks.tasks import Task, token_loss
from estimators.task.products import hessian

Product = Callable[[Task, Tensor], Tensor]
"""The task and a block V (d, k) to H V (d, k)."""


def ours(task: Task, block: Tensor) -> Tensor:
    with hessian(task.problem) as product:
        return product(block)


def double_backward(task: Task, block: Tensor) -> Tensor:
    """From scratch for each vector: the reference."""
    parameters = list(task.model.parameters())
    columns = []
    for column in block.T:
        gradient = torch.autograd.grad(task.mean_loss(), parameters, create_graph=True)
        parts = _pieces(task, column)
        columns.append(_flat(torch.autograd.grad(gradient, parameters, parts)))
    return torch.stack(columns, 1)


def torch_func(task: Task, block: Tensor) -> Tensor:
    """jvp(grad), forward over reverse."""
    names = [name for name, _ in task.model.named_parameters()]
    weights = {name: p.detach() for name, p in task.model.named_parameters()}

    def loss(w: Any) -> Tensor:
        if isinstance(task.inputs, dict):
            return token_loss(functional_call(task.model, w, (), task.inputs).logits, task.targets)
        return F.cross_entropy(functional_call(task.model, w, (task.inputs,)), task.targets)

    columns = []
    for column in block.T:
        tangent = dict(zip(names, _pieces(task, column), strict=True))
        columns.append(_flat(jvp(grad(loss), (weights,), (tangent,))[1].values()))
    return torch.stack(columns, 1)


def curvlinops(task: Task, block: Tensor) -> Tensor:
    image: Tensor = operators.curvlinops(task) @ block
    return image


def eigenthings(task: Task, block: Tensor) -> Tensor:
    operator = operators.eigenthings(task)
    return torch.stack([operator.matvec(column) for column in block.T], 1)


def _pieces(task: Task, vector: Tensor) -> list[Tensor]:
    parameters = list(task.model.parameters())
    parts = torch.split(vector, [p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])


METHODS: dict[str, Product] = {
    "diagnose": ours,
    "double backward": double_backward,
    "torch.func": torch_func,
    "curvlinops": curvlinops,
    "hessian-eigenthings": eigenthings,
}
