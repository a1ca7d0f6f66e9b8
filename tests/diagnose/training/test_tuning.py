"""Which rates are tried, against made-up final losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from diagnose.training.runs import Leg, RaceSettings
from diagnose.training.tuning import AROUND, GROWTHS, Run, beyond, expected_runs, first_guess, neighbours, rate_of, tune
from diagnose.training.update_rules import RULES
from tests.diagnose.training.tasks import leg, settings

Final = Callable[[float, int], float]
"""Quarter decade k and seed -> final loss; infinite for a run that diverges."""


def tuned(final: Final, race: RaceSettings, method: str = "sgd") -> tuple[dict[int, list[int]], list[list[Run]]]:
    """What was tried, k -> seeds, and the calls in order."""
    calls: list[list[Run]] = []

    def train(runs: list[Run]) -> list[Leg]:
        calls.append(list(runs))
        losses = [final(4 * math.log10(rate), seed) for rate, seed in runs]
        return [
            leg(method, rate, seed, [1.0, loss if math.isfinite(loss) else None], diverged=not math.isfinite(loss))
            for (rate, seed), loss in zip(runs, losses, strict=True)
        ]

    tuning = tune(method, race, race.seeds)
    wanted, every = next(tuning), list[Leg]()
    while wanted:
        try:
            wanted = tuning.send(train(wanted))
        except StopIteration as end:
            wanted, every = [], end.value
    tried: dict[int, list[int]] = {}
    for one in every:
        tried.setdefault(round(4 * math.log10(one.learning_rate)), []).append(one.seed)
    return tried, calls


def bowl(at: float) -> Final:
    return lambda k, seed: (k - at) ** 2 / 100


def test_rates_are_quarter_decades() -> None:
    assert [rate_of(k) for k in (-4, 0, 4)] == [0.1, 1.0, 10.0]
    assert rate_of(1) == pytest.approx(1.778, rel=1e-3)


@pytest.mark.parametrize("at", [0, 3, -3, 9, -9, 20, -20])
def test_every_rate_with_every_seed_on_a_grid_that_grows_until_the_best_is_inside(at: int) -> None:
    tried, _ = tuned(bowl(at), settings())
    ks = sorted(tried)
    assert ks == list(range(ks[0], ks[-1] + 1))
    assert ks[0] < at < ks[-1]
    assert all(seeds == [0, 1, 2] for seeds in tried.values())


def test_a_best_rate_inside_the_first_grid_ends_the_search() -> None:
    tried, calls = tuned(bowl(1), settings())
    assert len(calls) == 1
    assert sum(map(len, tried.values())) == expected_runs(settings(), 3)


def test_divergence_is_an_end_of_the_grid() -> None:
    tried, calls = tuned(lambda k, seed: -k if k < 2 else math.inf, settings())
    assert len(calls) == 1
    assert max(tried) == AROUND[True]


def test_where_all_diverge_the_grid_grows_down() -> None:
    tried, _ = tuned(lambda k, seed: (k + 12) ** 2 if k <= -8 else math.inf, settings())
    assert min(tried) < -12
    assert max(tried) == AROUND[True]


@pytest.mark.parametrize("final", [lambda k, seed: -k, lambda k, seed: k, lambda k, seed: math.inf])
def test_growth_is_bounded(final: Final) -> None:
    for race in (settings(), settings(every_rate=False)):
        _, calls = tuned(final, race)
        assert len(calls) <= GROWTHS + 2


def test_networks_half_decades_on_the_first_seed_then_the_best_and_its_neighbours() -> None:
    race = settings(every_rate=False)
    tried, calls = tuned(bowl(0), race)
    assert tried == {k: [0, 1, 2] for k in (-2, 0, 2)}
    assert all(seed == 0 for _, seed in calls[0])
    assert sum(map(len, tried.values())) == expected_runs(race, 3)


def test_networks_grow_on_the_first_seed_alone() -> None:
    tried, _ = tuned(bowl(11.9), settings(every_rate=False))
    assert {k for k, seeds in tried.items() if len(seeds) == 3} == {10, 12, 14}
    assert max(tried) == 14


def test_a_neighbour_that_diverged_on_the_first_seed_is_not_run_again() -> None:
    tried, _ = tuned(lambda k, seed: -k if k <= 2 else math.inf, settings(every_rate=False))
    assert tried[4] == [0]
    assert tried[2] == tried[0] == [0, 1, 2]


def test_where_the_mean_prefers_the_end_of_the_grid_it_grows_with_all_seeds() -> None:
    tried, _ = tuned(lambda k, seed: (k - (2 if seed == 0 else 6)) ** 2, settings(every_rate=False))
    assert {k for k, seeds in tried.items() if len(seeds) == 3} == {0, 2, 4, 6}


def test_where_the_other_seeds_diverge_lower_rates_are_tried() -> None:
    tried, _ = tuned(lambda k, seed: -k if k <= (2 if seed == 0 else -2) else math.inf, settings(every_rate=False))
    assert len(tried[-2]) == 3


def test_one_seed_needs_no_second_round() -> None:
    tried, calls = tuned(bowl(0), settings(every_rate=False, seeds=1))
    assert len(calls) == 1
    assert sum(map(len, tried.values())) == expected_runs(settings(every_rate=False, seeds=1), 1)


@pytest.mark.parametrize("every_rate", [True, False])
def test_a_fixed_list_is_run_as_it_is(every_rate: bool) -> None:
    race = settings(learning_rates=(1.0, 0.1, 1.0), every_rate=every_rate)
    tried, calls = tuned(bowl(50), race)
    assert tried == {-4: [0, 1, 2], 0: [0, 1, 2]}
    assert len(calls[0]) == expected_runs(race, 3)


def test_no_run_is_asked_for_twice() -> None:
    for final in (bowl(0), bowl(13), bowl(-13), lambda k, seed: (k - (2 if seed == 0 else 6)) ** 2):
        for every_rate in (True, False):
            _, calls = tuned(final, settings(every_rate=every_rate))
            runs = [run for call in calls for run in call]
            assert len(runs) == len(set(runs))


def test_first_guesses() -> None:
    linear, network = settings(sharpness=100.0), settings(sharpness=100.0, every_rate=False)
    assert first_guess("sgd", linear) == -8
    assert first_guess("sgd", settings(sharpness=None)) == first_guess("adagrad", linear)
    assert first_guess("sgd", settings(sharpness=0.0)) == first_guess("adagrad", linear)
    assert first_guess("sgd", settings(sharpness=1e-300)) == 32
    for method in RULES:
        assert first_guess(method, network) <= first_guess(method, linear)
        assert first_guess(method, linear) % 2 == 0


def test_beyond() -> None:
    assert beyond({0: 1.0, 1: 0.5, 2: 1.0}, [0, 1, 2], 1) == []
    assert beyond({0: 1.0, 1: 0.5}, [0, 1], 1) == [2, 3]
    assert beyond({0: 0.1, 2: 0.5}, [0, 2], 2) == [-2]
    assert beyond({0: math.inf, 2: math.inf}, [0, 2], 2) == [-2]


def test_the_neighbours_of_a_best_rate_lie_on_its_grid() -> None:
    assert neighbours(1.0, settings(), "sgd") == [rate_of(-1), rate_of(1)]
    network = settings(every_rate=False)
    assert neighbours(rate_of(2), network, "sgd") == [rate_of(0), rate_of(4)]
    # One run of all rows is exact: the grid is then what is uncertain, and it is refined.
    assert neighbours(1.0, settings(every_rate=False, batch_size=64), "sgd") == [rate_of(-1), rate_of(1)]
    fixed = settings(learning_rates=(0.1, 1.0, 0.3))
    assert neighbours(0.3, fixed, "sgd") == [0.1, 1.0]
    assert neighbours(1.0, fixed, "sgd") == [0.3]
