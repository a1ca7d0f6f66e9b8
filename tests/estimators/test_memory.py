"""Measuring within a memory limit: what is held at once, and that the answers are those without one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from estimators import (
    InputError,
    Problem,
    anisotropic,
    generalized_smoothness,
    hessian_diagonal,
    memory,
    noise,
    smoothness,
    spectrum,
)
from estimators.products import dense_hessian, hessian
from estimators.results import stored
from estimators.rotation import rotated
from tests import oracles
from tests.problems import quadratic, symmetric

VOCABULARY, LENGTH, SAMPLES = 2048, 32, 8


def gone(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


class Held(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, those known before left out."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        known = [*problem.parameters.values(), *problem._fixed.values(), *problem.model.parameters()]
        given = problem.samples.values() if isinstance(problem.samples, dict) else problem.samples
        self.known = {t.untyped_storage()._cdata for t in (*known, *given)}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return output

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        before = self.alive.get(storage._cdata)
        if before is not None and not gone(before[0]):
            return
        self.total += storage.nbytes() - (before[1] if before else 0)
        self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        if self.total > self.peak:  # some of them may be gone
            self.alive = {key: each for key, each in self.alive.items() if not gone(each[0])}
            self.total = sum(size for _, size in self.alive.values())
            self.peak = max(self.peak, self.total)


def language_model(limit: int | None) -> Problem:
    """GPT-2 of 0.24M parameters whose largest tensor is its tied embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2)
    tokens = torch.randint(0, VOCABULARY, (SAMPLES, LENGTH))
    return Problem(GPT2LMHeadModel(config), {"input_ids": tokens, "labels": tokens}, memory_bytes=limit)


MEASURES: dict[str, Callable[[Problem], Any]] = {
    "noise": lambda problem: noise(problem),
    "a draw's noise": lambda problem: noise(problem, rows=10 * SAMPLES),
    "smoothness": lambda problem: smoothness(problem, max_products=24),
    "spectrum": lambda problem: spectrum(problem, steps=8),
    "diagonal": lambda problem: hessian_diagonal(problem, probes=24),
}


@pytest.mark.parametrize("megabytes", [40, 120])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_limit_holds(measure: str, megabytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 29 vectors and graphs that are built anew, with 89 and graphs that are kept."""
    monkeypatch.setattr(anisotropic, "MAX_STEPS", 12)
    problem = language_model(megabytes << 20)
    assert memory.keeps_all(problem) == (megabytes == 120)
    with Held(problem) as held:
        MEASURES[measure](problem)
    assert held.peak <= megabytes << 20


def test_what_is_held_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count behind the test above: without a limit the bracket takes more than the smaller one."""
    monkeypatch.setattr(anisotropic, "MAX_STEPS", 12)
    problem = language_model(None)
    with Held(problem) as held:
        smoothness(problem, max_products=24)
    assert held.peak > 40 << 20


def test_products_do_not_depend_on_the_limit() -> None:
    plain, double = language_model(None), language_model(None).model.double()
    block = torch.randn(plain.d, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, chunks = [], []
    for limit in (None, 400 << 20, 80 << 20, 45 << 20):
        problem = Problem(double, plain.samples, memory_bytes=limit)
        chunks.append((problem._chunk, memory.kept_graphs(problem)))
        with hessian(problem) as product:
            found.append(product(block))
    assert len(set(chunks)) == 3  # the first two are the same
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12 * float(found[0].abs().max()))


def test_a_limit_follows_the_problem() -> None:
    problem = language_model(40 << 20)
    for other in (problem.at(problem.parameters), problem.subset(torch.arange(3)), rotated(problem, 0)):
        assert other.memory_bytes == problem.memory_bytes
        assert other._chunk <= problem._chunk
        assert len(other._graph_sizes) == 3
    assert rotated(problem, 0)._graph_sizes[0] > problem._graph_sizes[0]  # it holds the turned parameters too


def test_too_small_a_limit_names_one_that_does() -> None:
    with pytest.raises(InputError, match="too little to measure 233,") as refused:
        language_model(1 << 20)
    number, letter = re.findall(r"allow ([0-9.]+)([KMG])", refused.value.hint)[0]
    enough = int(float(number) * (1 << {"K": 10, "M": 20, "G": 30}[letter]))
    language_model(enough)
    with pytest.raises(InputError):
        language_model(int(0.9 * enough))


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1"), (1500, "1.5K"), (1 << 30, "1G"), ((1 << 30) + 1, "1.1G"), (2.5 * (1 << 20), "2.5M")]
)
def test_sizes_in_words(number: float, text: str) -> None:
    assert memory.size(number) == text


# -- formed Hessians -------------------------------------------------------------------------------


def network(limit: int | None = None) -> Problem:
    """A small network, d = 200, whose Hessian is formed: 0.32 MB."""
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(17, 10), torch.nn.Tanh(), torch.nn.Linear(10, 2, bias=False))
    inputs = torch.randn(24, 17, generator=generator)
    return Problem(model, (inputs, torch.randint(0, 2, (24,), generator=generator)), memory_bytes=limit)


