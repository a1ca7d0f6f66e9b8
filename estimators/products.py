"""Products with the Hessian by double backward: H V for a block of vectors, the graph kept between calls.

``torch.func``'s own second derivatives (``hessian``, ``jvp(jacrev)``) miss terms of LayerNorm without a
word in torch 2.13, so every product here differentiates a gradient that was built with ``create_graph``.
Columns go one after another. Measured for GPT-2 of 4 x 256 at T = 128 (torch 2.13, one CPU thread, float32), in
forward+backward passes for each vector: 2.0 so, 2.2 for three at once with ``is_grads_batched``, 3.3 with
``jvp(grad)``, 2.6 for three at once with ``vmap`` over it. A small MLP and a CNN lose more by batching. Where matrix
products are the time there is no less to have: a pass does 3 of them for each linear layer, a product 6.

A Hessian that is formed is of a small model, where calls are the time, and needs all columns: 16 at once take half of
the time of one after another, for logistic regression on a4a (d = 123), softmax regression on digits (610) and an MLP
(1,434).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from estimators import memory
from estimators.errors import InputError
from estimators.graphs import Graph, graph
from estimators.losses import COARSE
from estimators.memory import DENSE_LIMIT as DENSE_LIMIT
from estimators.problem import Problem
from estimators.second_derivatives import REWRITE

Product = Callable[[Tensor], Tensor]
TOGETHER = 8
"""Products of so many chunks are added in the parameters' precision, if that is no 16-bit format, before they go into
a float64 sum: with 4 samples in a chunk, GPT-2 spent a fifth of a product on that sum."""
BLOCK = 256
ASYMMETRIC = 0.05
"""Share of a formed Hessian's norm that rounding alone never parts it from its transpose by."""
AT_ONCE, FEW_OUTPUTS = 16, 1 << 17
"""Columns that go through the graph together where a Hessian is formed and the layers are of these kinds, up to so many
samples times outputs of layers: an MLP (64-16-10) takes 0.64 of the time of one column after another with 1,000
samples and 1.14 with 10,000, softmax regression 0.55 and 0.84; memory grows 16 times."""
PLAIN = (nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU, nn.Softplus)


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
        if not all(math.isfinite(end) for end in torch.aminmax(image)):
            raise InputError(
                "the curvature is not finite",
                "a Hessian-vector product",
                "bring the data to a common scale, or use float64 (`--dtype float64`)",
            )
        return image


