"""Logistic regression on a4a against reference values from 40 seeds, and from gradient descent itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_svmlight_file
from torch import nn

from diagnose.answers import answer_of
from diagnose.training import MemoryStore, Race, race
from diagnose.training.findings import findings
from diagnose.training.runs import mean_final
from diagnose.training.summary import summarise
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import settings

MINIMUM = 0.319270
FEATURES = 123


@pytest.fixture(scope="module")
def a4a(data_folder: Path) -> Problem:
    x, y = load_svmlight_file(str(data_folder / "a4a.gz"), n_features=FEATURES)
    labels = np.where(y > 0, 1.0, -1.0)
    model = nn.Linear(FEATURES, 1, bias=False)
    nn.init.zeros_(model.weight)
    return Problem(model, (torch.tensor(x.toarray()).float(), torch.tensor(labels).float()), "logistic")


@pytest.fixture(scope="module")
def batches_of_256(a4a: Problem) -> Race:
    how = settings(
        steps=187,
        batch_size=256,
        rows=a4a.n,
        seeds=8,
        evaluations=40,
        optimizers=("sgd", "adagrad", "adagrad-norm"),
        sharpness=1.5682,
    )
    return race(a4a, how, MemoryStore())


@pytest.mark.coverage
@pytest.mark.parametrize(
    ("method", "excess", "error"),
    [("sgd", 0.01378, 0.00076), ("adagrad", 0.00366, 0.00027), ("adagrad-norm", 0.01248, 0.00050)],
)
def test_final_losses_at_batches_of_256(batches_of_256: Race, method: str, excess: float, error: float) -> None:
    """``error`` is the standard error of 40 seeds; 8 seeds have the square root of 5 times as much."""
    final = mean_final(batches_of_256.best(method)) - MINIMUM
    assert abs(final - excess) <= 3 * math.sqrt(5) * error


@pytest.mark.coverage
def test_speedup_at_batches_of_256(batches_of_256: Race) -> None:
    part = summarise(batches_of_256)
    assert part.speedup is not None
    assert abs(math.log(part.speedup / 6.4)) <= 3 * 0.25 / math.sqrt(8)
    assert answer_of(part.speedup, part.speedup_interval) == "adagrad"
    assert "lr-at-grid-edge" not in {finding.code for finding in findings(batches_of_256, part)}


def test_full_batches_to_the_last_digit(a4a: Problem) -> None:
    how = settings(
        steps=200,
        batch_size=a4a.n,
        rows=a4a.n,
        seeds=1,
        evaluations=40,
        optimizers=("sgd", "adagrad", "adagrad-norm"),
        sharpness=1.5682,
    )
    ended = race(a4a, how, MemoryStore())
    expected = {"sgd": (10 ** (1 / 4), 0.00973), "adagrad": (1.0, 0.00052), "adagrad-norm": (10 ** (3 / 4), 0.00807)}
    for method, (rate, excess) in expected.items():
        best = ended.best(method)
        assert best[0].learning_rate == rate
        assert mean_final(best) - MINIMUM == pytest.approx(excess, abs=2e-5)
    assert summarise(ended).speedup == pytest.approx(15.6, abs=0.5)
