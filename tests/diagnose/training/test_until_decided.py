"""The race goes on, block by block of orders, until it is decided; what runs further, what the store gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from diagnose.training import MemoryStore, Race, RaceSettings, race
from diagnose.training.looks import SPENT, level, seeds_that_tell
from diagnose.training.pairs import best_other, best_rates, lowest_rate
from diagnose.training.racing import finished
from diagnose.training.runs import LOOKS, Leg
from diagnose.training.summary import summarise
from diagnose.training.tuning import neighbours
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import logistic, network, quadratic, settings

METHODS = ("sgd", "adagrad", "adagrad-norm", "adam")


def far() -> Problem:
    """A quadratic with one coordinate far away and little noise: SGD wins at once."""
    return quadratic(torch.ones(4), 0.01 * torch.ones(4), seed=3)


def auto(**changes: Any) -> RaceSettings:
    return settings(optimizers=METHODS, auto=True, steps=30, **changes)


class Counting(MemoryStore):
    """A store that counts the runs that were trained."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = 0

    def put(self, leg: Leg) -> None:
        self.trained += 1
        super().put(leg)


@pytest.mark.parametrize("looks", [4, 5])
def test_the_looks_spend_a_twentieth_together(looks: int) -> None:
    assert sum(SPENT[looks]) == pytest.approx(0.05)
    how = settings(auto=True, stacked=looks == 5)
    assert how.blocks == LOOKS[:looks]
    assert [level(how, orders) for orders in how.blocks] == pytest.approx([1 - share for share in SPENT[looks]])
    assert level(settings(seeds=7), 7) == 0.95


def test_a_fixed_number_of_orders_is_run_in_the_same_blocks() -> None:
    assert settings(seeds=3).blocks == (3,)
    assert settings(seeds=4).blocks == (4,)
    assert settings(seeds=20).blocks == (4, 8, 16, 20)


@pytest.mark.parametrize("every_rate", [True, False])
def test_it_ends_at_the_first_look_that_decides(every_rate: bool) -> None:
    ended = race(far(), auto(every_rate=every_rate), MemoryStore())
    assert [look.answer for look in ended.looks][:-1] == ["undecided"] * (len(ended.looks) - 1)
    assert ended.looks[-1].answer != "undecided"
    assert ended.decided_by == "interval"
    assert ended.looks[-1].orders == ended.count("sgd") == ended.count("adagrad")
    part = summarise(ended)
    assert part.speedup_interval == ended.looks[-1].interval
    assert [row["orders"] for row in part.looks or ()] == list(LOOKS[: len(ended.looks)])


def undecided(**changes: Any) -> Race:
    """Two orders of magnitude of noise: four orders say nothing."""
    return race(quadratic(torch.ones(4), 3 * torch.ones(4), seed=1), auto(**changes), MemoryStore())


@pytest.mark.parametrize("stacked", [False, True])
def test_further_orders_are_run_by_the_pair_and_the_best_other_at_rates_that_may_be_best(stacked: bool) -> None:
    """In stacks the neighbours of the best go on too; alone they have the first block, unless they may be best."""
    ended = undecided(stacked=stacked)
    assert len(ended.looks) > 1
    last = ended.looks[-1].orders
    assert ended.count("sgd") == ended.count("adagrad") == last
    others = {name for name in METHODS if ended.count(name) == LOOKS[0]}
    assert others
    assert others <= set(METHODS) - {"sgd", "adagrad"}
    for name in METHODS:
        full, tried = set(ended.full(name)), set(ended.rates(name))
        assert full < tried or name in others
        assert {len(ended.at(name, rate)) for rate in tried} <= {*LOOKS, 1}
        # Each best rate lies inside: its neighbours have all orders too, or diverged.
        for rate in {best_rates(ended)[name], lowest_rate(ended, name) or 0.0}:
            assert rate in full
            assert set(neighbours(rate, ended.settings, name)) <= (full if stacked else set(ended.judged(name)))
    if not stacked:
        assert len(ended.full("sgd")) < 3
    assert best_other(ended) in METHODS


def test_with_a_fixed_number_every_method_has_all_orders() -> None:
    ended = race(logistic(), settings(optimizers=METHODS, seeds=6), MemoryStore())
    assert {ended.count(name) for name in METHODS} == {6}
    assert all(ended.best(name) for name in METHODS)
    assert [look.orders for look in ended.looks] == [6]
    assert ended.decided_by in ("interval", "orders")


