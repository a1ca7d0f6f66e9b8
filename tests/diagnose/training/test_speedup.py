"""The rule of the race against the same rule written out in loops, and the summary on cases worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diagnose.training.pairs import best_other, compared, curves
from diagnose.training.runs import Race, evaluation_steps, rows
from diagnose.training.speedup import (
    FLOOR,
    TARGETS,
    Curves,
    compare,
    ends_lowest,
    halves,
    neighbours,
    smoother,
    steps_to,
)
from diagnose.training.summary import summarise, t_interval, tuning_range
from tests.diagnose.training.tasks import made_race
from tests.race_rule import Rule, rule, standard_error
from tests.statistics import assert_covers, fewest

STEPS = (0, 1, 2, 3, 5, 8, 12, 18, 27, 40)
SLOW, FAST = [10.0, 6.0, 2.0], [10.0, 2.5, 1.0]
"""Two evaluations after the start: nothing is smoothed."""


def noisy(paces: Mapping[str, Mapping[float, float]], orders: int, noise: float = 0.1, seed: int = 0) -> Race:
    """Losses 1/(1 + pace t) with log-normal noise, a pace for each method and rate."""
    rng = np.random.default_rng(seed)
    t = np.array(STEPS)
    made = {
        method: {
            rate: [
                [1.0, *(np.exp(noise * rng.standard_normal(len(t) - 1)) / (1 + pace * t[1:])).tolist()]
                for _ in range(orders)
            ]
            for rate, pace in rates.items()
        }
        for method, rates in paces.items()
    }
    return stepped(made_race(made))


def stepped(race: Race) -> Race:
    return replace(race, legs=tuple(replace(leg, steps=STEPS) for leg in race.legs))


PACES = {"sgd": {0.1: 0.2, 0.3: 0.5, 1.0: 0.4}, "adagrad": {0.01: 0.5, 0.03: 1.0, 0.1: 0.9}}


def both(race: Race, other: str = "sgd") -> tuple[Any, Rule]:
    found, why = compared(race, other, targets=True)
    assert found is not None, why
    return found, rule(rows(race), other)


@pytest.mark.parametrize("orders", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_the_rule_is_that_of_the_loops(orders: int, seed: int) -> None:
    found, expected = both(noisy(PACES, orders, seed=seed))
    assert found.target == pytest.approx(expected.target, rel=1e-12)
    assert found.rates == expected.rates
    assert found.steps == pytest.approx(expected.steps, rel=1e-9)
    assert found.speedup == pytest.approx(math.exp(expected.log_speedup), rel=1e-9)


@pytest.mark.parametrize("orders", [4, 6, 8])
def test_the_standard_error_is_that_of_every_half(orders: int) -> None:
    race = noisy(PACES, orders)
    found, _ = both(race)
    assert found.error == pytest.approx(standard_error(rows(race), orders), rel=1e-9)
    low, high = found.interval(0.9)
    wide = stats.t.ppf(0.95, orders - 1) * found.error
    assert (low, high) == pytest.approx((found.speedup * math.exp(-wide), found.speedup * math.exp(wide)))


def test_an_odd_number_of_orders_is_scaled_to_the_whole() -> None:
    """Two of five vary as much around the mean of five as 1.5 times the mean of five around the truth."""
    race = noisy(PACES, 5)
    found, expected = both(race)
    away = [
        rule(rows(race), "sgd", half).log_speedup - expected.log_speedup for half in itertools.combinations(range(5), 2)
    ]
    assert found.error == pytest.approx(math.sqrt(np.mean(np.square(away)) * 2 / 3), rel=1e-9)


def test_halves_average_half_of_the_orders() -> None:
    assert halves(3).shape == (0, 3)
    for orders, count in ((4, 6), (5, 10), (8, 70), (16, 200), (64, 200)):
        weights = halves(orders)
        assert weights.shape == (count, orders)
        assert weights.sum(1) == pytest.approx(np.ones(count))
        assert ((weights > 0).sum(1) == orders // 2).all()
        assert len({tuple(row) for row in weights}) == count or orders > 8


def test_a_power_of_the_step_is_smoothed_to_itself() -> None:
    steps = np.array(STEPS, dtype=float)
    line = 2 - 0.7 * np.log(np.maximum(steps, 0.5))
    assert smoother(steps, neighbours(steps)) @ line == pytest.approx(line)
    assert (smoother(steps[:3], neighbours(steps[:3])) == np.eye(3)).all()


@pytest.mark.parametrize(
    ("steps", "evaluations", "width"), [(2000, 80, 11), (500, 80, 13), (2000, 40, 5), (500, 40, 7), (60, 12, 5)]
)
def test_neighbours_lie_within_half_a_unit_of_the_logarithm_of_the_step(
    steps: int, evaluations: int, width: int
) -> None:
    near = neighbours(np.array(evaluation_steps(steps, evaluations), dtype=float))
    assert near.shape[1] == width
    assert near[1:].min() == 1
    assert near[0].tolist() == [0] * width


def test_a_curve_that_stands_still_is_not_smoothed_below_where_it_stands() -> None:
    falling = [1.0, 0.9, 0.6, 0.3, 0.1, 0.05, 0.02, 0.01, 0.01, 0.01]
    race = stepped(made_race({"sgd": {1.0: [falling]}, "adagrad": {1.0: [falling]}}))
    found, _ = both(race)
    assert found.lowest == pytest.approx((0.01, 0.01))


def test_the_interval_covers_and_one_of_fixed_rates_does_not() -> None:
    """Truth from 4,000 orders. The choice of the rate is a part of the error: without it the interval is too narrow."""
    paces = {"sgd": {0.1: 0.48, 0.3: 0.5, 1.0: 0.49}, "adagrad": {0.01: 0.97, 0.03: 1.0, 0.1: 0.99}}
    truth, _ = compared(noisy(paces, 4000, noise=0.3, seed=99), "sgd")
    assert truth is not None
    held = fixed = 0
    repeats = 200
    for seed in range(repeats):
        race = noisy(paces, 8, noise=0.3, seed=seed)
        found, _ = compared(race, "sgd")
        assert found is not None
        low, high = found.interval() or pytest.fail("an interval")
        held += low <= truth.speedup <= high
        logs = np.log([value for value in found.by_order if value is not None])
        narrow = stats.t.interval(0.95, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs))
        fixed += narrow[0] <= math.log(truth.speedup) <= narrow[1]
    assert_covers(held, repeats, 0.93)
    assert fixed < fewest(repeats, 0.93)


def test_swapping_the_methods_inverts_the_speedup() -> None:
    race = noisy(PACES, 4)
    sgd, adagrad = (curves(race, method, 4) for method in ("sgd", "adagrad"))
    assert sgd is not None
    assert adagrad is not None
    one, _ = compare(sgd, adagrad)
    other, _ = compare(adagrad, sgd)
    assert one is not None
    assert other is not None
    assert one.speedup == pytest.approx(1 / other.speedup)
    assert one.error == pytest.approx(other.error)


def test_the_speedup_by_target_ends_in_the_headline() -> None:
    found, _ = both(noisy(PACES, 8))
    assert len(found.by_target) == TARGETS
    last = found.by_target[-1]
    assert (last.loss, last.log_speedup, last.error) == pytest.approx(
        (found.target, math.log(found.speedup), found.error)
    )
    losses = [row.loss for row in found.by_target]
    assert np.diff(np.log([1.0, *losses])) == pytest.approx(np.full(TARGETS, math.log(found.target) / TARGETS))


def test_each_target_has_the_rates_that_are_best_for_it() -> None:
    """Of AdaGrad's two rates one is early and stops, the other late and low."""
    early, late = [1.0, 0.5, 0.45, 0.44], [1.0, 0.9, 0.5, 0.05]
    race = made_race({"sgd": {1.0: [[1.0, 0.8, 0.3, 0.05]]}, "adagrad": {0.1: [early], 1.0: [late]}})
    race = replace(race, legs=tuple(replace(leg, steps=(0, 1, 10, 100)) for leg in race.legs))
    found, _ = both(race)
    adagrad = curves(race, "adagrad", 1) or pytest.fail("no curves")
    rates = [(steps_to(adagrad, row.loss) or (0.0, 0.0))[1] for row in found.by_target]
    assert (rates[0], rates[-1]) == (0.1, 1.0)


