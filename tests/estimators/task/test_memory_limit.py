"""Measuring within a memory limit: what is held at once, and that the answers are those without one."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

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
    crossfit_smoothness,
    eigenvalue_density,
    finite_step_curvature,
    generalized_smoothness,
    hessian_diagonal,
    hessian_one_norm,
    joint_smoothness,
    noise,
    preconditioned_sharpness,
    smoothness,
    spectrum,
    update_sharpness,
)
from estimators.growth.fits import Points, fit_levels, levels
from estimators.results import GeneralizedSmoothness, stored
from estimators.smoothness_vector import at_a_point
from estimators.task import memory_limit
from estimators.task.products import dense_hessian, hessian
from estimators.task.rotation import rotated
from tests import oracles
from tests.markers import marked
from tests.problems import quadratic, symmetric

VOCABULARY, LENGTH, SAMPLES = 2048, 32, 8


def gone(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


class Held(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, those known before left out."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        known = [*problem.parameters.values(), *problem.fixed.values(), *problem.model.parameters()]
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


def ones(problem: Problem) -> dict[str, Tensor]:
    """A scale, or a noise, that takes no memory of its own."""
    return {name: torch.ones(()).expand_as(p) for name, p in problem.parameters.items()}


BRACKET = SimpleNamespace(l1_lower=1.0, l1_upper=2.0, samples=SAMPLES)
"""Stands in for a bracket that was paid."""
MEASURES: dict[str, Callable[[Problem], Any]] = {
    "noise": lambda problem: noise(problem),
    "a draw's noise": lambda problem: noise(problem, rows=10 * SAMPLES),
    "smoothness": lambda problem: smoothness(problem, max_products=24),
    "spectrum": lambda problem: spectrum(problem, steps=8),
    "diagonal": lambda problem: hessian_diagonal(problem, probes=24),
    "one-norm": lambda problem: hessian_one_norm(problem, probes=20),
    "joint": lambda problem: joint_smoothness([problem, problem], max_products=24),
    "crossfit": lambda problem: crossfit_smoothness(problem, smoothness=cast(Any, BRACKET), max_products=24),
    "density": lambda problem: eigenvalue_density(problem, probes=2, steps=20),
    "updates": lambda problem: update_sharpness(problem, ones(problem), batch_size=2),
    "in a metric": lambda problem: preconditioned_sharpness(problem, ones(problem), steps=8),
    "kinks": lambda problem: finite_step_curvature(problem),
}


LIMITS = [(measure, limit) for measure in MEASURES for limit in (32, 40, 120) if (measure, limit) != ("joint", 32)]


@pytest.mark.parametrize(
    ("measure", "megabytes"), marked("limit", LIMITS, [("a draw's noise", 32), ("spectrum", 40), ("noise", 120)])
)
def test_a_limit_holds(measure: str, megabytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 vectors, the fewest, or 29 and graphs that are built anew; with 89 and graphs that are kept."""
    monkeypatch.setattr(at_a_point, "MAX_STEPS", 12)
    problem = language_model(megabytes << 20)
    assert memory_limit.keeps_all(problem) == (megabytes == 120)
    with Held(problem) as held:
        MEASURES[measure](problem)
    assert held.peak <= megabytes << 20


