"""sum_jk |H_jk| from 50 products: ours beside its two halves alone. No other library has this number."""

from __future__ import annotations

import torch

from benchmarks.estimates import Benchmark, Found, off_number
from benchmarks.tasks import FORMED, Task
from estimators import hessian_one_norm
from estimators.task.products import hessian

PRODUCTS = 50


def ours(task: Task, seed: int) -> Found:
    found = hessian_one_norm(task.problem, probes=PRODUCTS, seed=seed)
    return Found(found.value, found.products, found.interval, "95%")


def cauchy(task: Task, seed: int) -> Found:
    """Sum of the medians of |Hc| over Cauchy vectors c (Xie et al. 2024)."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(2, task.problem.d, PRODUCTS, generator=generator, dtype=torch.float64)
    with hessian(task.problem) as product:
        images = product((normal[0] / normal[1]).to(task.problem.dtype)).double().abs()
        return Found(float(images.quantile(0.5, dim=1).sum()), product.products)


def rows(task: Task, seed: int) -> Found:
    """Whole rows, each as likely as any other."""
    generator = torch.Generator().manual_seed(seed)
    d = task.problem.d
    drawn = torch.randperm(d, generator=generator)[:PRODUCTS]
    block = torch.zeros(d, len(drawn), dtype=task.problem.dtype)
    block[drawn, torch.arange(len(drawn))] = 1
    with hessian(task.problem) as product:
        return Found(float(product(block).double().abs().sum()) * d / len(drawn), product.products)


BENCHMARK = Benchmark(
    title=f"Sum of absolute entries of the Hessian, {PRODUCTS} products",
    tasks=FORMED,
    methods={"diagnose": ours, "Cauchy probes": cauchy, "random rows": rows},
    exact=lambda task: float(task.hessian.abs().sum()),
    error=off_number,
)