def test_more_orders_train_the_new_block_alone() -> None:
    store, how = Counting(), settings(optimizers=METHODS, seeds=4)
    first = race(logistic(), how, store)
    trained = store.trained
    more = race(logistic(), replace(how, seeds=8), store)
    assert 0 < store.trained - trained <= 4 * sum(len(more.full(name)) for name in METHODS)
    kept = {leg.key: leg for leg in more.legs if leg.seed < 4}
    assert all(kept[leg.key] == leg for leg in first.legs)
    fresh = race(logistic(), replace(how, seeds=8), MemoryStore())
    assert more == fresh


def test_a_run_of_another_course_is_not_taken_over() -> None:
    store, how = Counting(), settings(seeds=4)
    race(logistic(), how, store)
    trained = store.trained
    race(logistic(), replace(how, steps=20), store)
    assert store.trained == trained + len(race(logistic(), replace(how, steps=20), MemoryStore()).legs)


def test_where_no_further_block_can_be_afforded_the_race_ends() -> None:
    asked: list[float] = []

    def never(passes: float) -> bool:
        asked.append(passes)
        return False

    noisy = quadratic(torch.ones(4), 3 * torch.ones(4), seed=1)
    ended = race(noisy, auto(), MemoryStore(), affordable=never)
    assert len(asked) == 1
    assert asked[0] > 0
    assert ended.decided_by == "budget"
    assert [look.orders for look in ended.looks] == [4]
    fixed = race(noisy, settings(seeds=16), MemoryStore(), affordable=never)
    assert (fixed.decided_by, [look.orders for look in fixed.looks]) == ("budget", [4])


@pytest.mark.parametrize(("limited", "ended_by"), [(False, "orders"), (True, "budget")])
def test_a_race_on_the_orders_that_a_budget_left_has_spent_it(limited: bool, ended_by: str) -> None:
    noisy = quadratic(torch.ones(4), 3 * torch.ones(4), seed=1)
    assert race(noisy, settings(seeds=2, limited=limited), MemoryStore()).decided_by == ended_by


def test_of_a_race_that_was_stopped_the_orders_are_left_that_every_run_has() -> None:
    whole, how = MemoryStore(), auto()
    race(network(), how, whole)

    def left(away: Callable[[Leg], bool]) -> tuple[MemoryStore, RaceSettings | None]:
        store = MemoryStore()
        store.legs = {key: leg for key, leg in whole.legs.items() if not away(leg)}
        return store, finished(network(), how, store)

    store, three = left(lambda leg: leg.seed > 2)
    assert three is not None
    assert (three.blocks, three.optimizers) == ((3,), METHODS)
    ended = race(network(), three, store)
    assert ended == race(network(), three, MemoryStore())
    assert ended.looks[-1].interval is None
    assert summarise(ended).speedup is not None

    store, one = left(lambda leg: leg.seed > 0 and leg.method == "adagrad")
    assert one is not None
    assert one.blocks == (1,)
    assert race(network(), one, store) == race(network(), one, MemoryStore())
    _, pair = left(lambda leg: leg.method == "adam")
    assert pair is not None
    assert pair.optimizers == ("sgd", "adagrad")
    lowest = min(leg.learning_rate for leg in whole.legs.values() if leg.method == "adagrad")
    _, none = left(lambda leg: leg.method == "adagrad" and leg.learning_rate == lowest)
    assert none is None


def test_full_batches_are_raced_once_on_a_grid_of_quarter_decades() -> None:
    how = replace(auto(every_rate=False), batch_size=64)
    ended = race(network(), how, MemoryStore())
    assert {leg.seed for leg in ended.legs} == {0}
    assert ended.decided_by is None
    assert ended.looks[-1].interval is None
    for name in METHODS:
        rate = best_rates(ended)[name]
        assert set(neighbours(rate, how, name)) <= set(ended.rates(name))
    part = summarise(ended)
    assert part.speedup is not None
    assert "the same run" in part.why["speedup_interval"]


def test_seeds_that_tell() -> None:
    part = summarise(undecided())
    wide = replace(part, speedup=1.5, speedup_interval=(0.75, 3.0), looks=[{"orders": 8}])
    # log 2 against log 1.5: (0.693/0.405)² × 8 = 23.4.
    assert seeds_that_tell(wide) == 24
    narrow = replace(part, speedup=1.0, speedup_interval=(0.7, 1 / 0.7), looks=[{"orders": 16}])
    # To lie within 0.8 to 1.25: (0.357/0.223)² × 16 = 40.9.
    assert seeds_that_tell(narrow) == 41
    assert seeds_that_tell(replace(wide, speedup_interval=None, looks=[{"orders": 2}])) == 4
    assert seeds_that_tell(replace(wide, speedup=1.15, speedup_interval=(0.1, 13.0))) is None
