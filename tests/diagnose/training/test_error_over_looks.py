"""Races that are looked at until they are decided, on made-up ones whose true speed-up is known: how often they err."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from benchmarks.made_races import made_race
from benchmarks.orders import Stop, made_stops, played
from diagnose.training.looks import SPENT
from diagnose.training.runs import LOOKS
from diagnose.training.speedup import Comparison, Curves
from tests.markers import marked

FOUR = LOOKS[:-1]
NOISE = 0.3
RACES = 200
"""Of each true speed-up; a tie, a difference that is hard to see, and one that is easy to."""
TRUTHS = (1.0, 1.3, 2.0)
ERROR, COVERAGE = 0.05, 0.93
MOST_ERRORS = int(stats.binom.ppf(0.95, RACES, ERROR))
FEWEST_HITS = int(stats.binom.ppf(0.05, RACES, COVERAGE))
"""What errors of exactly 5%, and coverage of exactly 93%, keep to in 19 of 20 sets of races."""


def errors(stops: list[Stop], truth: float) -> int:
    return sum(stop.contradicts(truth) for stop in stops)


def hits(stops: list[Stop], truth: float) -> int:
    return sum(stop.covers(truth) for stop in stops)


@cache
def stops_of(truth: float) -> list[Stop]:
    return made_stops(truth, NOISE, FOUR, SPENT[4], RACES, seed=round(10 * truth))


def best_rates_alone(pair: tuple[Curves, Curves], found: Comparison, level: float) -> float:
    """Half the width of a t interval over orders at the best rates and the target, as if both had been given."""
    logs = np.log([ratio for ratio in found.by_order if ratio is not None])
    return float(stats.t.ppf((1 + level) / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))


@pytest.mark.parametrize("truth", marked("coverage", TRUTHS, [1.0]))
def test_the_error_over_all_looks_is_five_percent_at_most(truth: float) -> None:
    assert errors(stops_of(truth), truth) <= MOST_ERRORS


@pytest.mark.parametrize("truth", marked("coverage", TRUTHS, [1.0]))
def test_the_interval_at_the_stop_covers(truth: float) -> None:
    assert hits(stops_of(truth), truth) >= FEWEST_HITS


@pytest.mark.coverage
def test_clear_differences_are_decided() -> None:
    """Or no answer at all would pass the tests above."""
    assert [stop.answer for stop in stops_of(2.0)].count("adagrad") >= 0.95 * RACES
    assert np.mean([stop.orders for stop in stops_of(2.0)]) < np.mean([stop.orders for stop in stops_of(1.3)])


@pytest.mark.coverage
def test_levels_of_five_percent_at_every_look_err() -> None:
    stops = made_stops(1.0, NOISE, FOUR, (0.05,) * len(FOUR), RACES, seed=10)
    assert errors(stops, 1.0) > MOST_ERRORS


@pytest.mark.coverage
def test_an_interval_that_ignores_the_choice_of_rates_errs() -> None:
    stops = made_stops(1.0, NOISE, FOUR, SPENT[4], RACES, best_rates_alone, seed=10)
    assert errors(stops, 1.0) > MOST_ERRORS
    assert hits(stops, 1.0) < FEWEST_HITS


def test_the_levels_of_the_looks_spend_five_percent() -> None:
    assert {len(spent): sum(spent) for spent in SPENT.values()} == pytest.approx({4: ERROR, 5: ERROR})


@pytest.mark.parametrize("truth", TRUTHS)
def test_made_up_races_have_their_speedup(truth: float) -> None:
    """On a thousand orders the rule finds what the races were made with."""
    stop = played(made_race(truth, 1000, seed=1, noise=NOISE).curves(), (1000,), (0.05,))
    assert stop.speedup == pytest.approx(truth, rel=0.06)
    assert stop.covers(truth)


def test_the_races_of_one_seed_are_the_same() -> None:
    one, other = (made_race(1.3, 3, seed=4).losses for _ in range(2))
    assert all(np.array_equal(first, second) for first, second in zip(one, other, strict=True))
