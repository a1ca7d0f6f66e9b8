"""Schedules, the box, and optimizers of the user's, each in a race and against plain torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import MT19937, PCG64, mtrand
from torch import Tensor

import diagnose
from diagnose.errors import InputError
from diagnose.training import race, replay
from diagnose.training.optimizer_digest import digests
from diagnose.training.running import Course, look, run_alone
from diagnose.training.runs import Contender, MemoryStore, RaceSettings
from diagnose.training.stacking import grouped, run_stack, stackable
from diagnose.training.steps import Factory, state_bytes
from diagnose.training.summary import summarise
from estimators.task.problem import Problem
from reports.record.diagnosis import Diagnosis
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
    minimum = problem.samples[1][0] if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    left = torch.ones(2)
    path = replay(problem, Contender("sgd", 0.5, 0), how, range(7))
    for step, w, _ in path[1:]:
        left = left * (1 - 0.5 * h / math.sqrt(step))
        torch.testing.assert_close(problem.flatten(w) - minimum, -left * minimum)


@pytest.mark.usefixtures("in_float64")
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


class Plain(torch.optim.Optimizer):
    """w <- w - lr g, with hooks for what optimizers of users do besides."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.done = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.done += 1
        for group in self.param_groups:
            for part in group["params"]:
                part.data -= group["lr"] * self.direction(part.grad)
            group["lr"] *= self.decay()

    def direction(self, g: Tensor) -> Tensor:
        return g

    def decay(self) -> float:
        return 1.0


class Halving(Plain):
    """Halves its own learning rate after every step."""

    def decay(self) -> float:
        return 0.5


class Noisy(Plain):
    """Draws from torch's global generator, when it is made and in every step."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, lr)
        self.offset = torch.rand(())

    def direction(self, g: Tensor) -> Tensor:
        return g + 0.1 * torch.randn_like(g) + self.offset


class NoisyElsewhere(Plain):
    """Draws from the global generators of numpy and Python, one number of a pair of normal ones among them."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, lr)
        self.offset = random.random() + mtrand.standard_normal()

    def direction(self, g: Tensor) -> Tensor:
        return g + 0.1 * torch.from_numpy(mtrand.standard_normal(g.shape)).to(g) + self.offset * random.random()


class Failing(Plain):
    """Raises in the step of this number."""

    def __init__(self, parameters: list[Tensor], lr: float, when: int, error: type[BaseException] = KeyError) -> None:
        super().__init__(parameters, lr)
        self.when, self.error = when, error

    def decay(self) -> float:
        if self.done == self.when:
            raise self.error("no momentum")
        return 1.0


class ClosureByKeyword(Plain):
    """Its step cannot be called without a closure."""

    def step(self, *, closure: Callable[[], float]) -> None:  # type: ignore[override]
        raise AssertionError(closure)


@pytest.mark.parametrize("schedule", ["constant", "inverse-sqrt"])
def test_a_rate_that_the_optimizer_changes_itself_stays_changed(schedule: Any) -> None:
    """Full-batch descent: w_t - w* = prod_s (1 - eta h / (2^(s-1) root_s)) (w_0 - w*), root_s 1 or sqrt(s)."""
    h = torch.tensor([1.0, 0.3])
    problem = quadratic(h, torch.zeros(2))
    minimum = problem.samples[1][0] if isinstance(problem.samples, tuple) else pytest.fail("a pair")
    how = settings(batch_size=10_000, steps=6, schedule=schedule, own={"mine": Halving})
    left = torch.ones(2)
    for step, w, _ in replay(problem, Contender("mine", 0.5, 0), how, range(7))[1:]:
        root = math.sqrt(step) if schedule == "inverse-sqrt" else 1.0
        left = left * (1 - 0.5 * h / (2 ** (step - 1) * root))
        torch.testing.assert_close(problem.flatten(w) - minimum, -left * minimum)


def ends(problem: Problem, how: Any, *runs: Contender) -> list[Tensor]:
    return [problem.flatten(replay(problem, run, how, [how.steps])[0].parameters) for run in runs]


