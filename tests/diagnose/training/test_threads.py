"""Short work is done on one thread, and the number of threads is put back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

import diagnose
from diagnose import pipeline
from diagnose.stages.order import STAGES
from diagnose.training.threads import one_thread, short
from estimators.task.problem import Problem


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_is_put_back() -> None:
    with contextlib.suppress(ValueError), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == 2
    with one_thread(False):
        assert torch.get_num_threads() == 2


def linear(features: int, rows: int, forms_hessian: bool = True) -> Problem:
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(0))
    return Problem(nn.Linear(features, 2), (x, torch.zeros(rows, dtype=torch.long)), forms_hessian=forms_hessian)


def test_what_is_short() -> None:
    assert short(linear(100, 50))
    assert not short(linear(100, 500_000))
    assert not short(linear(600, 50))
    assert short(linear(600, 50, forms_hessian=False))
    images = torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    assert not short(Problem(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)), images))


@pytest.mark.usefixtures("two_threads")
def test_stages_of_a_small_model_work_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}

    def watched(stage: str) -> Any:
        def measure(*args: Any) -> Any:
            seen[stage] = torch.get_num_threads()
            return STAGES[stage](*args)

        return measure

    monkeypatch.setattr(pipeline, "STAGES", {stage: watched(stage) for stage in STAGES})
    diagnose.run("logreg", "breast-cancer", training=False)
    assert seen.pop("training") == 2
    assert set(seen.values()) == {1}
    assert torch.get_num_threads() == 2
