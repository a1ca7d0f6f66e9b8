"""The benchmarks compare what they say they compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import noise, products, table
from benchmarks.__main__ import noise_rows, off, product_rows
from benchmarks.tasks import Task
from estimators import Problem
from tests import oracles


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    samples = torch.randn(6, 5), torch.tensor([0, 1, 2, 2, 1, 0])
    return Task("tiny", model, samples, Problem(model, samples))


@pytest.mark.parametrize("method", ["diagnose", "loop", "torch.func"])
def test_sums_of_squares(task: Task, method: str) -> None:
    wanted = oracles.per_sample_gradients((task.model, task.samples, "cross-entropy"))
    assert off(noise.METHODS[method](task), torch.from_numpy(wanted).square().sum(0)) < 1e-5


@pytest.mark.parametrize("method", ["diagnose", "double backward", "torch.func"])
def test_products(task: Task, method: str) -> None:
    block = torch.randn(task.problem.d, 2)
    from estimators.products import dense_hessian

    assert off(products.METHODS[method](task, block), dense_hessian(task.problem) @ block.double()) < 1e-5


def test_what_is_not_there_or_fails_is_said(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise ValueError("no\nway")

    def missing(*arguments: Any) -> None:
        raise ImportError

    monkeypatch.setattr(
        noise, "METHODS", {**{k: noise.METHODS[k] for k in ("diagnose", "loop")}, "a": fails, "b": missing}
    )
    rows = {row.method: row for row in noise_rows(task, 1)}
    assert rows["a"].note == "fails: ValueError: no"
    assert rows["b"].note == "not installed"
    assert rows["diagnose"].error is not None
    assert rows["diagnose"].cost is not None


def test_the_table(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(products, "METHODS", {k: products.METHODS[k] for k in ("diagnose", "double backward")})
    path = table.write(list(product_rows(task, 1)), "x")
    assert "| tiny | double backward |" in path.read_text()
    assert path.with_suffix(".json").is_file()