def test_random_numbers_of_an_optimizer_follow_the_run_and_leave_the_users_alone() -> None:
    how = settings(every_rate=False, own={"mine": Noisy, "other": Noisy}, steps=5, batch_size=1000)
    run, problem = Contender("mine", 0.05, 0), network()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = ends(problem, how, run)[0]
    state_bytes("mine", how.own, problem.parameters)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    changed = [run._replace(seed=1), run._replace(method="other"), run._replace(learning_rate=0.0500001)]
    again, *others = ends(problem, how, run, *changed)
    others += ends(problem, replace(how, seed=1), run)
    assert torch.equal(first, again)
    for other in others:
        assert (other - first).abs().max() > 1e-3


@pytest.mark.parametrize("bits", [MT19937, PCG64])
def test_random_numbers_of_numpy_and_python_follow_the_run_too(bits: Any) -> None:
    how = settings(every_rate=False, own={"mine": NoisyElsewhere}, steps=5, batch_size=1000)
    run, problem, kept = Contender("mine", 0.05, 0), network(), mtrand.get_bit_generator()
    mtrand.set_bit_generator(bits(7))
    try:
        random.seed(7)
        mtrand.standard_normal()  # the other one of its pair is drawn next
        before = repr(mtrand.get_state(legacy=False)), random.getstate()
        first = ends(problem, how, run)[0]
        state_bytes("mine", how.own, problem.parameters)
        with pytest.raises(InputError):
            ends(problem, replace(how, own={"mine": partial(Failing, when=3)}), run)
        assert (repr(mtrand.get_state(legacy=False)), random.getstate()) == before
        mtrand.standard_normal(3), random.random()
        again, other = ends(problem, how, run, run._replace(seed=1))
    finally:
        mtrand.set_bit_generator(kept)
    assert torch.equal(first, again)
    assert (other - first).abs().max() > 1e-3


def test_steps_of_one_run_draw_different_numbers() -> None:
    problem = quadratic(torch.zeros(3), torch.zeros(3))
    how = settings(batch_size=10_000, own={"mine": Noisy}, steps=3)
    path = [problem.flatten(visit.parameters) for visit in replay(problem, Contender("mine", 1.0, 0), how, range(4))]
    moves = [after - before for before, after in pairwise(path)]
    assert (moves[0] - moves[1]).abs().max() > 1e-3
    assert (moves[1] - moves[2]).abs().max() > 1e-3


def test_on_full_batches_a_random_optimizer_runs_every_seed_and_a_rule_one() -> None:
    how = settings(
        every_rate=False,
        batch_size=1000,
        rows=64,
        learning_rates=(0.05,),
        steps=5,
        optimizers=("sgd", "mine"),
        own={"mine": Noisy},
    )
    store = MemoryStore()
    ended = race(network(), how, store)
    assert sorted(leg.seed for leg in store.legs.values() if leg.method == "mine") == [0, 1, 2]
    assert [leg.seed for leg in store.legs.values() if leg.method == "sgd"] == [0]
    assert len({leg.final for leg in ended.of("mine")}) == 3
    assert len({leg.final for leg in ended.of("sgd")}) == 1
    assert [ended.count(method) for method in ("sgd", "mine")] == [1, 3]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError, InputError),
        (RuntimeError, InputError),
        (SystemExit, InputError),
        (MemoryError, MemoryError),
        (type("OutOfMemoryError", (RuntimeError,), {}), RuntimeError),
        (KeyboardInterrupt, KeyboardInterrupt),
    ],
)
def test_what_a_later_step_raises_is_told_by_the_optimizers_name(
    error: type[BaseException], told: type[BaseException]
) -> None:
    how = settings(own={"mine": partial(Failing, when=3, error=error)}, steps=5, every_rate=False)
    with pytest.raises(told, match="no momentum") as raised:
        ends(network(), how, Contender("mine", 0.05, 0))
    assert type(raised.value) is (InputError if told is InputError else error)
    if isinstance(raised.value, InputError):
        assert raised.value.where == "optimizer mine"


def made(decay: float) -> Factory:
    return lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, weight_decay=decay)