def shrinking(problem: Problem, count: int) -> list[Problem]:
    scales = np.geomspace(2, 0.02, count)
    return [problem.at({name: float(s) * value for name, value in problem.parameters.items()}) for s in scales]


MATRIX = 8 * 200**2


@pytest.mark.parametrize("kept", [0, 3])
def test_a_limit_holds_for_the_hessians_of_many_points(kept: int) -> None:
    """16 points, whose Hessians together take twice the limit."""
    graph = memory.graph_bytes(network(1 << 30), 24)
    problem = network(int((memory.FORMED + kept + 0.5) * MATRIX) + 3 * graph)
    points = shrinking(problem, 16)
    room = memory.formed_points(problem)
    assert kept <= room <= kept + 1
    with Held(problem) as held:
        result = generalized_smoothness(problem, points)
    assert result.l0_l1 is not None
    assert [point._dense is not None for point in points] == [number < room for number in range(16)]
    assert problem.memory_bytes is not None
    assert held.peak <= problem.memory_bytes < 16 * MATRIX


def test_hessians_formed_again_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for room in (memory.FORMED_BYTES, 0):
        monkeypatch.setattr(memory, "FORMED_BYTES", room)
        problem = network()
        results.append(generalized_smoothness(problem, shrinking(problem, 8)))
    kept, again = (stored(result) for result in results)
    assert kept["l0_l1"] is not None
    assert kept == again
    assert results[1].cost.passes > results[0].cost.passes
    for name, value in results[0].vectors.items():
        assert torch.equal(value, results[1].vectors[name])


def test_a_hessian_that_the_caller_formed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FORMED_BYTES", 0)
    problem = network()
    points = shrinking(problem, 6)
    formed = dense_hessian(points[3])
    generalized_smoothness(problem, points)
    assert points[3]._dense is formed


# -- the same answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [20, 40, 100, 200, 470])
def test_little_memory_gives_a_bracket_that_holds(vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One column and no basis at 20 vectors, all columns at 100, a basis at 200, rounds at 470."""
    matrix = symmetric(60, 3)
    monkeypatch.setattr(anisotropic, "DENSE_LIMIT", 0)
    monkeypatch.setattr(memory, "vectors", lambda _: vectors)
    problem = Problem(*quadratic(matrix))
    result = smoothness(problem)
    wanted = oracles.smallest_diagonal(matrix.numpy())
    assert result.l1_lower is not None
    assert result.l1_upper is not None
    assert result.l1_lower <= wanted * (1 + 1e-6)
    assert result.l1_upper >= wanted * (1 - 1e-6)
    assert result.l1_upper <= (1.8 if vectors == 20 else 1.06) * result.l1_lower
    bound = problem.flatten(result.vectors).numpy()
    assert np.abs(np.linalg.eigvalsh(matrix.numpy() / np.sqrt(np.outer(bound, bound)))).max() <= 1 + 1e-9
    exact = np.abs(np.linalg.eigvalsh(matrix.numpy())).max()
    assert result.sharpness_interval is not None
    assert result.sharpness_interval[0] <= exact * (1 + 1e-9)
    assert result.sharpness_interval[1] >= exact * (1 - 1e-9)


@pytest.mark.slow
def test_the_brackets_of_two_limits_meet() -> None:
    """In float32, where Lanczos without a basis finds eigenvalues again and again."""
    results = [smoothness(language_model(limit), max_products=160) for limit in (None, 40 << 20)]
    first, second = ((r.l1_lower, r.l1_upper) for r in results)
    assert max(first[0] or 0, second[0] or 0) <= min(first[1] or 0, second[1] or 0)
    assert (second[1] or 0) < 3 * (second[0] or 1)
    ends = [r.sharpness_interval for r in results]
    assert ends[0] is not None
    assert ends[1] is not None
    assert max(ends[0][0], ends[1][0]) <= min(ends[0][1], ends[1][1])


def test_the_diagonal_in_narrow_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same probes: sums in float32 give what sums in float64 do."""
    monkeypatch.setattr(memory, "sums_dtype", lambda _: torch.float64)
    wide = hessian_diagonal(language_model(None), probes=16)
    monkeypatch.setattr(memory, "sums_dtype", lambda _: torch.float32)
    narrow = hessian_diagonal(language_model(None), probes=16)
    for name, value in wide.vectors.items():
        torch.testing.assert_close(narrow.vectors[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()))
        error = wide.standard_error[name]
        torch.testing.assert_close(narrow.standard_error[name], error, rtol=1e-3, atol=1e-6 * float(error.max()))
    assert narrow.trace_interval == pytest.approx(wide.trace_interval, rel=1e-4)
    assert narrow.abs_sum_interval == pytest.approx(wide.abs_sum_interval, rel=1e-4)