# -- target -----------------------------------------------------------------------------------------------


def test_target_steps_and_speedup_by_hand() -> None:
    """Target 2, SGD's best, met at its last step; AdaGrad is there a third of the way from 2.5 to 1."""
    part = summarise(made_race({"sgd": {0.1: [SLOW]}, "adagrad": {0.1: [FAST]}}))
    assert part.target_loss == 2.0
    assert part.target_floored is False
    assert part.speedup == pytest.approx(2 / 2 ** (1 / 3))
    assert part.speedup_interval is None
    assert "4 orders" in part.why["speedup_interval"]
    assert part.initial_loss == 10.0
    assert part.curves_file == "runs.csv"
    methods = part.methods or {}
    assert methods["sgd"]["steps_to_target"] / methods["adagrad"]["steps_to_target"] == part.speedup


def test_the_best_rate_meets_the_target_first_and_another_may_end_lower() -> None:
    early = [10.0, 1.9, 1.8]
    part = summarise(made_race({"sgd": {0.1: [SLOW]}, "adagrad": {0.1: [FAST], 1.0: [early]}}))
    entry = (part.methods or {})["adagrad"]
    assert (entry["learning_rate"], entry["final_loss"]) == (1.0, 1.8)
    assert (entry["lowest_loss_rate"], entry["lowest_loss"]) == (0.1, 1.0)