class Made:
    """A callable object that makes the optimizer."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def __call__(self, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr, weight_decay=self.decay)


SAME_NAME: list[Callable[[], Factory]] = [
    lambda: partial(torch.optim.SGD, momentum=0.9),
    lambda: partial(torch.optim.SGD, weight_decay=5.0),
    lambda: partial(torch.optim.SGD, momentum=0.8),
    lambda: partial(partial(torch.optim.SGD, momentum=0.9), nesterov=True),
    lambda: torch.optim.SGD,
    lambda: Plain,
    lambda: Halving,
    lambda: made(0.1),
    lambda: made(0.2),
    lambda: Made(0.1),
    lambda: Made(0.2),
    lambda: Made(0.1).__call__,
]


def test_optimizers_of_one_name_have_digests_of_their_own_and_keep_them() -> None:
    found = [digests({"mine": make()})["mine"] for make in SAME_NAME]
    assert len(set(found)) == len(SAME_NAME)
    assert found == [digests({"mine": make()})["mine"] for make in SAME_NAME]


def test_a_folder_of_another_optimizer_of_the_same_name_is_refused(tmp_path: Path) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    model, y = torch.nn.Linear(3, 2), (x[:, 0] > 0).long()

    def run(**changes: Any) -> Diagnosis:
        optimizer = partial(torch.optim.SGD, **changes)
        return diagnose.run(
            model, (x, y), steps=3, seeds=1, optimizers=["adagrad", optimizer], out=str(tmp_path / "of")
        )

    first = run(momentum=0.9)
    assert first.settings["own_optimizers"].keys() == {"SGD"}
    assert run(momentum=0.9).cost.seconds == first.cost.seconds  # taken from the folder
    with pytest.raises(InputError, match="own_optimizers"):
        run(weight_decay=5.0)


def test_a_digest_ends_where_a_function_holds_itself() -> None:
    def again(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        return again(parameters, lr) if lr > 1 else torch.optim.SGD(parameters, lr=lr)

    assert len(digests({"again": again})["again"]) == 64


def no_lr(_: list[Tensor]) -> torch.optim.Optimizer:
    raise AssertionError


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (torch.optim.LBFGS, "closure"),
        (no_lr, "raised TypeError"),
        (lambda parameters, lr: None, "NoneType"),
        (lambda parameters, lr: ClosureByKeyword(parameters, lr), "closure"),
        (lambda parameters, lr: Failing(parameters, lr, 1), "raised KeyError: 'no momentum'"),
        (lambda parameters, lr: torch.optim.Optimizer(parameters, {"rate": lr}), "without `lr`"),
        (lambda parameters, lr: [][int(lr)], "raised IndexError"),
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

    monkeypatch.setattr("diagnose.training.entrants.run_stack", counted)
    race(logistic(), settings(optimizers=("sgd", "adagrad", "adam")), MemoryStore())
    assert seen[0] == {"sgd", "adagrad", "adam"}


def test_all_runs_of_rules_are_trained_together() -> None:
    how = settings(optimizers=("sgd", "adam", "own"), own={"own": torch.optim.SGD}, stacked=True)
    sgd, adam, own = ([Contender(name, 0.1, seed) for seed in range(9)] for name in ("sgd", "adam", "own"))

    def sizes(runs: list[Contender], how: RaceSettings) -> list[int]:
        groups = grouped(logistic(), how, runs)
        assert sorted(run for group in groups for run in group) == sorted(runs)
        return [len(group) for group in groups]

    assert sizes(sgd[:1], how) == [1]
    assert sizes(sgd[:4], how) == [4]
    assert sizes(sgd[:1] + adam[:1], how) == [2]
    assert sizes(sgd[:2] + adam[:3] + own[:1], how) == [5, 1]
    assert sizes(own, how) == [1] * 9
    assert sizes(sgd, replace(how, stacked=False)) == [1] * 9


@pytest.mark.usefixtures("in_float64")
def test_a_stacked_network_race_is_that_of_single_runs() -> None:
    how = settings(every_rate=False, stacked=True, steps=15)
    stacked = race(network(), how, MemoryStore())
    alone = race(network(), settings(every_rate=False, steps=15), MemoryStore())
    assert [leg.key for leg in stacked.legs] == [leg.key for leg in alone.legs]
    for one, other in zip(stacked.legs, alone.legs, strict=True):
        assert one.final == pytest.approx(other.final, rel=1e-4)
