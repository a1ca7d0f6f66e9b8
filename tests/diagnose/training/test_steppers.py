"""Schedules, the box, and optimizers of the user's, each in a race and against plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.training import race, replay
from diagnose.training.legs import Contender, MemoryStore
from diagnose.training.running import Course, look, run_alone
from diagnose.training.stacking import run_stack, stackable
from diagnose.training.steppers import Factory, state_bytes
from diagnose.training.summary import summarise
from estimators.problem import Problem
from tests.diagnose.training.tasks import logistic, network, quadratic, settings

OWN: dict[str, Factory] = {
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.1),
    "Momentum": partial(torch.optim.SGD, momentum=0.9),
}


def silent(_: float) -> None:
    return None


def test_the_schedule_divides_the_rate_by_the_root_of_the_step() -> None:
    """Full-batch descent on a quadratic: w_t - w* = prod_s (1 - eta h / sqrt(s)) (w_0 - w*)."""
    h = torch.tensor([1.0, 0.3])
    problem = quadratic(h, torch.zeros(2))
    how = settings(batch_size=10_000, steps=6, schedule="inverse-sqrt")
    minimum = problem.samples[0][0] if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    left = torch.ones(2)
    path = replay(problem, Contender("sgd", 0.5, 0), how, range(7))
    for step, w, _ in path[1:]:
        left = left * (1 - 0.5 * h / math.sqrt(step))
        torch.testing.assert_close(w["w"] - minimum, -left * minimum)


@pytest.mark.parametrize("changes", [{"schedule": "inverse-sqrt"}, {"box": 0.2}])
def test_schedule_and_box_are_the_same_in_a_stack(changes: dict[str, Any]) -> None:
    problem, how = logistic(), settings(**changes)
    start = look(problem, problem.parameters)
    runs = [Contender("adagrad", 0.3, 0), Contender("sgd", 2.0, 1)]
    for run, stacked in zip(runs, run_stack(Course(problem, how, start), runs, silent), strict=True):
        alone = run_alone(Course(problem, how, start), run, silent)
        assert [*stacked.losses, stacked.d_inf] == pytest.approx([*alone.losses, alone.d_inf], rel=1e-5)
        free = run_alone(Course(problem, settings(), start), run, silent)
        assert alone.final != free.final


def test_the_box_holds_the_iterates_and_moves_with_the_start() -> None:
    problem = network()
    how = settings(box=0.05, every_rate=False)
    leg = run_alone(Course(problem, how, look(problem, problem.parameters)), Contender("adagrad", 0.3, 0), silent)
    assert leg.d_inf == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_an_optimizer_of_the_users_steps_as_in_plain_torch(name: str) -> None:
    problem = network()
    how = settings(every_rate=False, own=OWN, steps=12)
    path = replay(problem, Contender(name, 0.05, 1), how, range(13))
    leaves = {key: part.clone().requires_grad_() for key, part in problem.parameters.items()}
    optimizer = OWN[name](list(leaves.values()), lr=0.05)
    from diagnose.training.batches import batches

    for (_, w, _), index in zip(path[1:], batches(problem.n, 8, how.seed, 1), strict=False):
        optimizer.zero_grad()
        torch.autograd.backward(problem.losses(leaves, problem.take(index)).mean())
        optimizer.step()
        for key, part in w.items():
            torch.testing.assert_close(part, leaves[key].detach())


def test_an_optimizer_of_the_users_races_beside_the_others_and_is_tuned() -> None:
    how = settings(optimizers=("sgd", "adagrad", "AdamW"), own=OWN)
    part = summarise(race(logistic(), how, MemoryStore()))
    assert part.methods is not None
    entry = part.methods["AdamW"]
    assert entry["final_loss"] < (part.initial_loss or 0)
    assert entry["runs"] >= 27


def no_lr(_: list[Tensor]) -> torch.optim.Optimizer:
    raise AssertionError


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (torch.optim.LBFGS, "closure"),
        (no_lr, "cannot be made"),
        (lambda parameters, lr: None, "NoneType"),
    ],
)
def test_what_is_no_such_optimizer_is_refused_before_anything_is_trained(
    factory: Callable[..., Any], said: str
) -> None:
    store = MemoryStore()
    with pytest.raises(InputError, match=said):
        race(logistic(), settings(optimizers=("sgd", "mine"), own={"mine": factory}), store)
    assert not store.legs


def test_memory_of_the_state_in_copies_of_the_parameters() -> None:
    problem = network()
    w, size = problem.parameters, 4 * problem.d
    assert state_bytes("sgd", {}, w) == 0
    assert state_bytes("adagrad", {}, w) == size
    assert state_bytes("adagrad-norm", {}, w) == 4
    assert state_bytes("adam", {}, w) == 2 * size + 4
    assert state_bytes("Momentum", OWN, w) == size
    assert 2 * size <= state_bytes("AdamW", OWN, w) <= 2 * size + 64
    methods = summarise(race(problem, settings(), MemoryStore())).methods or {}
    assert methods["adagrad"]["state_bytes"] == size


def test_plain_networks_are_stacked_and_others_are_not() -> None:
    class Own(torch.nn.Linear):
        """May do anything in its forward."""

    assert stackable(logistic())
    assert stackable(network())
    x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
    assert not stackable(Problem(torch.nn.Sequential(Own(3, 2)), (x, y)))
    image = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.Flatten())
    assert not stackable(Problem(image, (x[:, None], y)))


def test_one_stack_trains_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(course: Any, runs: Any, tick: Any) -> Any:
        seen.append({run.method for run in runs})
        return run_stack(course, runs, tick)

    monkeypatch.setattr("diagnose.training.racing.run_stack", counted)
    race(logistic(), settings(optimizers=("sgd", "adagrad", "adam")), MemoryStore())
    assert seen[0] == {"sgd", "adagrad", "adam"}


def test_a_stacked_network_race_is_that_of_single_runs() -> None:
    how = settings(every_rate=False, stacked=True, steps=15)
    stacked = race(network(), how, MemoryStore())
    alone = race(network(), settings(every_rate=False, steps=15), MemoryStore())
    assert [leg.key for leg in stacked.legs] == [leg.key for leg in alone.legs]
    for one, other in zip(stacked.legs, alone.legs, strict=True):
        assert one.final == pytest.approx(other.final, rel=1e-4)
