"""The gradient of some samples' loss as a graph that can be differentiated again, and what it keeps in memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage
from torch.autograd.graph import GradientEdge, get_gradient_edge

from estimators.errors import InputError
from estimators.task.function import Function, Samples, tensors_of
from estimators.task.second_derivatives import TwiceDifferentiable

UNDERIVED = re.compile(r"derivative|double.?backward|differentiat|not implemented", re.IGNORECASE)
"""What torch says where it has no second derivative; other errors of a backward, as of memory, are none of that."""


@dataclass(frozen=True)
class Graph:
    """The gradient of a chunk's summed loss as a function of the leaves: ``edges`` by the numbers of those leaves
    whose gradient can be differentiated. Values of the gradient are not held."""

    leaves: list[Tensor]
    edges: dict[int, GradientEdge]

    def differentiated(self, pieces: list[Tensor], together: bool = False) -> tuple[Tensor | None, ...]:
        """The gradient of <gradient, pieces> with respect to each leaf; None where it is 0.

        ``together``: pieces and gradients have a first dimension for several vectors, which go through at once.

        Raises:
            InputError: an operation whose second derivative torch does not know.
        """
        if not self.edges:
            return ()
        with _told():
            return torch.autograd.grad(
                list(self.edges.values()),
                self.leaves,
                [pieces[i].to(self.leaves[i].dtype) for i in self.edges],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=together,
            )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """An InputError where torch has no second derivative of an operation."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        if not UNDERIVED.search(str(error)):
            raise
        raise InputError(
            "a layer has no second derivative, so curvature cannot be measured",
            str(error).partition(".")[0],
            "write it with operations that can be differentiated twice",
        ) from error


def graph(problem: Function, samples: Samples) -> Graph:
    """Of the summed loss of the samples. Call it inside :meth:`Problem.measuring`."""
    named = problem.leaves()
    leaves = list(named.values())
    with TwiceDifferentiable():
        loss = problem.losses(named, samples).sum()
    with _told():
        parts = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    return Graph(leaves, {i: get_gradient_edge(p) for i, p in enumerate(parts) if p is not None and p.requires_grad})


def kept_bytes(problem: Function, samples: Samples) -> int:
    """What the graph of these samples keeps for backward, parameters and samples left out."""
    tensors = (*problem.parameters.values(), *problem.fixed.values(), *tensors_of(samples))
    known = {part.untyped_storage().data_ptr() for t in tensors for part in dense_parts(t)}
    held: dict[int, UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            held.setdefault(storage.data_ptr(), storage)  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph(problem, samples)
    return sum(storage.nbytes() for address, storage in held.items() if address not in known)


def dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensors that hold the numbers of one, which may be sparse."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    ends = (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
    return (*ends, tensor.values())