def test_the_target_is_never_below_a_hundredth_of_the_decrease() -> None:
    part = summarise(made_race({"sgd": {0.1: [[1.0, 0.1, 2e-3]]}, "adagrad": {0.1: [[1.0, 1e-2, 1e-3]]}}))
    assert part.target_floored is True
    assert part.target_loss == pytest.approx(1e-3 + FLOOR * (1 - 1e-3))
    # A loss of exactly 0 is a loss.
    part = summarise(made_race({"sgd": {0.1: [[1.0, 0.1, 0.0]]}, "adagrad": {0.1: [[1.0, 1e-3, 0.0]]}}))
    assert part.target_loss == pytest.approx(FLOOR, rel=1e-4)
    # And losses below 0 are read as they are.
    part = summarise(made_race({"sgd": {0.1: [[1.0, 0.0, -1.0]]}, "adagrad": {0.1: [[1.0, -1.0, -3.0]]}}))
    assert part.target_loss == -1.0
    assert part.speedup == pytest.approx(2.0)


def test_a_rate_that_overshoots_is_best_only_where_no_other_descends() -> None:
    wild = [1.0, 20.0, 0.01]
    calm = summarise(made_race({"sgd": {0.1: [[1.0, 0.6, 0.2]]}, "adagrad": {0.1: [[1.0, 0.5, 0.3]], 1.0: [wild]}}))
    assert (calm.methods or {})["adagrad"]["learning_rate"] == 0.1
    assert calm.target_loss == 0.3
    race = made_race({"sgd": {0.1: [[1.0, 0.6, 0.2]]}, "adagrad": {0.1: [[1.0, 1.1, 1.2]], 1.0: [wild]}})
    assert (summarise(race).methods or {})["adagrad"]["learning_rate"] == 1.0


def test_of_rates_that_end_alike_the_middle_one_ends_lowest() -> None:
    steps = np.array([0.0, 1.0])
    losses = np.array([[[1.0, 0.5002]], [[1.0, 0.5001]], [[1.0, 0.5]]])
    rates = np.array([0.1, 1.0, 10.0])
    assert ends_lowest(Curves(steps, rates, losses, np.zeros(3))) == 10.0
    assert ends_lowest(Curves(steps, rates, losses, np.full(3, 1e-3))) == 1.0


