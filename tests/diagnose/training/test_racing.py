"""The race itself: stacked and alone, to the end, interrupted, diverging."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diagnose.training import race, replay
from diagnose.training.batches import batches
from diagnose.training.entrants import passes_of_a_run
from diagnose.training.running import Course, gradient_steps, look, run_alone, threads
from diagnose.training.runs import Contender, Leg, MemoryStore, Race, RaceSettings
from diagnose.training.stacking import run_stack, stack_size
from diagnose.training.update_rules import RULES
from estimators.errors import InputError
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import logistic, network, quadratic, settings
from tests.markers import marked

METHODS = tuple(RULES)


def numbers(leg: Leg) -> list[float]:
    """Every number of a leg."""
    columns = [*leg.losses, *leg.gradient_l1, *leg.gradient_l2, leg.d_inf, leg.d_2]
    return [math.nan if value is None else value for value in columns]


def silent(_: float) -> None:
    return None


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("make", [logistic, network, lambda: quadratic(torch.logspace(0, -2, 5), torch.ones(5))])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", marked("sweep", [8, 10_000], [8]))
def test_a_stack_of_runs_equals_single_runs(make: Callable[[], Problem], method: str, batch_size: int) -> None:
    problem, how = make(), settings(batch_size=batch_size)
    start = look(problem, problem.parameters)
    runs = [Contender(method, rate, seed) for rate, seed in [(0.03, 0), (0.1, 0), (0.1, 2), (0.15, 1)]]
    runs.insert(1, Contender("adagrad", 0.1, 1))
    stacked = run_stack(Course(problem, how, start), runs, silent)
    for run, one in zip(runs, stacked, strict=True):
        alone = run_alone(Course(problem, how, start), run, silent)
        assert (one.method, one.learning_rate, one.seed, one.steps) == (*run, alone.steps)
        assert numbers(one) == pytest.approx(numbers(alone), rel=1e-6)


@pytest.mark.usefixtures("in_float64")
def test_a_run_against_plain_torch() -> None:
    """SGD by torch.optim on the module itself, with the batches of the race."""
    problem, how = logistic(), settings(steps=25, evaluations=25)
    model = nn.Linear(6, 1, bias=False)
    nn.init.zeros_(model.weight)
    x, y = problem.samples if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, d_2 = [], 0.0

    def loss(index: slice | Tensor) -> Tensor:
        return torch.log1p(torch.exp(-y[index] * model(x[index])[:, 0])).mean()

    for _, index in zip(range(25), batches(problem.n, 8, how.seed, 1), strict=False):
        losses.append(loss(slice(None)).item())
        optimizer.zero_grad()
        torch.autograd.backward(loss(index))
        optimizer.step()
        d_2 = max(d_2, model.weight.norm().item())
    (leg,) = run_stack(Course(problem, how, look(problem, problem.parameters)), [Contender("sgd", 0.5, 1)], silent)
    losses.append(loss(slice(None)).item())
    assert leg.losses == pytest.approx([losses[step] for step in leg.steps], rel=1e-5)
    assert leg.d_2 == pytest.approx(d_2, rel=1e-5)


@pytest.mark.usefixtures("in_float64")
def test_gradient_norms_and_distances_are_those_of_the_path() -> None:
    problem, how = network(), settings(steps=12, evaluations=4, every_rate=False)
    leg = run_alone(Course(problem, how, look(problem, problem.parameters)), Contender("adagrad", 0.1, 0), silent)
    path = replay(problem, Contender("adagrad", 0.1, 0), how, range(13))
    origin = problem.flatten(problem.parameters)
    away = [problem.flatten(visit.parameters) - origin for visit in path]
    assert leg.d_inf == pytest.approx(max(a.abs().max().item() for a in away), rel=1e-6)
    assert leg.d_2 == pytest.approx(max(a.norm().item() for a in away), rel=1e-6)
    for step, loss, l1, l2 in zip(leg.steps, leg.losses, leg.gradient_l1, leg.gradient_l2, strict=True):
        there = problem.at(path[step].parameters)
        gradient = problem.flatten(there.gradient())
        assert loss == pytest.approx(there.loss(), rel=1e-6)
        assert l1 == pytest.approx(gradient.abs().sum().item(), rel=1e-5)
        assert l2 == pytest.approx(gradient.norm().item(), rel=1e-5)


@pytest.mark.usefixtures("in_float64")
def test_replay_gives_the_iterates_of_the_race() -> None:
    problem, how = logistic(), settings()
    ended = race(problem, how, MemoryStore())
    best = ended.best("sgd")[2]
    steps = (0, best.steps[5], how.steps)
    path = replay(problem, Contender("sgd", best.learning_rate, 2), how, steps)
    assert [visit.step for visit in path] == list(steps)
    for step, w, _ in path:
        assert problem.at(w).loss() == pytest.approx(best.losses[best.steps.index(step)], rel=1e-5)
    with pytest.raises(ValueError, match="outside"):
        replay(problem, Contender("sgd", 0.1, 0), how, [how.steps + 1])


@pytest.mark.usefixtures("in_float64")
def test_replay_holds_the_accumulator_of_each_point() -> None:
    """v_t = 1e-10 + g_0^2 + ... + g_{t-1}^2, each gradient read off its step: -rate g_t / sqrt(v_{t+1})."""
    problem, how = network(), settings(steps=6, evaluations=2, every_rate=False)
    path = replay(problem, Contender("adagrad", 0.1, 0), how, range(7))
    origin = path[0].state["v"]
    assert all(bool((v == 1e-10).all()) for v in origin.values())
    for name, v in path[0].state["v"].items():
        for before, after in itertools.pairwise(path):
            step = after.parameters[name] - before.parameters[name]
            gradient = -step / 0.1 * after.state["v"][name].sqrt()
            v = v + gradient.square()
            torch.testing.assert_close(after.state["v"][name], v, rtol=1e-3, atol=1e-9)
    assert replay(problem, Contender("sgd", 0.1, 0), how, [3])[0].state == {}


def test_a_seed_changes_the_batches_only() -> None:
    problem, how = logistic(), settings(optimizers=METHODS)
    ended = race(problem, how, MemoryStore())
    starts = {(leg.losses[0], leg.gradient_l1[0], leg.gradient_l2[0]) for leg in ended.legs}
    assert len(starts) == 1
    for method in METHODS:
        a, b, c = (leg.final for leg in ended.at(method, ended.rates(method)[0]))
        assert len({a, b, c}) == 3
    other = race(problem, replace(how, seed=1), MemoryStore())
    assert all(a.losses[1:] != b.losses[1:] for a, b in zip(ended.best("sgd"), other.at("sgd", 1.0), strict=False))


def test_methods_and_rates_see_the_same_batches() -> None:
    """One step from the same w: the gradients behind two rates and two methods are one and the same."""
    problem, how = logistic(), settings(steps=1, evaluations=1)
    slow, fast = (replay(problem, Contender("sgd", rate, 1), how, [1])[0].parameters for rate in (0.1, 0.2))
    norm = replay(problem, Contender("adagrad-norm", 0.1, 1), how, [1])[0].parameters
    g = slow["weight"] / -0.1
    torch.testing.assert_close(fast["weight"], -0.2 * g)
    torch.testing.assert_close(norm["weight"], -0.1 * g / g.norm())


@pytest.mark.parametrize("every_rate", [True, False])
def test_two_races_give_the_same_bits(every_rate: bool) -> None:
    how = settings(every_rate=every_rate)
    assert race(logistic(), how, MemoryStore()) == race(logistic(), how, MemoryStore())


class Interrupted(MemoryStore):
    """A store that fails after some legs, as a process that is killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def put(self, leg: Leg) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().put(Leg.from_json(leg.to_json()))


