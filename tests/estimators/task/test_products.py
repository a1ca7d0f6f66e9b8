"""Products with the Hessian for modules of every kind, against double backward one sample at a time, and what they
keep in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from estimators import InputError, Problem
from estimators.task import memory_limit
from estimators.task.graphs import kept_bytes
from estimators.task.products import hessian
from tests import oracles
from tests.module_kinds import BY_NAME, CLASSES, KINDS, VOCABULARY, WIDTH, Kind, Model, N, tokens


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "bag" not in kind.name], ids=lambda kind: kind.name)
def test_products(kind: Kind) -> None:
    """H V for a block, whole and in chunks, against double backward one sample at a time."""
    problem = Problem(*kind.parts())
    block = torch.randn(problem.d, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        operator = oracles.hessian_operator(kind.oracle_parts())
        wanted = np.stack([operator(v) for v in block.T.numpy()], 1)
    for chunk in (N, 4):
        problem.chunk = chunk
        with hessian(problem) as product:
            found = product(block).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


# -- products in bounded memory --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encoder-layer", "conv-2d"])
def test_products_in_little_memory(name: str) -> None:
    """Graphs that do not fit are built anew for each block: the same answer, at the price of their passes."""
    problem = Problem(*BY_NAME[name].parts())
    problem.chunk = 2
    block = torch.randn(problem.d, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with hessian(problem) as product:
        wanted = product(block)
    problem.graph_sizes = memory_limit.graph_sizes(problem)
    graph = memory_limit.graph_bytes(problem, 2)
    # Half of the limit is for graphs, one place of them for the work on one, one for those that are built anew.
    for graphs, kept in ((1, 0), (3.5, 1), (4, 3)):
        problem.memory_bytes = int(2 * graphs * graph)
        before = problem.passes.total
        with hessian(problem) as product:
            assert problem.passes.total - before == pytest.approx(kept / 3)
            torch.testing.assert_close(product(block), wanted, rtol=0, atol=1e-13 * float(wanted.abs().max()))
            product(block)
        again = 0 if kept == 3 else 1 - kept / 3
        assert problem.passes.total - before == pytest.approx(kept / 3 + 2 * (4 + again))


def test_the_memory_of_a_graph() -> None:
    """It grows with the chunk, by what a sample adds."""
    problem = Problem(*BY_NAME["encoder-layer"].parts())
    problem.graph_sizes = memory_limit.graph_sizes(problem)
    sizes = []
    for chunk in (2, 4, 6):
        sizes.append(memory_limit.graph_bytes(problem, chunk))
        with problem.measuring():
            exact = kept_bytes(problem, problem.take(slice(0, chunk)))
        assert sizes[-1] == pytest.approx(exact, rel=0.02)
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


class Pooled(nn.Module):
    """What an embedding bag computes, written out."""

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight, self.mode, self.padding = bag.weight, bag.mode, bag.padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = []
        for row in tokens:
            kept = self.weight[row[row != self.padding]]
            if not len(kept):
                pooled.append(torch.zeros_like(self.weight[0]))
            else:
                pooled.append({"sum": kept.sum(0), "mean": kept.mean(0), "max": kept.max(0).values}[self.mode])
        return torch.stack(pooled)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_products_of_embedding_bags(mode: str) -> None:
    """torch's own bags have no second derivative; row 0 holds padding alone."""
    torch.manual_seed(6)
    bag = nn.EmbeddingBag(VOCABULARY, WIDTH, mode=mode, padding_idx=2).double()
    model, written = Model(bag).double(), Model(Pooled(bag)).double()
    written.out = model.out
    x = tokens()
    x[0] = 2
    samples = x, torch.arange(N) % CLASSES
    problem = Problem(model, samples)
    operator = oracles.hessian_operator((written, samples, "cross-entropy"))
    v = torch.randn(problem.d, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = problem.flatten(problem.hessian_vector_product(problem.unflatten(v)))
    np.testing.assert_allclose(found.numpy(), operator(v.numpy()), rtol=0, atol=1e-14)


def test_a_layer_without_a_second_derivative_is_refused() -> None:
    """A bag with offsets keeps torch's kernel."""
    torch.manual_seed(8)

    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(VOCABULARY, WIDTH)

        def forward(self, tokens: Tensor) -> Tensor:
            output: Tensor = self.bag(tokens.flatten(), torch.arange(0, tokens.numel(), tokens.shape[1]))
            return output

    problem = Problem(Model(Offsets()), (tokens(), torch.arange(N) % CLASSES))
    with pytest.raises(InputError, match="no second derivative") as caught:
        problem.hessian_vector_product(problem.parameters)
    assert "embedding_bag" in str(caught.value.where)


class Square(nn.Module):
    """|w|^2 / 2 + |u + v|^2 / 2, whose products are the vectors themselves, and one tensor for u and v."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.v = (nn.Parameter(torch.randn(4, dtype=torch.float64)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = 0.5 * (self.w**2).sum() + 0.5 * ((self.u + self.v) ** 2).sum() + 0 * x[:, 0]
        return total


def test_products_that_share_memory() -> None:
    """Chunks are added in place: neither the vectors nor each other's products change."""
    problem = Problem(Square(), (torch.randn(12, 2).double(), torch.zeros(12)), lambda output, _: output)
    problem.chunk = 1
    block = torch.randn(12, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    before = block.clone()
    with hessian(problem) as product:
        found = product(block)
    w, u, v = torch.split(before, 4)
    torch.testing.assert_close(found, torch.cat([w, u + v, u + v]), rtol=1e-13, atol=0)
    assert torch.equal(block, before)
