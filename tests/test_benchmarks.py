"""The benchmarks compare what they say they compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import diagonal, eigenvalues, noise, one_norm, products, smoothness, table, trace
from benchmarks.__main__ import BENCHMARKS
from benchmarks.estimates import Benchmark, Found, bound_in_words, off, off_number
from benchmarks.rows import estimate_rows, noise_rows, product_rows
from benchmarks.table import Row
from benchmarks.tasks import TASKS, Task
from estimators import Problem
from tests import oracles


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    samples = torch.randn(6, 5), torch.tensor([0, 1, 2, 2, 1, 0])
    return Task("tiny", model, samples, Problem(model, samples))


@pytest.fixture
def unformed(task: Task) -> None:
    """As for a model too large to form its Hessian."""
    task.problem.forms_hessian = False


@pytest.mark.parametrize("method", ["diagnose", "loop", "torch.func"])
def test_sums_of_squares(task: Task, method: str) -> None:
    wanted = oracles.per_sample_gradients((task.model, task.samples, "cross-entropy"))
    assert off(noise.METHODS[method](task), torch.from_numpy(wanted).square().sum(0)) < 1e-5


@pytest.mark.parametrize("method", ["diagnose", "double backward", "torch.func"])
def test_products(task: Task, method: str) -> None:
    block = torch.randn(task.problem.d, 2)
    from estimators.task.products import dense_hessian

    assert off(products.METHODS[method](task, block), dense_hessian(task.problem) @ block.double()) < 1e-5


def test_what_is_not_there_or_fails_is_said(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise ValueError("no\nway")

    def missing(*arguments: Any) -> None:
        raise ModuleNotFoundError(name="other")

    monkeypatch.setattr(
        noise, "METHODS", {**{k: noise.METHODS[k] for k in ("diagnose", "loop")}, "a": fails, "b": missing}
    )
    rows = {row.method: row for row in noise_rows(task, 1)}
    assert rows["a"].note == "fails: ValueError: no"
    assert rows["b"].note == "not installed: other"
    assert rows["diagnose"].error is not None
    assert rows["diagnose"].cost is not None


def test_the_table(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(products, "METHODS", {k: products.METHODS[k] for k in ("diagnose", "double backward")})
    rows = list(product_rows(task, 1))
    assert [row.error is not None and row.error < 1e-5 and row.products is None for row in rows] == [True, True]
    path = table.write(rows, "x")
    assert "| tiny | double backward |" in path.read_text()
    assert path.with_suffix(".json").is_file()


def test_the_exact_hessian(task: Task) -> None:
    wanted = torch.from_numpy(oracles.hessian((task.model, task.samples, "cross-entropy")))
    assert off(task.hessian, wanted) < 1e-5
    assert task.hessian.dtype == torch.float64


def test_the_exact_smoothness(task: Task) -> None:
    exact = oracles.smallest_diagonal(task.hessian.numpy())
    assert smoothness.reference(task) == pytest.approx(exact, rel=1e-3)
    assert smoothness.semidefinite(task, 0).value == pytest.approx(exact, rel=1e-3)


@pytest.mark.usefixtures("unformed")
@pytest.mark.parametrize(
    ("benchmark", "names", "error"),
    [
        (diagonal.BENCHMARK, ("diagnose", "diagnose, shrink", "Hutchinson"), 1.0),
        (trace.BENCHMARK, ("diagnose",), 0.5),
        (eigenvalues.LARGEST, ("diagnose", "diagnose, both ends of the spectrum"), 0.005),
        (eigenvalues.DENSITY, ("diagnose",), 0.3),
        (smoothness.BENCHMARK, ("diagnose",), 0.05),
        (smoothness.BENCHMARK, ("diagnose, to 1%",), 0.01),
        (one_norm.BENCHMARK, ("diagnose",), 0.2),
        (one_norm.BENCHMARK, ("Cauchy probes",), 0.5),
        (one_norm.BENCHMARK, ("random rows",), 1e-4),  # more rows than there are
    ],
)
def test_estimates_are_of_what_they_are_held_against(
    task: Task, benchmark: Benchmark, names: tuple[str, ...], error: float
) -> None:
    exact = benchmark.exact(task)
    for name in names:
        found = benchmark.methods[name](task, 0)
        assert benchmark.error(found.value, exact) < (1e-6 if found.level == "exact" else error)
        assert found.level == "exact" or (found.products is not None and found.products > 0)


@pytest.mark.usefixtures("unformed")
def test_what_bounds_the_smoothness_bounds_it(task: Task) -> None:
    exact = smoothness.reference(task)
    for name in ("diagnose", "row sums, Σ|Hⱼₖ|", "d·max|eig H|"):
        found = smoothness.BENCHMARK.methods[name](task, 0)
        assert found.bound is not None
        low, high = found.bound
        assert high >= exact * (1 - 1e-3)
        assert low is None or low <= exact * (1 + 1e-3)


def test_a_bound_in_words() -> None:
    numbers = [Found(2.0, 1, (1.0, 3.0), "95%"), Found(5.0, 1, (4.0, 5.0), "95%")]
    assert bound_in_words(numbers, 2.0) == "95%: +25% to ×2, held 1 of 2"
    assert bound_in_words([Found(2.0, 1, (None, 6.0), "certain")], 2.0) == "certain: at most ×3, held 1 of 1"
    entries = Found(torch.zeros(4), 1, (-torch.ones(4), torch.tensor([1.0, 1.0, 1.0, -0.5])), "95%")
    assert bound_in_words([entries], torch.zeros(4)) == "95% for each entry: 75.0% inside"
    assert bound_in_words([Found(1.0, level="residual")], 1.0) == "residual"


def test_every_round_is_another_seed_and_all_count(task: Task) -> None:
    def fails(task: Task, seed: int) -> Found:
        raise ValueError("no")

    def drawn(task: Task, seed: int) -> Found:
        return Found(1.0 + seed, 10)

    benchmark = Benchmark("x", (), {"drawn": drawn, "fails": fails}, lambda task: 1.0, off_number)
    rows = {row.method: row for row in estimate_rows(benchmark, task, 1)}
    assert rows["drawn"].error == pytest.approx((5 / 3) ** 0.5)  # seeds 0, 1, 2: off by 0, 1, 2
    assert rows["drawn"].products == 10
    assert rows["fails"].note == "fails: ValueError: no"


def test_columns_that_no_row_fills_are_left_out() -> None:
    shown = table.markdown([Row("A", "t", "Σ|H|", 1.5, error=0.1), Row("B", "t", "m", note="not installed")])
    assert "| task | method | cost, fb | relative error |" in shown
    assert "| t | Σ\\|H\\| | 1.50 | 1.0e-01 |" in shown
    assert "| t | m | not installed |" in shown


def test_every_benchmark_has_tasks_that_exist() -> None:
    assert all(tasks and set(tasks) <= set(TASKS) for tasks, _ in BENCHMARKS.values())
