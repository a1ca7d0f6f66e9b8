"""Two quadratics raced to a verdict: one made for a step size per coordinate, one where it cannot help."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diagnose.answers import answer_of
from diagnose.training import MemoryStore, race
from diagnose.training.findings import findings
from diagnose.training.summary import summarise
from tests.diagnose.training.tasks import quadratic, settings
from tests.markers import marked

D = 20


def answer(curvature: Tensor, noise: Tensor, seed: int, every_rate: bool) -> str:
    how = settings(
        steps=150,
        batch_size=16,
        seeds=8,
        evaluations=40,
        sharpness=curvature.max().item(),
        every_rate=every_rate,
    )
    ended = race(quadratic(curvature, noise, seed=seed), how, MemoryStore())
    part = summarise(ended)
    assert not [f for f in findings(ended, part) if f.code in ("lr-at-grid-edge", "all-runs-diverged")]
    return answer_of(part.speedup, part.speedup_interval)


@pytest.mark.parametrize("every_rate", [True, False])
@pytest.mark.parametrize("seed", marked("coverage", [0, 1], [0]))
def test_an_axis_aligned_ill_conditioned_quadratic_is_called_for_adagrad(seed: int, every_rate: bool) -> None:
    curvature = torch.logspace(0, -3, D)
    assert answer(curvature, 0.3 * torch.ones(D), seed, every_rate) == "adagrad"


@pytest.mark.parametrize("every_rate", marked("sweep", [True, False], [False]))
@pytest.mark.parametrize("seed", marked("coverage", [0, 1], [0]))
def test_an_isotropic_quadratic_is_not(seed: int, every_rate: bool) -> None:
    assert answer(torch.ones(D), 0.3 * torch.ones(D), seed, every_rate) != "adagrad"
