"""Published values of a4a (4,781 x 123, logistic regression without bias at w = 0) that every estimator must meet."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from torch import Tensor

from estimators import Problem, hessian_diagonal, noise, smoothness, spectrum
from tests import rounding
from tests.problems import Scores

HALF = 5e-5 + rounding.bound(torch.float32, 123 + 4781)
"""Half a unit of the last digit that is published, and rounding of sums over features and rows in float32."""


def _libsvm(path: Path, features: int) -> tuple[Tensor, Tensor]:
    """Features and labels of a LIBSVM file; the smaller of the two labels becomes -1."""
    rows, labels = [], []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            fields = line.split("#")[0].split()
            if not fields:
                continue
            row = torch.zeros(features)
            for field in fields[1:]:
                index, number = field.split(":")
                row[int(index) - 1] = float(number)
            rows.append(row)
            labels.append(float(fields[0]))
    y = torch.tensor(labels)
    return torch.stack(rows), torch.where(y == y.min(), -1.0, 1.0)


@pytest.fixture(scope="module")
def a4a(data_folder: Path) -> Problem:
    model = Scores(123)
    torch.nn.init.zeros_(model.w)
    return Problem(model, _libsvm(data_folder / "a4a.gz", 123), "logistic")


def test_noise(a4a: Problem) -> None:
    result = noise(a4a)
    assert a4a.n == 4781
    assert result.l1 == pytest.approx(14.188, abs=5e-4)
    assert result.l2 == pytest.approx(1.7434, abs=HALF)
    assert (result.density or 0.0) ** 2 == pytest.approx(0.5385, abs=HALF)
    assert result.gradient_l1 is not None
    assert result.gradient_l2 is not None
    assert result.gradient_l1**2 / (123 * result.gradient_l2**2) == pytest.approx(0.2348, abs=HALF)


def test_curvature(a4a: Problem) -> None:
    result = smoothness(a4a)
    assert result.sharpness == pytest.approx(1.5682, abs=HALF)
    assert result.l1_lower is not None
    assert result.l1_upper is not None
    assert result.l1_lower <= 48.12075
    assert result.l1_upper >= 48.12065
    assert result.l1_upper <= 1.01 * result.l1_lower
    assert spectrum(a4a).largest == pytest.approx(1.5682, abs=HALF)
    assert hessian_diagonal(a4a).trace == pytest.approx(3.4663, abs=HALF)
