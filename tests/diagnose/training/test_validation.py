"""Loss and accuracy on held-out samples against plain arithmetic, alone and in a race."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diagnose.training import race, replay, running
from diagnose.training.runs import Contender, MemoryStore
from diagnose.training.validation import Score, score
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import logistic, network, settings


def test_classes_by_the_highest_output() -> None:
    problem = network()
    x, y = problem.samples if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    logits = problem.model(x)
    loss = nn.functional.cross_entropy(logits, y).item()
    right = (logits.argmax(1) == y).double().mean().item()
    found = score(problem, problem.parameters)
    assert found == pytest.approx((loss, right))


def test_two_classes_by_the_sign() -> None:
    problem = logistic()
    x, y = problem.samples if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    w = {"weight": torch.ones(1, 6)}
    assert score(problem, w).accuracy == pytest.approx(((x.sum(1) * y) > 0).double().mean().item())


def test_tokens_by_sequence_without_those_that_carry_no_label() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 3, _weight=torch.eye(3))

        def forward(self, input_ids: Tensor) -> Tensor:
            out: Tensor = self.table(input_ids)
            return out

    ids = torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1]])
    labels = torch.tensor([[0, 2, -100, -100], [1, 1, 0, -100]])
    problem = Problem(Fixed(), {"input_ids": ids, "labels": labels})
    assert score(problem, problem.parameters).accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_squared_loss_has_no_accuracy() -> None:
    problem = Problem(nn.Linear(3, 1), (torch.randn(5, 3), torch.randn(5)), "squared")
    found = score(problem, problem.parameters)
    assert found.accuracy is None
    assert found.loss == pytest.approx(problem.loss())


@pytest.mark.parametrize("stacked", [True, False])
def test_a_race_scores_the_last_iterate_of_each_run(stacked: bool) -> None:
    problem = network()
    other = network(n=40, seed=5)
    how = settings(learning_rates=(0.1, 1e9), stacked=stacked, every_rate=False, optimizers=("sgd",), steps=10)
    legs = race(problem, how, MemoryStore(), held_out=problem.with_samples(other.samples)).legs
    for leg in legs:
        if leg.diverged:
            assert leg.validation_loss is None
            assert leg.validation_accuracy is None
            continue
        ((_, w, _),) = replay(problem, Contender("sgd", leg.learning_rate, leg.seed), how, [10])
        loss, right = score(other, w)
        assert leg.validation_loss == pytest.approx(loss, rel=1e-4)
        assert leg.validation_accuracy == pytest.approx(right)
    assert any(leg.validation_loss is not None for leg in legs)
    without = race(problem, how, MemoryStore()).legs
    assert all(leg.validation_loss is None for leg in without)


def test_a_score_that_is_not_finite_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = network()
    how = settings(learning_rates=(0.1,), stacked=False, optimizers=("sgd",), steps=4)
    monkeypatch.setattr(running, "score", lambda *_: Score(math.inf, math.nan))
    legs = race(problem, how, MemoryStore(), held_out=problem.with_samples(network(n=40, seed=5).samples)).legs
    assert {(leg.validation_loss, leg.validation_accuracy) for leg in legs} == {(None, None)}