@contextlib.contextmanager
def hessian(problem: Problem, at_once: int = 1) -> Iterator[Counted]:
    """The operator V (d, k) -> H V (d, k) at the problem's point.

    Cost: one gradient pass with its graph, then about two passes for each vector. Where H was formed already,
    products cost nothing.

    Graphs are kept until the context closes, as many as ``problem.memory_bytes`` lets (``memory.py``); those of the
    other chunks are built anew, one at a time, for each block: one more pass over their samples.

    Args:
        at_once: columns that go through a graph together, at so many times its work in memory.
    """
    if problem.curvature_fault is not None:
        fault = problem.curvature_fault
        raise InputError(fault.what, fault.where, fault.hint)
    if problem._dense is not None:
        dense = problem._dense
        yield Counted(lambda block: (dense @ block.to(dense.dtype)).to(block.dtype), problem.d)
        return
    with problem.measuring():
        kept, others = _kept(problem)
        together = 1 if problem.dtype in COARSE else TOGETHER
        groups = [kept[start : start + together] for start in range(0, len(kept), together)]
        # Graphs that are built anew serve as many columns as fit; each column is summed in float64, two vectors.
        width = max(1, memory.vectors(problem) // 8) if others else at_once

        def apply(block: Tensor) -> Tensor:
            count = block.shape[1]
            problem.passes.add(2 * count + math.ceil(count / width) * others / problem.n)
            image = torch.zeros(count, problem.d, dtype=block.dtype, device=block.device)
            for start in range(0, count, width):
                columns = [block[:, i].to(problem.dtype).contiguous() for i in range(count)[start : start + width]]
                rows = image[start : start + width]
                once = len(groups) == 1 and not others and rows.dtype not in COARSE
                total = rows if once else torch.zeros_like(rows, dtype=torch.float64)
                for group in groups:
                    if at_once > 1:
                        _add_together(problem, group, torch.stack(columns), total)
                    else:
                        _add_products(problem, group, columns, total)
                for each in _graphs(problem, first=len(kept)) if others else ():
                    _add_products(problem, [each], columns, total)
                rows.copy_(total.div_(problem.n))
            return image.T

        yield Counted(apply, problem.d)


def dense_hessian(problem: Problem) -> Tensor:
    """H as a symmetric (d, d) matrix in float64, formed by d products and kept with the problem."""
    if problem._dense is None:
        rows = []
        with hessian(problem, AT_ONCE if _plain(problem) else 1) as product:
            for start in range(0, problem.d, BLOCK):
                width = min(BLOCK, problem.d - start)
                block = torch.zeros(problem.d, width, dtype=problem.dtype, device=problem.device)
                block[torch.arange(start, start + width), torch.arange(width)] = 1
                rows.append(product(block).double())
        matrix = torch.cat(rows, 1)
        if problem.dtype not in COARSE and float((matrix - matrix.T).norm()) > ASYMMETRIC * float(matrix.norm()):
            # The mean with its transpose would hide it.
            raise InputError("autograd's second derivative is not symmetric", type(problem.model).__name__, REWRITE)
        problem._dense = (matrix + matrix.T) / 2
    return problem._dense


@contextlib.contextmanager
def passing(problem: Problem) -> Iterator[None]:
    """A Hessian that is formed inside is let go at the end; one that was there before stays."""
    before = problem._dense
    try:
        yield
    finally:
        problem._dense = before


def _kept(problem: Problem) -> tuple[list[Graph], int]:
    """The graphs that stay in memory, of the first chunks, and how many samples the other chunks hold."""
    number = memory.kept_graphs(problem)
    kept = list(itertools.islice(_graphs(problem), number))
    samples = min(problem.n, number * problem._chunk)
    problem.passes.add(samples / problem.n)
    return kept, problem.n - samples


def _graphs(problem: Problem, first: int = 0) -> Iterator[Graph]:
    """Of all chunks from the first one on."""
    for chunk in itertools.islice(problem.chunks(), first, None):
        yield graph(problem, chunk)


def _plain(problem: Problem) -> bool:
    """Whether the layers and the loss are of kinds that several columns go through together, with room for it."""
    if problem.loss_name is None or problem.memory_bytes is not None or problem.unrotated is not None:
        return False
    if isinstance(problem.samples, dict) or not all(type(module) in PLAIN for module in problem.model.modules()):
        return False
    outputs = sum(module.out_features for module in problem.model.modules() if isinstance(module, nn.Linear))
    positions = problem.samples[0][0].numel() // problem.samples[0].shape[-1] if problem.samples[0].dim() > 1 else 1
    return problem.n * positions * outputs <= FEW_OUTPUTS


def _add_together(problem: Problem, graphs: Sequence[Graph], block: Tensor, total: Tensor) -> None:
    """What ``_add_products`` adds, for vectors in the rows of a block (k, d) at once."""
    parts = torch.split(block, problem.sizes, 1)
    pieces = [part.reshape(-1, *shape) for part, shape in zip(parts, problem.shapes.values(), strict=True)]
    for each in graphs:
        for found, into in zip(each.differentiated(pieces, True), torch.split(total, problem.sizes, 1), strict=True):
            if found is not None:
                into += found.reshape(len(block), -1)


def _add_products(problem: Problem, graphs: Sequence[Graph], columns: Sequence[Tensor], total: Tensor) -> None:
    """Adds the sum over the samples of nabla^2 l_i times each of the columns (d,) to a row of the total (k, d)."""
    for column, into in zip(columns, total, strict=True):
        pieces = list(problem.unflatten(column).values())
        sums: list[Tensor | None] = [None] * len(pieces)
        own = [False] * len(pieces)  # what autograd returns may share memory with anything
        for each in graphs:
            for i, part in enumerate(each.differentiated(pieces)):
                before = sums[i]
                if part is None or before is None:
                    sums[i] = before if part is None else part
                else:
                    sums[i] = before.add_(part) if own[i] else before + part
                    own[i] = True
        for part, place in zip(sums, torch.split(into, problem.sizes), strict=True):
            if part is not None:
                place += part.reshape(-1)