@pytest.mark.parametrize("every_rate", [True, False])
def test_an_interrupted_race_goes_on_to_the_same_bits(every_rate: bool) -> None:
    make = logistic if every_rate else network
    how = settings(every_rate=every_rate, steps=15)
    whole = race(make(), how, MemoryStore())
    store = Interrupted(5)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            race(make(), how, store)
        store.left = 4 if every_rate else 2
    store.left = 10_000
    problem = make()
    assert race(problem, how, store) == whole
    assert race(problem, how, store) == whole


def test_finished_legs_are_not_trained_again() -> None:
    store, how = MemoryStore(), settings(every_rate=False)
    race(network(), how, store)
    problem = network()
    before = problem.passes.total
    race(problem, how, store)
    assert problem.passes.total - before <= 1  # the gradient at the start


def test_with_full_batches_every_order_is_one_run() -> None:
    problem, how = logistic(), settings(batch_size=96, rows=96)
    before = problem.passes.total
    ended = race(problem, how, MemoryStore())
    assert {leg.seed for leg in ended.legs} == {0}
    assert {method: ended.count(method) for method in how.optimizers} == {"sgd": 1, "adagrad": 1}
    evaluations = len(ended.legs[0].steps) - 1
    assert problem.passes.total - before == pytest.approx(1 + len(ended.legs) * (how.steps + evaluations + 2 / 3))