def test_rates_without_all_orders_play_no_part() -> None:
    early = [10.0, 0.5, 0.3]
    curves: dict[str, Any] = {"sgd": {0.1: [SLOW, SLOW]}, "adagrad": {0.1: [FAST, FAST], 1.0: [early]}}
    part = summarise(made_race(curves))
    assert (part.methods or {})["adagrad"]["learning_rate"] == 0.1


def test_equal_orders_give_an_interval_of_one_point() -> None:
    part = summarise(made_race({"sgd": {0.1: [SLOW] * 4}, "adagrad": {0.1: [FAST] * 4}}))
    assert part.speedup_interval == pytest.approx((part.speedup, part.speedup))
    assert part.speedup_se == 0
    assert part.speedup_seeds == pytest.approx([part.speedup] * 4)
    assert (part.methods or {})["sgd"]["final_loss_interval"] == (2.0, 2.0)


def test_all_rows_in_a_batch_are_one_run_without_an_interval() -> None:
    race = made_race({"sgd": {0.1: [SLOW]}, "adagrad": {0.1: [FAST]}}, batch_size=64, seeds=8)
    part = summarise(replace(race, orders={"sgd": 1, "adagrad": 1}))
    assert part.speedup == pytest.approx(2 / 2 ** (1 / 3))
    assert part.speedup_interval is None
    for key in ("speedup_interval", "speedup_se", "decided_by"):
        assert "every order of the batches is the same run" in part.why[key]


@pytest.mark.parametrize(
    ("curves", "reason"),
    [
        ({"sgd": {0.1: [SLOW]}}, "adagrad did not run"),
        ({"adam": {0.1: [SLOW]}}, "sgd and adagrad did not run"),
        ({"sgd": {0.1: [[10.0, None]]}, "adagrad": {0.1: [[10.0, 5.0]]}}, "sgd diverged"),
        ({"sgd": {0.1: [[10.0, 10.0]]}, "adagrad": {0.1: [[10.0, 5.0]]}}, "sgd never ended below the starting loss"),
    ],
)
def test_without_a_speedup_there_is_a_reason(curves: Any, reason: str) -> None:
    part = summarise(made_race(curves))
    assert part.speedup is None
    assert part.speedup_interval is None
    assert reason in part.why["speedup"]
    assert set(part.why) >= {"speedup", "speedup_interval", "target_floored", "speedup_by_target"}


def test_every_null_has_its_reason() -> None:
    cases: list[Any] = [
        {"sgd": {0.1: [[10.0, None]]}, "adagrad": {0.1: [[10.0, 5.0]]}},
        {"sgd": {0.1: [SLOW]}, "adam": {0.1: [FAST]}},
        {"sgd": {0.1: [[1.0, 2.0]]}, "adagrad": {0.1: [[1.0, 3.0]]}},
        {"sgd": {0.1: [SLOW]}, "adagrad": {0.1: [FAST]}, "adam": {0.1: [[10.0, 9.0, 8.0]]}},
    ]
    for case in cases:
        part = summarise(made_race(case))
        for key, value in vars(part).items():
            assert value is not None or part.why[key]
        for entry in (part.methods or {}).values():
            for key, value in entry.items():
                assert value is not None or entry["why"][key]


def test_steps_to_target_is_null_where_no_rate_meets_it() -> None:
    high = [10.0, 9.0, 8.0]
    part = summarise(made_race({"sgd": {0.1: [SLOW]}, "adagrad": {0.1: [FAST]}, "adam": {0.1: [high]}}))
    entry = (part.methods or {})["adam"]
    assert entry["steps_to_target"] is None
    assert "no learning rate" in entry["why"]["steps_to_target"]
    assert entry["learning_rate"] == entry["lowest_loss_rate"] == 0.1


