"""Products with the Hessian by double backward: H V for a block of vectors, the graph kept between calls.

``torch.func``'s own second derivatives (``hessian``, ``jvp(jacrev)``) miss terms of LayerNorm without a
word in torch 2.13, so every product here differentiates a gradient that was built with ``create_graph``.
Columns go one after another: ``is_grads_batched`` was no faster for linear models and 4 to 8 times slower for
a small MLP and a CNN (torch 2.13, CPU).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.problem import Problem

Product = Callable[[Tensor], Tensor]
DENSE_LIMIT = 2000
"""Up to this many coordinates the Hessian is formed."""
BLOCK = 256


class Counted:
    """An operator v -> A v on blocks (d, k) that counts the vectors that it was applied to."""

    def __init__(self, apply: Product, d: int) -> None:
        self._apply = apply
        self.d = d
        self.products = 0

    def __call__(self, block: Tensor) -> Tensor:
        """A times the block.

        Raises:
            InputError: the result is not finite.
        """
        self.products += block.shape[1]
        image = self._apply(block)
        if not bool(torch.isfinite(image).all()):
            raise InputError(
                "the curvature is not finite", "a Hessian-vector product", "scale the data, or use float64"
            )
        return image


@contextlib.contextmanager
def hessian(problem: Problem) -> Iterator[Counted]:
    """The operator V (d, k) -> H V (d, k) at the problem's point.

    Cost: one gradient pass with its graph, then about two passes for each vector. The graphs of all chunks
    stay in memory until the context closes. Where H was formed already, products cost nothing.
    """
    if problem._dense is not None:
        dense = problem._dense
        yield Counted(lambda block: (dense @ block.to(dense.dtype)).to(block.dtype), problem.d)
        return
    with problem.measuring():
        graphs = list(_gradients_with_graph(problem))
        problem.passes.add(1)

        def apply(block: Tensor) -> Tensor:
            problem.passes.add(2 * block.shape[1])
            total = torch.zeros(block.shape, dtype=torch.float64, device=block.device)
            for leaves, parts in graphs:
                total += _backward(problem, leaves, parts, block.to(problem.dtype))
            return (total / problem.n).to(block.dtype)

        yield Counted(apply, problem.d)


def dense_hessian(problem: Problem) -> Tensor:
    """H as a symmetric (d, d) matrix in float64, formed by d products and kept with the problem."""
    if problem._dense is None:
        rows = []
        with hessian(problem) as product:
            for start in range(0, problem.d, BLOCK):
                width = min(BLOCK, problem.d - start)
                block = torch.zeros(problem.d, width, dtype=problem.dtype, device=problem.device)
                block[torch.arange(start, start + width), torch.arange(width)] = 1
                rows.append(product(block).double())
        matrix = torch.cat(rows, 1)
        problem._dense = (matrix + matrix.T) / 2
    return problem._dense


Graph = tuple[list[Tensor], list[tuple[int, Tensor]]]


def _gradients_with_graph(problem: Problem) -> Iterator[Graph]:
    """For each chunk: the leaves, and (index, gradient of the summed loss) of the parts that can be differentiated."""
    for chunk in problem.chunks():
        leaves = {name: p.detach().requires_grad_() for name, p in problem.parameters.items()}
        loss = problem.losses(leaves, chunk).sum()
        parts = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
        yield list(leaves.values()), [(i, p) for i, p in enumerate(parts) if p is not None and p.requires_grad]


def _backward(problem: Problem, leaves: list[Tensor], parts: list[tuple[int, Tensor]], block: Tensor) -> Tensor:
    """Sum over the chunk's samples of nabla^2 l_i times each column; (d, k)."""
    if not parts:
        return torch.zeros_like(block)
    columns = []
    for column in block.unbind(1):
        pieces = list(problem.unflatten(column).values())
        out = torch.autograd.grad(
            [p for _, p in parts],
            leaves,
            [pieces[i] for i, _ in parts],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        columns.append(torch.cat([o.reshape(-1) for o in out]))
    return torch.stack(columns, 1)