@pytest.mark.usefixtures("in_float64")
def test_full_batch_gradient_descent_matches_its_closed_form() -> None:
    h = torch.logspace(0, -1, 4)
    problem = quadratic(h, torch.zeros(4))
    how = settings(batch_size=10_000, rows=256, steps=10, evaluations=10)
    leg = run_stack(Course(problem, how, look(problem, problem.parameters)), [Contender("sgd", 0.7, 0)], silent)[0]
    minimum = problem.samples[1][0] if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    for step, loss in zip(leg.steps, leg.losses, strict=True):
        assert loss == pytest.approx((0.5 * h * ((1 - 0.7 * h) ** step * minimum) ** 2).sum().item(), rel=1e-4)


def test_passes_are_those_of_batches_and_evaluations() -> None:
    problem, how = logistic(), settings(learning_rates=(0.1, 0.2), optimizers=("sgd",))
    before = problem.passes.total
    legs = race(problem, how, MemoryStore()).legs
    evaluations = len(legs[0].steps) - 1
    expected = 1 + len(legs) * (how.steps * 8 / 96 + evaluations + 2 / 3)
    assert problem.passes.total - before == pytest.approx(expected)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("every_rate", [True, False])
def test_diverging_runs_stop_early_and_leave_the_others_alone(every_rate: bool) -> None:
    h = torch.logspace(0, -1, 5)
    how = settings(learning_rates=(0.5, 5.0, 50.0), optimizers=("sgd",), every_rate=every_rate)
    ended = race(quadratic(h, 0.1 * torch.ones(5)), how, MemoryStore())
    good, bad, worst = (ended.at("sgd", rate)[0] for rate in (0.5, 5.0, 50.0))
    assert not good.diverged
    assert good.steps[-1] == how.steps
    assert bad.diverged
    assert worst.diverged
    assert 0 < worst.steps[-1] <= bad.steps[-1] < how.steps
    assert bad.losses[-1] is not None
    assert bad.losses[-1] > 1e6 * (bad.losses[0] or math.nan)
    assert all(loss is not None and loss <= (1e6 + 1) * (bad.losses[0] or math.nan) for loss in bad.losses[:-1])
    without = race(quadratic(h, 0.1 * torch.ones(5)), replace(how, learning_rates=(0.5,)), MemoryStore())
    assert numbers(good) == pytest.approx(numbers(without.legs[0]), rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("every_rate", [True, False])
def test_a_loss_that_overflows_is_null_not_infinite(every_rate: bool) -> None:
    problem = quadratic(torch.ones(3), torch.zeros(3))
    how = settings(learning_rates=(1e30,), optimizers=("sgd",), seeds=1, every_rate=every_rate)
    (leg,) = race(problem, how, MemoryStore()).legs
    assert leg.diverged
    assert leg.losses[-1] is None
    assert leg.d_2 is None or math.isfinite(leg.d_2)


@pytest.mark.parametrize("every_rate", [True, False])
def test_progress_counts_to_its_total(every_rate: bool) -> None:
    seen: list[tuple[str, float, float]] = []
    how = settings(every_rate=every_rate, steps=10)
    race(network(), how, MemoryStore(), lambda *point: seen.append(point))
    assert {stage for stage, _, _ in seen} == {"training"}
    done = [point[1] for point in seen]
    assert done == sorted(done)
    assert all(point[1] <= point[2] * (1 + 1e-9) for point in seen)
    assert done[-1] == pytest.approx(seen[-1][2])


@pytest.mark.usefixtures("in_float64")
def test_the_split_into_stacks_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    how = settings()
    whole = race(logistic(), how, MemoryStore())
    monkeypatch.setattr("diagnose.training.stacking.STACK_NUMBERS", 10 * (8 * 7 + 8 * 6))
    assert stack_size(logistic(), how) == 10
    parts = race(logistic(), how, MemoryStore())
    for one, other in zip(whole.legs, parts.legs, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-5)


def test_large_networks_evaluate_the_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diagnose.training.running.GRADIENT_LIMIT", 10)
    ended = race(network(), settings(every_rate=False, steps=5, batch_size=60, evaluations=3), MemoryStore())
    assert all(value is None for leg in ended.legs for value in (*leg.gradient_l1, *leg.gradient_l2))
    assert all(leg.losses[-1] is not None for leg in ended.legs if not leg.diverged)


@pytest.mark.parametrize(("batch_size", "taken"), [(32, 5), (31, 4), (16, 1), (8, 0)])
def test_runs_alone_take_gradients_at_as_many_evaluations_as_take_no_more_than_their_steps(
    batch_size: int, taken: int
) -> None:
    """Ten steps of 32 are five passes, as are five evaluations with the gradient of all samples."""
    problem, how = network(), settings(every_rate=False, steps=10, evaluations=5, batch_size=batch_size, seeds=1)
    before = problem.passes.total
    ended = race(problem, how, MemoryStore())
    for leg in ended.legs:
        assert len(leg.steps) == 6
        for norms in (leg.gradient_l1, leg.gradient_l2):
            first, *others = (norm is not None for norm in norms)
            assert first
            assert others == [False] * (5 - taken) + [True] * taken
    looks = (5 + 2 * taken) / 3
    assert looks <= 10 * batch_size / 64 or not taken
    each = 10 * batch_size / 64 + looks + 2 / 3
    assert not any(leg.diverged for leg in ended.legs)
    assert problem.passes.total - before == pytest.approx(1 + len(ended.legs) * each)
    assert passes_of_a_run(how, problem.d, problem.n) == pytest.approx(each)


def test_the_users_model_is_left_alone() -> None:
    problem = network()
    before = {name: part.clone() for name, part in problem.model.state_dict().items()}
    problem.model.train()
    race(problem, settings(every_rate=False, steps=5), MemoryStore())
    assert problem.model.training
    assert all(torch.equal(part, before[name]) for name, part in problem.model.state_dict().items())
    assert all(parameter.grad is None for parameter in problem.model.parameters())


def test_short_steps_use_one_thread_and_put_the_number_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for how in (settings(), settings(every_rate=False)):
            with threads(logistic(), how):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
        problem = Problem(nn.Linear(6, 1), (torch.randn(2000, 6), torch.ones(2000)), "logistic")
        with threads(problem, settings(every_rate=False, batch_size=2000)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_parameter_that_the_loss_does_not_reach_stays() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(2, 2)
            self.idle = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.used(x)
            return output

    problem = Problem(Idle(), (torch.randn(12, 2), torch.randint(0, 2, (12,))))
    for every_rate in (True, False):
        how = settings(steps=4, batch_size=4, learning_rates=(0.1,), every_rate=every_rate, stacked=False)
        ended = race(problem, how, MemoryStore())
        assert not any(leg.diverged for leg in ended.legs)
    ((_, w, _),) = replay(problem, Contender("adagrad", 0.1, 0), how, [4])
    assert torch.equal(w["idle.weight"], problem.parameters["idle.weight"])


def test_a_start_that_is_not_finite_is_refused() -> None:
    problem = logistic()
    far = problem.at({"weight": torch.full((1, 6), 3e38)})
    with pytest.raises(InputError, match="not finite"):
        race(far, settings(), MemoryStore())


@pytest.mark.usefixtures("in_float64")
def test_language_model_samples_in_a_mapping() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.out = nn.Linear(4, 7)

        def forward(self, input_ids: Tensor) -> Tensor:
            logits: Tensor = self.out(self.table(input_ids))
            return logits

    ids = torch.randint(0, 7, (20, 6), generator=torch.Generator().manual_seed(0))
    problem = Problem(Tiny(), {"input_ids": ids, "labels": ids})
    how: RaceSettings = settings(steps=6, batch_size=4, stacked=False)
    ended: Race = race(problem, how, MemoryStore())
    leg = ended.at("adagrad", ended.rates("adagrad")[3])[1]
    gradients = frozenset(gradient_steps(how, problem.d, problem.n))
    course = Course(problem, how, look(problem, problem.parameters), gradients=gradients)
    alone = run_alone(course, Contender("adagrad", leg.learning_rate, 1), silent)
    assert numbers(leg) == pytest.approx(numbers(alone), rel=1e-5, nan_ok=True)