def test_tuning_range_is_interpolated_in_the_logarithm_of_the_rate() -> None:
    # Best 0 at 1, limit 1: left, the loss crosses 1 half-way from 1 to 0.1; right, a tenth of the way to 10.
    width, open_ended = tuning_range({0.01: 8.0, 0.1: 2.0, 1.0: 0.0, 10.0: 10.0}, 1.0, 10.0) or pytest.fail("a range")
    assert width == pytest.approx(0.5 + 0.1)
    assert not open_ended


def test_tuning_range_ends_at_the_last_rate_before_divergence() -> None:
    width, open_ended = tuning_range({0.1: 2.0, 1.0: 0.0, 10.0: math.inf}, 1.0, 10.0) or pytest.fail("a range")
    assert width == pytest.approx(0.5)
    assert not open_ended


def test_tuning_range_at_the_end_of_the_grid_is_a_lower_bound() -> None:
    width, open_ended = tuning_range({0.1: 0.5, 1.0: 0.0, 10.0: 10.0}, 1.0, 10.0) or pytest.fail("a range")
    assert width == pytest.approx(1.1)
    assert open_ended
    assert tuning_range({1.0: 0.0}, 1.0, 10.0) == (0.0, True)


def test_tuning_range_needs_a_loss_below_the_start() -> None:
    assert tuning_range({0.1: 11.0, 1.0: math.inf}, 0.1, 10.0) is None


# -- every pair -------------------------------------------------------------------------------------------


THREE = {**PACES, "adam": {0.01: 1.2, 0.03: 1.5, 0.1: 1.3}}


def test_adagrads_speedup_over_each_other_method_is_by_the_same_rule() -> None:
    race = noisy(THREE, 4)
    part = summarise(race)
    entry = (part.methods or {})["adam"]
    expected = rule(rows(race), "adam")
    assert entry["adagrad_speedup"] == pytest.approx(math.exp(expected.log_speedup))
    assert entry["adagrad_target"] == pytest.approx(expected.target)
    assert entry["adagrad_rates"] == list(expected.rates)
    assert entry["adagrad_steps"] == pytest.approx(expected.steps)
    assert entry["adagrad_steps"][0] / entry["adagrad_steps"][1] == pytest.approx(entry["adagrad_speedup"])
    assert (part.methods or {})["sgd"]["adagrad_speedup"] == part.speedup
    assert (part.methods or {})["adagrad"]["adagrad_speedup"] is None
    assert (part.methods or {})["adagrad"]["why"]["adagrad_speedup"]


def test_a_pair_is_compared_on_the_orders_that_both_have() -> None:
    race = noisy(THREE, 8)
    few = tuple(leg for leg in race.legs if leg.method != "adam" or leg.seed < 4)
    race = replace(race, legs=few, orders={"sgd": 8, "adagrad": 8, "adam": 4})
    found, _ = compared(race, "adam")
    assert found is not None
    assert found.orders == 4
    assert found.speedup == pytest.approx(math.exp(rule(rows(race), "adam", range(4)).log_speedup))
    assert (summarise(race).methods or {})["adam"]["orders"] == 4


def test_the_best_other_method_ended_lowest_and_has_a_wider_interval() -> None:
    part = summarise(noisy(THREE, 4))
    assert part.best_other == "adam"
    entry = (part.methods or {})["adam"]
    assert part.best_other_speedup == entry["adagrad_speedup"]
    low, high = entry["adagrad_speedup_interval"]
    assert part.best_other_interval is not None
    assert part.best_other_interval[0] < low < high < part.best_other_interval[1]
    # Of two others: a level of 1 - 0.05/2.
    ratio = math.log(high / low) / math.log(part.best_other_interval[1] / part.best_other_interval[0])
    assert ratio == pytest.approx(stats.t.ppf(0.975, 3) / stats.t.ppf(0.9875, 3))


def test_a_method_that_is_soon_stuck_is_no_best_other() -> None:
    part = summarise(noisy({**PACES, "sign-sgd": {0.1: 0.01}}, 4))
    assert (part.best_other, part.best_other_speedup) == ("sgd", part.speedup)