def test_what_is_held_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count behind the test above: without a limit the bracket takes more than the smaller one."""
    monkeypatch.setattr(at_a_point, "MAX_STEPS", 12)
    problem = language_model(None)
    with Held(problem) as held:
        smoothness(problem, max_products=24)
    assert held.peak > 40 << 20


@pytest.mark.limit
def test_products_do_not_depend_on_the_limit() -> None:
    plain, double = language_model(None), language_model(None).model.double()
    block = torch.randn(plain.d, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, chunks = [], []
    for limit in (None, 400 << 20, 80 << 20, 45 << 20):
        problem = Problem(double, plain.samples, memory_bytes=limit)
        chunks.append((problem.chunk, memory_limit.kept_graphs(problem)))
        with hessian(problem) as product:
            found.append(product(block))
    assert len(set(chunks)) == 3  # the first two are the same
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12 * float(found[0].abs().max()))


def test_points_that_do_not_fit_together_name_a_limit_that_does() -> None:
    problem = language_model(40 << 20)
    with pytest.raises(InputError, match="40M are too little for 3 points together: memory limit") as refused:
        joint_smoothness([problem] * 3, max_products=24)
    assert "`--memory` (in Python `memory_bytes`), or give fewer points" in refused.value.hint
    assert memory_limit.sweeping([language_model(allowed(refused.value))] * 3, 8) >= 1


def test_a_limit_follows_the_problem() -> None:
    problem = language_model(40 << 20)
    for other in (problem.at(problem.parameters), problem.subset(torch.arange(3)), rotated(problem, 0)):
        assert other.memory_bytes == problem.memory_bytes
        assert other.chunk <= problem.chunk
        assert len(other.graph_sizes) == 3
    assert rotated(problem, 0).graph_sizes[0] > problem.graph_sizes[0]  # it holds the turned parameters too


def allowed(error: InputError) -> int:
    """The limit that an error asks for."""
    number, letter = re.findall(r"allow ([0-9.]+)([KMG])", error.hint)[0]
    return int(float(number) * (1 << {"K": 10, "M": 20, "G": 30}[letter]))


def test_too_small_a_limit_names_one_that_does() -> None:
    with pytest.raises(InputError, match="too little to measure 233,") as refused:
        language_model(1 << 20)
    enough = allowed(refused.value)
    language_model(enough)
    with pytest.raises(InputError):
        language_model(int(0.9 * enough))


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1"), (1500, "1.5K"), (1 << 30, "1G"), ((1 << 30) + 1, "1.1G"), (2.5 * (1 << 20), "2.5M")]
)
def test_sizes_in_words(number: float, text: str) -> None:
    assert memory_limit.size(number) == text


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


@pytest.mark.limit
@pytest.mark.parametrize("kept", [0, 3])
def test_a_limit_holds_for_the_hessians_of_many_points(kept: int) -> None:
    """16 points, whose Hessians together take twice the limit."""
    graph = memory_limit.graph_bytes(network(1 << 30), 24)
    problem = network(int((memory_limit.FORMED + kept + 0.5) * MATRIX) + 3 * graph)
    points = shrinking(problem, 16)
    room = memory_limit.formed_points(problem)
    assert kept <= room <= kept + 1
    with Held(problem) as held:
        result = generalized_smoothness(problem, points)
    assert result.l0_l1 is not None
    assert [point.formed_hessian is not None for point in points] == [number < room for number in range(16)]
    assert problem.memory_bytes is not None
    assert held.peak <= problem.memory_bytes < 16 * MATRIX


def test_hessians_formed_again_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for room in (memory_limit.FORMED_BYTES, 0):
        monkeypatch.setattr(memory_limit, "FORMED_BYTES", room)
        problem = network()
        results.append(generalized_smoothness(problem, shrinking(problem, 8)))
    kept, again = (stored(result) for result in results)
    assert kept["l0_l1"] is not None
    assert kept == again
    assert results[1].cost.passes > results[0].cost.passes
    for name, value in results[0].vectors.items():
        assert torch.equal(value, results[1].vectors[name])


def test_a_hessian_that_the_caller_formed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "FORMED_BYTES", 0)
    problem = network()
    points = shrinking(problem, 6)
    formed = dense_hessian(points[3])
    generalized_smoothness(problem, points)
    assert points[3].formed_hessian is formed


@pytest.mark.parametrize("count", marked("limit", [2, 3], [2]))
def test_hessians_of_points_that_do_not_fit_together_are_not_formed(count: int) -> None:
    """The joint bracket by products in their place: less sure, and within the limit."""
    graph = memory_limit.graph_bytes(network(1 << 30), 24)
    limit = int((count - 0.5) * memory_limit.FORMED * MATRIX) + 3 * graph
    points = shrinking(network(limit), count)
    with Held(points[0]) as held:
        found = joint_smoothness(points, gap=0.05)
    assert held.peak <= limit
    exact = joint_smoothness(shrinking(network(), count), gap=0.01)
    assert found.confidence == pytest.approx(0.999)
    assert exact.confidence == 1
    assert max(found.l1_lower, exact.l1_lower) <= min(found.l1_upper, exact.l1_upper)
    room = shrinking(network(limit + memory_limit.FORMED * MATRIX), count)
    with Held(room[0]) as held:
        assert joint_smoothness(room, gap=0.01).confidence == 1
    assert held.peak <= limit + memory_limit.FORMED * MATRIX


# -- the same answers ------------------------------------------------------------------------------


@pytest.mark.limit
def test_narrow_blocks_give_what_wide_ones_do() -> None:
    """One product at a time, of the same vectors, from other graphs."""
    wide, narrow = language_model(None), language_model(32 << 20)
    assert memory_limit.columns(wide, 5, memory_limit.BLOCK, 14) == 5
    assert memory_limit.columns(narrow, 5, memory_limit.BLOCK, 14) == 1
    one, two = (hessian_one_norm(problem, probes=20) for problem in (wide, narrow))
    assert two.value == pytest.approx(one.value, rel=1e-4)
    # There is no room for the probes' images: rows are taken to share nothing.
    assert two.interval[0] < 0.95 * one.interval[0] < one.interval[1] < 0.95 * two.interval[1]
    assert two.cost.passes > one.cost.passes
    first, second = (update_sharpness(problem, ones(problem), batch_size=2).directions for problem in (wide, narrow))
    for rule, row in first.items():
        assert second[rule].sharpness == pytest.approx(row.sharpness, rel=1e-4)
        assert second[rule].decrease == pytest.approx(row.decrease, rel=1e-4)
    bent, again = (finite_step_curvature(problem, steps=(1e-1, 1e-2)).rows for problem in (wide, narrow))
    for step, other in zip(bent, again, strict=True):
        assert other.direction == step.direction
        assert other.h == pytest.approx(step.h)
        assert other.curvature == pytest.approx(step.curvature, rel=1e-3)
        assert other.finite == pytest.approx(step.finite, rel=0.05)


@pytest.mark.limit
@pytest.mark.parametrize("vectors", [20, 40, 100, 200, 470])
def test_little_memory_gives_a_bracket_that_holds(vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One column and no basis at 20 vectors, all columns at 100, a basis at 200, rounds at 470."""
    matrix = symmetric(60, 3)
    monkeypatch.setattr(memory_limit, "vectors", lambda _: vectors)
    problem = Problem(*quadratic(matrix), forms_hessian=False)
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
    monkeypatch.setattr(memory_limit, "sums_dtype", lambda _: torch.float64)
    wide = hessian_diagonal(language_model(None), probes=16)
    monkeypatch.setattr(memory_limit, "sums_dtype", lambda _: torch.float32)
    narrow = hessian_diagonal(language_model(None), probes=16)
    for name, value in wide.vectors.items():
        torch.testing.assert_close(narrow.vectors[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()))
        error = wide.standard_error[name]
        torch.testing.assert_close(narrow.standard_error[name], error, rtol=1e-3, atol=1e-6 * float(error.max()))
    assert narrow.trace_interval == pytest.approx(wide.trace_interval, rel=1e-4)
    assert narrow.abs_sum_interval == pytest.approx(wide.abs_sum_interval, rel=1e-4)


