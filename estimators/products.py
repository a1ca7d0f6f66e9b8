"""Products with the Hessian by double backward: H V for a block of vectors, the graph kept between calls.

``torch.func``'s own second derivatives (``hessian``, ``jvp(jacrev)``) miss terms of LayerNorm without a
word in torch 2.13, so every product here differentiates a gradient that was built with ``create_graph``.
Columns go one after another. Measured for GPT-2 of 4 x 256 at T = 128 (torch 2.13, one CPU thread, float32), in
forward+backward passes for each vector: 2.0 so, 2.2 for three at once with ``is_grads_batched``, 3.3 with
``jvp(grad)``, 2.6 for three at once with ``vmap`` over it. A small MLP and a CNN lose more by batching. Where matrix
products are the time there is no less to have: a pass does 3 of them for each linear layer, a product 6.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage
from torch.autograd.graph import GradientEdge, get_gradient_edge

from estimators.embedding_bags import twice_differentiable
from estimators.errors import InputError
from estimators.losses import COARSE
from estimators.problem import Problem, Samples

Product = Callable[[Tensor], Tensor]
TOGETHER = 8
"""Products of so many chunks are added in the parameters' precision, if that is no 16-bit format, before they go into
a float64 sum: with 4 samples in a chunk, GPT-2 spent a fifth of a product on that sum."""
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
def hessian(problem: Problem, memory_bytes: int | None = None) -> Iterator[Counted]:
    """The operator V (d, k) -> H V (d, k) at the problem's point.

    Cost: one gradient pass with its graph, then about two passes for each vector. Where H was formed already,
    products cost nothing.

    Args:
        problem: the task at a point.
        memory_bytes: graphs are kept until the context closes, as many as fit into so much memory; those of the
            other chunks are built anew, one at a time, for each block: one more pass over their samples. Default:
            all are kept. One graph is in memory at any rate; what it takes follows ``problem._chunk``. The block
            itself takes (d, k) numbers in float64 besides.
    """
    if problem._dense is not None:
        dense = problem._dense
        yield Counted(lambda block: (dense @ block.to(dense.dtype)).to(block.dtype), problem.d)
        return
    with problem.measuring():
        kept, others = _kept(problem, memory_bytes)
        together = 1 if problem.dtype in COARSE else TOGETHER

        def apply(block: Tensor) -> Tensor:
            problem.passes.add(2 * block.shape[1] + others / problem.n)
            columns = block.T.to(problem.dtype).contiguous()
            total = torch.zeros(columns.shape, dtype=torch.float64, device=block.device)
            for start in range(0, len(kept), together):
                _add_products(problem, kept[start : start + together], columns, total)
            for graph in _graphs(problem, first=len(kept)) if others else ():
                _add_products(problem, [graph], columns, total)
            return total.div_(problem.n).T.to(block.dtype)

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


@dataclass(frozen=True)
class Graph:
    """The gradient of a chunk's summed loss as a function of the leaves: ``edges`` by the numbers of those leaves
    whose gradient can be differentiated. Values of the gradient are not held."""

    leaves: list[Tensor]
    edges: dict[int, GradientEdge]


def _kept(problem: Problem, memory_bytes: int | None) -> tuple[list[Graph], int]:
    """The graphs that stay in memory, of the first chunks, and how many samples the other chunks hold."""
    chunks = -(-problem.n // problem._chunk)
    if memory_bytes is None or chunks == 1:
        number = chunks
    else:
        fit = memory_bytes // max(_graph_bytes(problem), 1)
        number = chunks if fit >= chunks else max(0, fit - 1)  # one place is for those that are built anew
    kept = list(itertools.islice(_graphs(problem), number))
    samples = min(problem.n, number * problem._chunk)
    problem.passes.add(samples / problem.n)
    return kept, problem.n - samples


def _graphs(problem: Problem, first: int = 0) -> Iterator[Graph]:
    """Of all chunks from the first one on."""
    for chunk in itertools.islice(problem.chunks(), first, None):
        yield _graph(problem, chunk)


def _graph(problem: Problem, chunk: Samples) -> Graph:
    named = {name: p.detach().requires_grad_() for name, p in problem.parameters.items()}
    leaves = list(named.values())
    with twice_differentiable(problem.model):
        loss = problem.losses(named, chunk).sum()
    parts = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    return Graph(leaves, {i: get_gradient_edge(p) for i, p in enumerate(parts) if p is not None and p.requires_grad})


def _graph_bytes(problem: Problem) -> int:
    """Memory that the graph of one chunk holds: what two samples take, and what each further one adds.

    A single sample says little: without others its tensors are often views where several are copied.
    """
    chunk = min(problem._chunk, problem.n)
    first = _saved_bytes(problem, problem.take(slice(0, min(chunk, 2))))
    if chunk <= 2:
        return first
    return first + (chunk - 2) * max(0, _saved_bytes(problem, problem.take(slice(0, 3))) - first)


def _saved_bytes(problem: Problem, samples: Samples) -> int:
    """What a graph of these samples keeps for backward, parameters and samples left out."""
    given = samples.values() if isinstance(samples, dict) else samples
    known = {t.untyped_storage().data_ptr() for t in (*problem.parameters.values(), *problem._fixed.values(), *given)}
    held: dict[int, UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held.setdefault(storage.data_ptr(), storage)  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _graph(problem, samples)
    return sum(storage.nbytes() for address, storage in held.items() if address not in known)


def _add_products(problem: Problem, graphs: Sequence[Graph], columns: Tensor, total: Tensor) -> None:
    """Adds the sum over the samples of nabla^2 l_i times each of the columns (k, d) to the total (k, d)."""
    for column, into in zip(columns, total, strict=True):
        pieces = list(problem.unflatten(column).values())
        sums: list[Tensor | None] = [None] * len(pieces)
        own = [False] * len(pieces)  # what autograd returns may share memory with anything
        for graph in graphs:
            for i, part in enumerate(_differentiated(graph, pieces)):
                before = sums[i]
                if part is None or before is None:
                    sums[i] = before if part is None else part
                else:
                    sums[i] = before.add_(part) if own[i] else before + part
                    own[i] = True
        for part, place in zip(sums, torch.split(into, problem.sizes), strict=True):
            if part is not None:
                place += part.reshape(-1)


def _differentiated(graph: Graph, pieces: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient of <gradient, pieces> with respect to each leaf; None where it is 0.

    Raises:
        InputError: an operation whose second derivative torch does not know.
    """
    if not graph.edges:
        return ()
    try:
        return torch.autograd.grad(
            list(graph.edges.values()),
            graph.leaves,
            [pieces[i] for i in graph.edges],
            retain_graph=True,
            allow_unused=True,
        )
    except NotImplementedError as error:
        raise InputError(
            "a layer has no second derivative, so curvature cannot be measured",
            str(error).partition(".")[0],
            "write it with operations that can be differentiated twice",
        ) from error
