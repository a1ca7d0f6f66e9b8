"""Products with the Hessian by double backward: H V for a block of vectors, the graph kept between calls.

``torch.func``'s own second derivatives (``hessian``, ``jvp(jacrev)``) miss terms of LayerNorm without a
word in torch 2.13, so every product here differentiates a gradient that was built with ``create_graph``.
Plain networks need no graph: ``stagewise.py``.

Columns go one after another. Measured for GPT-2 of 4 x 256 at T = 128 (torch 2.13, one CPU thread, float32), in
forward+backward passes for each vector: 2.0 so, 2.2 for three at once with ``is_grads_batched``, 3.3 with
``jvp(grad)``, 2.6 for three at once with ``vmap`` over it. A small MLP and a CNN lose more by batching. Where matrix
products are the time there is no less to have: a pass does 3 of them for each linear layer, a product 6.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.formats import COARSE
from estimators.task import memory_limit, stagewise
from estimators.task.function import Function
from estimators.task.graphs import Graph, graph
from estimators.task.plain_networks import PlainNetwork, plain_network
from estimators.task.second_derivatives import REWRITE

Product = Callable[[Tensor], Tensor]
TOGETHER = 8
"""Products of so many chunks are added in the parameters' precision, if that is no 16-bit format, before they go into
a float64 sum: with 4 samples in a chunk, GPT-2 spent a fifth of a product on that sum."""
BLOCK = 256
ASYMMETRIC = 0.05
"""Share of a formed Hessian's norm that rounding alone never parts it from its transpose by."""


class Curvature:
    """The Hessian, or a multiple of it, as an operator V -> A V on blocks (d, k).

    ``products`` counts the vectors that it was applied to, d of them where it was formed for this. ``matrix`` is A,
    (d, d) in float64, where :func:`curvature` gave it as one.
    """

    def __init__(self, apply: Product, d: int) -> None:
        self._apply = apply
        self.d = d
        self.products = 0
        self.matrix: Tensor | None = None

    def __call__(self, block: Tensor) -> Tensor:
        """A times the block.

        Raises:
            InputError: the result is not finite.
        """
        self.products += block.shape[1]
        return finite(self._apply(block))


def finite(numbers: Tensor) -> Tensor:
    """The same numbers.

    Raises:
        InputError: they are not all finite.
    """
    if not all(math.isfinite(end) for end in torch.aminmax(numbers)):
        raise InputError(
            "the curvature is not finite",
            "a Hessian-vector product",
            "bring the data to a common scale, or use float64 (`--dtype float64`)",
        )
    return numbers


@contextlib.contextmanager
def curvature(problem: Function) -> Iterator[Curvature]:
    """H at the problem's point in the way that the problem asks for: with its ``matrix``, or as products alone."""
    matrix = dense_hessian(problem) if problem.forms_hessian else None
    with hessian(problem) as operator:
        if matrix is not None:
            operator.matrix, operator.products = matrix, problem.d
        yield operator


@contextlib.contextmanager
def hessian(problem: Function) -> Iterator[Curvature]:
    """The operator V (d, k) -> H V (d, k) at the problem's point.

    Cost: one gradient pass with its graph, then about two passes for each vector. Where H was formed already,
    products cost nothing.

    Graphs are kept until the context closes, as many as ``problem.memory_bytes`` lets (``memory_limit.py``); those of
    the other chunks are built anew, one at a time, for each block: one more pass over their samples.
    """
    if problem.curvature_fault is not None:
        fault = problem.curvature_fault
        raise InputError(fault.what, fault.where, fault.hint)
    if problem.formed_hessian is not None:
        dense = problem.formed_hessian
        yield Curvature(lambda block: (dense @ block.to(dense.dtype)).to(block.dtype), problem.d)
        return
    network = plain_network(problem)
    if network is not None:
        yield _by_layers(network)
        return
    with problem.measuring():
        kept, others = _kept(problem)
        together = 1 if problem.dtype in COARSE else TOGETHER
        groups = [kept[start : start + together] for start in range(0, len(kept), together)]
        # Graphs that are built anew serve as many columns as fit; each column is summed in float64, two vectors.
        width = max(1, memory_limit.vectors(problem) // 8) if others else 1

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
                    _add_products(problem, group, columns, total)
                for each in _graphs(problem, first=len(kept)) if others else ():
                    _add_products(problem, [each], columns, total)
                rows.copy_(total.div_(problem.n))
            return image.T

        yield Curvature(apply, problem.d)


def _by_layers(network: PlainNetwork) -> Curvature:
    problem = network.problem
    with problem.measuring():
        summed = stagewise.products(network)
    problem.passes.add(1)

    def apply(block: Tensor) -> Tensor:
        problem.passes.add(2 * block.shape[1])
        return summed(block.to(problem.dtype)).div_(problem.n).to(block.dtype)

    return Curvature(apply, problem.d)


def dense_hessian(problem: Function) -> Tensor:
    """H as a symmetric (d, d) matrix in float64, formed once and kept with the problem: by d products, or at once where
    the problem is a plain network."""
    if problem.formed_hessian is None:
        network = plain_network(problem)
        if network is not None and problem.curvature_fault is None:
            with problem.measuring():
                problem.formed_hessian = finite(stagewise.formed(network))
        else:
            problem.formed_hessian = _from_columns(problem)
    return problem.formed_hessian


def _from_columns(problem: Function) -> Tensor:
    columns = []
    with hessian(problem) as product:
        for start in range(0, problem.d, BLOCK):
            width = min(BLOCK, problem.d - start)
            block = torch.zeros(problem.d, width, dtype=problem.dtype, device=problem.device)
            block[torch.arange(start, start + width), torch.arange(width)] = 1
            columns.append(product(block).double())
    matrix = torch.cat(columns, 1)
    if problem.dtype not in COARSE and float((matrix - matrix.T).norm()) > ASYMMETRIC * float(matrix.norm()):
        # The mean with its transpose would hide it.
        raise InputError("autograd's second derivative is not symmetric", type(problem.model).__name__, REWRITE)
    return (matrix + matrix.T) / 2


def forming_passes(problem: Function) -> float:
    """What forming H costs."""
    return 2 * problem.d + 1 if plain_network(problem) is None else stagewise.forming_passes(problem.d)


@contextlib.contextmanager
def passing(problem: Function) -> Iterator[None]:
    """A Hessian that is formed inside is let go at the end; one that was there before stays."""
    before = problem.formed_hessian
    try:
        yield
    finally:
        problem.formed_hessian = before


def _kept(problem: Function) -> tuple[list[Graph], int]:
    """The graphs that stay in memory, of the first chunks, and how many samples the other chunks hold."""
    number = memory_limit.kept_graphs(problem)
    kept = list(itertools.islice(_graphs(problem), number))
    samples = min(problem.n, number * problem.chunk)
    problem.passes.add(samples / problem.n)
    return kept, problem.n - samples


def _graphs(problem: Function, first: int = 0) -> Iterator[Graph]:
    """Of all chunks from the first one on."""
    for chunk in itertools.islice(problem.chunks(), first, None):
        yield graph(problem, chunk)


def _add_products(problem: Function, graphs: Sequence[Graph], columns: Sequence[Tensor], total: Tensor) -> None:
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
