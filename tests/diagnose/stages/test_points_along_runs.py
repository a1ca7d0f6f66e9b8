"""Which runs the points of generalized smoothness lie on, and that another batch size gives another run."""

from __future__ import annotations

import pytest
import torch

from diagnose.settings import LARGE_NETWORK
from diagnose.stages.points_along_runs import SLOWER, SMALL, expected, places, runs
from diagnose.training.running import loss_limit
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import logistic, settings

TUNED = {"adagrad": 0.1, "sgd": 2.0}


def test_small_problems_have_three_runs_of_each_method() -> None:
    found = runs(TUNED, settings(batch_size=32, steps=500), SMALL, 1000)
    assert [run.group for run in found] == [
        "adagrad 0.1",
        "sgd 2",
        "adagrad 0.0316",
        "sgd 0.632",
        "adagrad 0.1, batch 128",
        "sgd 2, batch 128",
    ]
    assert [run.best for run in found] == [True, True, False, False, False, False]
    assert [run.contender.learning_rate for run in found] == [0.1, 2.0, 0.1 * SLOWER, 2.0 * SLOWER, 0.1, 2.0]
    assert [run.settings.batch_size for run in found] == [32] * 4 + [128] * 2
    assert {len(run.steps) for run in found} == {8}


@pytest.mark.parametrize(
    ("batch", "n", "other"),
    [(32, 1000, 128), (32, 100, 100), (99, 100, 100), (100, 100, 25), (400, 100, 25), (3, 3, 1)],
)
def test_the_other_batch_is_four_times_as_large_or_a_quarter_of_the_whole_set(batch: int, n: int, other: int) -> None:
    found = runs(TUNED, settings(batch_size=batch), SMALL, n)
    assert [run.settings.batch_size for run in found[4:]] == [other, other]
    assert found[4].group == f"adagrad 0.1, batch {other}"


def test_of_one_sample_there_is_no_other_batch() -> None:
    assert len(runs(TUNED, settings(batch_size=1), SMALL, 1)) == 4


def test_larger_problems_have_fewer_runs() -> None:
    how = settings(steps=500)
    assert [run.group for run in runs(TUNED, how, SMALL + 1, 100)] == ["adagrad 0.1", "sgd 2"]
    (one,) = runs(TUNED, how, LARGE_NETWORK + 1, 100)
    assert (one.contender.method, one.steps) == ("adagrad", (500,))
    assert [run.contender.method for run in runs({"sgd": 2.0}, how, SMALL, 100)] == ["sgd"] * 3
    assert runs({}, how, SMALL, 100) == []


def test_points_at_another_batch_size_lie_elsewhere() -> None:
    problem = logistic()
    found = places(
        problem, problem, problem, settings(), {name: {"learning_rate": rate} for name, rate in TUNED.items()}, 0
    )
    ends = {place.group: problem.flatten(place.problem.parameters) for place in found}  # the last point of each run
    assert len(ends) == 7
    assert len(found) == expected(settings(), problem.d, problem.n, problem.n)[0]
    for name in ("adagrad 0.1", "sgd 2"):
        assert not torch.equal(ends[name], ends[f"{name}, batch 32"])


def test_a_run_at_another_batch_size_ends_where_it_diverges() -> None:
    """One row of 64 is thirty times as long: a rate that the whole set allows is too large for batches of 16."""
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    x[0] *= 30
    problem = Problem(torch.nn.Linear(5, 1, bias=False), (x, x @ torch.ones(5)), "squared")
    largest = 1.5 / float(torch.linalg.eigvalsh(x.T @ x / 64).max())
    found = places(
        problem, problem, problem, settings(batch_size=64, steps=500), {"sgd": {"learning_rate": largest}}, 0
    )
    whole = [place for place in found if place.best]
    other = [place for place in found if place.group.endswith("batch 16")]
    assert len(whole) == 8
    assert len(other) < 8
    assert all(place.problem.loss() <= loss_limit(problem.loss()) for place in other)
