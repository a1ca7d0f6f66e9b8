"""Where the parameters are used in an autograd graph, and where the rows of each sample lie there.

The graph of a loss shows every use of every parameter, wherever it happens: in its own module, in another one (tied
weights), twice, or in plain code. A :class:`Site` is one use.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

ACCUMULATE = "torch::autograd::AccumulateGrad"
TURNS = ("TBackward0", "TransposeBackward0")
EMBEDDING, SUM = "EmbeddingBackward0", "AddBackward0"


Operation = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Its name; whole numbers that decide where its rows go; sizes that it sums over."""


class Unfit(Exception):
    """Why the rules do not give the per-sample gradients of a graph."""


@dataclass(frozen=True)
class Site:
    """One use of a parameter: as input ``slot`` of the operation ``name``, its ``order``-th in the graph.

    ``turned``: the matrix is used as its transpose. ``spread``: an embedding without a sample axis (positions) whose
    output is added to something that has one; the gradient is taken behind that sum, where samples are still apart.
    ``rows``: rows of the output's gradient for each sample; ``minor``: the sample is the inner index of the rows.
    """

    name: str
    slot: int
    parameter: int
    order: int
    turned: bool
    spread: bool
    rows: int = field(default=0, compare=False)
    minor: bool = field(default=False, compare=False)
    node: Any = field(default=None, compare=False, repr=False)
    at: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Plan:
    """The sites of a model's graph with the places of their samples, as found on two samples; the same for every
    chunk. ``kept``: positions with logits there; chunks with other labels keep other numbers of them. ``numbers``:
    of the gradients that are taken, for each sample. ``operations``: of the whole graph (``row_places.py``), None
    where some may move rows by what the data say."""

    sites: tuple[Site, ...]
    kept: int
    numbers: int
    operations: tuple[Operation, ...] | None

    def placed(self, sites: Sequence[Site]) -> list[Site]:
        """The sites of another chunk with the places of the plan."""
        if list(sites) != list(self.sites):
            raise Unfit("the operations depend on the samples")
        return [replace(s, rows=p.rows, minor=p.minor) for s, p in zip(sites, self.sites, strict=True)]


Users = dict[Node, list[tuple[Node, int]]]


def find(
    loss: Tensor, leaves: Sequence[Tensor], samples: int, rules: Container[tuple[str, int]], plan: Plan | None = None
) -> list[Site]:
    """Every use of the leaves in the graph of the loss, in an order that the graph alone decides.

    The plan says which embeddings are spread; without one their shapes do.

    Raises:
        Unfit: a use by an operation and a slot that the rules do not hold.
    """
    spread = None if plan is None else {site.order for site in plan.sites if site.spread}
    users, held = _users(loss, leaves)
    found: list[Site] = []
    for node, parameter in held:
        for user, slot, turned in _uses(users, node):
            name = user.name()
            if (name, slot) not in rules:
                raise Unfit(f"there is no rule for {name.removesuffix('0').removesuffix('Backward')}")
            order = len(found)
            site = Site(name, slot, parameter, order, turned, False, node=user, at=user)
            if name != EMBEDDING:
                found.append(site)
            elif order in spread if spread is not None else site.node._saved_indices.shape[:1] != (samples,):
                found += _behind(site, users)
            else:
                found.append(site)
    return found


def _users(loss: Tensor, leaves: Sequence[Tensor]) -> tuple[Users, list[tuple[Node, int]]]:
    """What uses each node's value and by which input, and the nodes of the leaves with their numbers."""
    number = {id(leaf): i for i, leaf in enumerate(leaves)}
    users: Users = {}
    held: list[tuple[Node, int]] = []
    waiting: list[Node] = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node: Any = waiting.pop()
        if node.name() == ACCUMULATE and id(node.variable) in number:
            held.append((node, number[id(node.variable)]))
        for slot, (after, _) in enumerate(node.next_functions):
            if after is not None:
                users.setdefault(after, []).append((node, slot))
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
    return users, held


def _uses(users: Users, node: Node, turned: bool = False) -> Iterator[tuple[Node, int, bool]]:
    """Operations on a parameter or on its transpose."""
    for user, slot in users.get(node, []):
        if user.name() in TURNS:
            yield from _uses(users, user, not turned)
        else:
            yield user, slot, turned


def _behind(site: Site, users: Users) -> Iterator[Site]:
    """The sums that a spread embedding goes into."""
    for k, (behind, _) in enumerate(users.get(site.node, [])):
        node: Any = behind
        if behind.name() != SUM or node._saved_alpha != 1:
            raise Unfit("an embedding without a sample axis is used in another way than in a sum")
        yield replace(site, order=site.order + k, spread=True, at=behind)


def gradients(loss: Tensor, sites: Sequence[Site]) -> list[Tensor]:
    """Gradients with respect to the outputs of the sites' operations, one for each site.

    The graph is kept: the rules read what it saved.
    """
    places = list(dict.fromkeys(site.at for site in sites))
    if not places:
        return []
    parts = torch.autograd.grad(loss, [GradientEdge(place, 0) for place in places], retain_graph=True)
    by_place = dict(zip(places, parts, strict=True))
    return [by_place[site.at] for site in sites]