# -- the vectors of many points --------------------------------------------------------------------


def fitted(limit: int, count: int) -> tuple[GeneralizedSmoothness, int]:
    """The result, and the most bytes of tensors at once."""
    problem = language_model(limit)
    points = shrinking(problem, count)
    with Held(problem) as held:
        held.known |= {t.untyped_storage()._cdata for point in points for t in point.parameters.values()}
        result = generalized_smoothness(problem, points, max_products=24)
    return result, held.peak


@pytest.mark.limit
def test_points_whose_vectors_do_not_fit_have_rows_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hessian is formed; the reason names a limit that is enough for the fits."""
    monkeypatch.setattr(at_a_point, "MAX_STEPS", 12)
    result, peak = fitted(40 << 20, 3)
    assert peak <= 40 << 20
    assert result.points is not None
    assert len(result.points) == 3
    assert all(row["l1_upper"] > row["l1_lower"] > 0 for row in result.points)
    assert result.l0_l1 is None
    reason = result.why["l0_l1"]
    assert "40M are too little for fits to 3 points" in reason
    enough = allowed(InputError("", "", reason))
    assert memory_limit.too_many_points(language_model(enough), 3) is None
    assert memory_limit.too_many_points(language_model(enough // 2), 3) is not None


@pytest.mark.slow
def test_points_whose_vectors_fit_stay_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_a_point, "MAX_STEPS", 12)
    limit = 220 << 20
    result, peak = fitted(limit, 6)
    assert result.l0_l1 is not None
    assert peak <= limit


@pytest.mark.parametrize("count", [6, 16])
def test_the_arrays_of_a_fit_take_what_is_counted(count: int) -> None:
    """Beside the points' own vectors; vectors count as in float32."""
    d, numbers = 50_000, np.random.default_rng(0)
    tracemalloc.start()
    points = Points(
        gradients=np.abs(numbers.standard_normal((count, d))),
        bounds=np.abs(numbers.standard_normal((count, d))),
        gaps=np.ones(count),
        norms=np.ones(count),
        norm_gaps=np.ones(count),
        exact=np.zeros((count, d), dtype=bool),
    )
    clouds = levels(points, [d], 0.05, np.ones(d))
    fit_levels(clouds.rows(np.arange(0, count, 2)))
    fit_levels(clouds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= ((memory_limit.POINT_FITTED - memory_limit.POINT) * count + memory_limit.FEWEST) * 4 * d
