"""The diagonal of the Hessian, (d,), from 64 products: ours beside Hutchinson, curvlinops and BackPACK."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from benchmarks import operators
from benchmarks.estimates import Benchmark, Found, off
from benchmarks.tasks import FORMED, Task
from estimators import hessian_diagonal
from estimators.task.products import hessian

PRODUCTS = 64


def ours(task: Task, seed: int, shrink: bool = False) -> Found:
    found = hessian_diagonal(task.problem, probes=PRODUCTS, shrink=shrink, seed=seed)
    if found.exact:
        return Found(task.problem.flatten(found.vectors).double(), level="exact")
    value, low, high = (task.problem.flatten(each).double() for each in (found.vectors, found.lower, found.upper))
    return Found(value, found.probes, (low, high), "95%")


def shrunk(task: Task, seed: int) -> Found:
    return ours(task, seed, shrink=True)


def hutchinson(task: Task, seed: int) -> Found:
    """Mean of z * Hz for random signs z: the reference."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (task.problem.d, PRODUCTS), generator=generator).mul_(2).sub_(1).to(task.problem.dtype)
    with hessian(task.problem) as product:
        return Found((signs * product(signs)).double().mean(1), product.products)


def curvlinops(task: Task, seed: int) -> Found:
    from curvlinops import hutchinson_diag

    operator = operators.curvlinops(task)
    with operators.seeded(seed):
        value: Tensor = hutchinson_diag(operator, PRODUCTS)
    return Found(value, operator.products)


def curvlinops_xdiag(task: Task, seed: int) -> Found:
    from curvlinops import xdiag

    operator = operators.curvlinops(task)
    with operators.seeded(seed):
        value: Tensor = xdiag(operator, PRODUCTS)
    return Found(value, operator.products)


def backpack(task: Task, seed: int) -> Found:
    """DiagHessian: exact, for a chain of modules of torch.nn that it knows."""
    import backpack as library
    from backpack.extensions import DiagHessian

    if isinstance(task.inputs, dict):
        raise NotImplementedError("takes one tensor, and modules of torch.nn that it knows")
    model = library.extend(copy.deepcopy(task.model))
    loss = library.extend(nn.CrossEntropyLoss())
    with library.backpack(DiagHessian()):
        torch.autograd.backward(loss(model(task.inputs), task.targets))
    return Found(task.flat(p.diag_h for p in model.parameters()), level="exact")


BENCHMARK = Benchmark(
    title=f"Diagonal of the Hessian, {PRODUCTS} products",
    tasks=FORMED,
    methods={
        "diagnose": ours,
        "diagnose, shrink": shrunk,
        "Hutchinson": hutchinson,
        "curvlinops, Hutchinson": curvlinops,
        "curvlinops, XDiag": curvlinops_xdiag,
        "backpack": backpack,
    },
    exact=lambda task: task.hessian.diagonal(),
    error=off,
)