def test_with_one_other_method_nothing_was_chosen() -> None:
    part = summarise(noisy(PACES, 4))
    assert (part.best_other, part.best_other_speedup) == ("sgd", part.speedup)
    assert part.best_other_interval == part.speedup_interval


@pytest.mark.parametrize(
    ("curves", "nulls", "reason"),
    [
        ({"sgd": {0.1: [SLOW]}, "adam": {0.1: [FAST]}}, 3, "adagrad did not run"),
        ({"adagrad": {0.1: [SLOW]}}, 3, "no other method ran"),
        ({"sgd": {0.1: [[1.0, 2.0]]}, "adagrad": {0.1: [[1.0, 0.5]]}}, 2, "sgd never ended below the starting loss"),
        ({"sgd": {0.1: [SLOW] * 2}, "adagrad": {0.1: [FAST] * 2}, "adam": {0.1: [FAST] * 2}}, 1, "4 orders"),
    ],
)
def test_without_a_best_other_method_there_is_a_reason(curves: Any, nulls: int, reason: str) -> None:
    part = summarise(made_race(curves))
    keys = ("best_other", "best_other_speedup", "best_other_interval")
    absent = [key for key in keys if getattr(part, key) is None]
    assert absent == list(keys[3 - nulls :])
    assert all(reason in part.why[key] for key in absent)


@pytest.mark.coverage
@pytest.mark.parametrize("others", [8])
def test_the_interval_over_the_best_other_covers_whichever_it_is(others: int) -> None:
    """Of equal and independent methods, where the choice misleads most; the interval that ignores it fails the band."""
    repeats, simultaneous, plain = 400, 0, 0
    paces = {"adagrad": {1.0: 1.0}, **{f"other{k}": {1.0: 0.5} for k in range(others)}}
    truth, _ = compared(noisy(paces, 1000, noise=0.3, seed=10**6), "other0")
    assert truth is not None
    for seed in range(repeats):
        race = noisy(paces, 8, noise=0.3, seed=seed)
        found, _ = compared(race, best_other(race) or "")
        assert found is not None
        low, high = found.interval(1 - 0.05 / others) or pytest.fail("an interval")
        simultaneous += low <= truth.speedup <= high
        low, high = found.interval() or pytest.fail("an interval")
        plain += low <= truth.speedup <= high
    assert_covers(simultaneous, repeats, 0.95)
    assert plain < fewest(repeats, 0.95)


def test_held_out_scores_are_means_over_seeds_at_the_best_rate() -> None:
    made = made_race({"sgd": {0.1: [SLOW] * 4}, "adagrad": {0.1: [FAST] * 4}})
    scored = tuple(replace(leg, validation_loss=float(leg.seed), validation_accuracy=leg.seed / 3) for leg in made.legs)
    entry = (summarise(replace(made, legs=scored)).methods or {})["sgd"]
    assert entry["validation_loss"] == 1.5
    assert entry["validation_accuracy"] == 0.5
    assert entry["validation_loss_interval"] == pytest.approx(t_interval([0.0, 1.0, 2.0, 3.0]))
    plain = (summarise(made).methods or {})["sgd"]
    assert plain["validation_loss"] is None
    assert plain["why"]["validation_loss"] == "no samples are held out"
    assert plain["why"]["validation_accuracy"] == "no samples are held out"
    some = tuple(replace(leg, validation_loss=None if leg.seed else 1.0) for leg in scored)
    lost = tuple(replace(leg, validation_loss=None) for leg in scored)
    for legs in (some, lost):
        entry = (summarise(replace(made, legs=legs, held_out=True)).methods or {})["sgd"]
        assert entry["validation_loss"] is None
        assert entry["why"]["validation_loss"] == "the loss of a held-out sample is not finite"
        assert entry["validation_accuracy"] == 0.5
    entry = (summarise(replace(made, held_out=True)).methods or {})["sgd"]
    assert entry["why"]["validation_loss"] == "the loss of a held-out sample is not finite"
    assert entry["why"]["validation_accuracy"] == "the loss has no classes"
