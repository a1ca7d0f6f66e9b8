"""The summary of a race, on legs whose answers are worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diagnose.training.speedup import best_other, geometric_mean, hitting_time, seed_speedups, t_interval
from diagnose.training.summary import summarise, tuning_range
from tests.diagnose.training.tasks import made_race
from tests.statistics import assert_calibrated, assert_covers, fewest

LINE = [10.0, 8.0, 6.0, 4.0, 2.0]
FAST = [10.0, 4.0, 3.0, 2.0, 1.0]


def test_hitting_time_is_linear_between_evaluations() -> None:
    steps, losses = [0, 1, 2, 4, 8], [10.0, 8.0, 6.0, 5.0, 1.0]
    assert hitting_time(steps, losses, 10.0) == 0
    assert hitting_time(steps, losses, 7.0) == 1.5
    assert hitting_time(steps, losses, 5.5) == 3
    assert hitting_time(steps, losses, 5.0) == 4
    assert hitting_time(steps, losses, 2.0) == 7
    assert hitting_time(steps, losses, 1.0) == 8
    assert hitting_time(steps, losses, 0.5) == math.inf


def test_the_first_crossing_counts_on_a_curve_that_rises_again() -> None:
    assert hitting_time([0, 1, 2, 3], [10.0, 2.0, 9.0, 1.0], 2.0) == 1


def test_t_interval() -> None:
    values = [1.0, 2.0, 4.0, 5.0]
    low, high = t_interval(values) or pytest.fail("an interval")
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert t_interval([1.0, 2.0]) is None
    assert t_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)


def test_the_interval_of_the_speedup_covers() -> None:
    """On log-normal ratios of known mean, through the whole summary, against a binomial band."""
    rng, truth, repeats, held = np.random.default_rng(0), math.log(2.0), 400, 0
    for _ in range(repeats):
        times = np.exp(truth + 0.2 * rng.standard_normal(4))
        sgd = [[10.0, 0.0]] * 4
        adagrad = [[10.0, 10.0 - 10.0 * ratio] for ratio in times]
        part = summarise(made_race({"sgd": {1.0: sgd}, "adagrad": {1.0: adagrad}}))
        low, high = part.speedup_interval or pytest.fail("an interval")
        held += low <= math.exp(truth) <= high
    assert_calibrated(held, repeats, 0.95)


def test_speedup_of_one_seed_by_hand() -> None:
    # Target 2, SGD's best; AdaGrad meets it at step 3, SGD at 4.
    part = summarise(made_race({"sgd": {0.1: [LINE]}, "adagrad": {0.1: [FAST]}}))
    assert part.speedup == pytest.approx(4 / 3)
    assert list(part.speedup_seeds or ()) == pytest.approx([4 / 3])
    assert part.speedup_interval is None
    assert "3 seeds" in part.why["speedup_interval"]
    assert part.target_loss == 2.0
    assert part.initial_loss == 10.0
    assert part.curves_file == "runs.csv"


def test_the_earliest_rate_counts_not_the_best_one() -> None:
    # The rate of 1 ends higher but meets the target of 2 first.
    early = [10.0, 2.0, 1.9, 1.8, 1.7]
    part = summarise(made_race({"sgd": {0.1: [LINE]}, "adagrad": {0.1: [FAST], 1.0: [early]}}))
    assert part.speedup == pytest.approx(4.0)
    assert part.methods is not None
    assert part.methods["adagrad"]["learning_rate"] == 0.1
    assert part.methods["adagrad"]["steps_to_target"] == 1.0


def test_rates_without_all_seeds_play_no_part() -> None:
    early = [10.0, 2.0, 0.5, 0.4, 0.3]
    curves: dict[str, Any] = {"sgd": {0.1: [LINE, LINE]}, "adagrad": {0.1: [FAST, FAST], 1.0: [early]}}
    part = summarise(made_race(curves))
    assert part.speedup == pytest.approx(4 / 3)
    assert part.methods is not None
    assert part.methods["adagrad"]["learning_rate"] == 0.1


def test_each_seed_has_its_own_target_and_the_mean_is_geometric() -> None:
    slow = [10.0, 9.0, 8.0, 7.0, 6.0]
    part = summarise(made_race({"sgd": {0.1: [LINE, slow, LINE]}, "adagrad": {0.1: [FAST, FAST, LINE]}}))
    expected = [4 / 3, 4 / (2 / 3), 1.0]
    assert part.speedup_seeds == pytest.approx(expected)
    assert part.speedup == pytest.approx(np.prod(expected) ** (1 / 3))
    low, high = part.speedup_interval or pytest.fail("an interval")
    t = stats.t.interval(0.95, 2, loc=np.mean(np.log(expected)), scale=stats.sem(np.log(expected)))
    assert (low, high) == pytest.approx(tuple(np.exp(t)))
    assert part.methods is not None
    assert part.methods["sgd"]["final_loss"] == pytest.approx((2 + 6 + 2) / 3)


def test_equal_seeds_give_an_interval_of_one_point() -> None:
    part = summarise(made_race({"sgd": {0.1: [LINE] * 3}, "adagrad": {0.1: [FAST] * 3}}))
    assert part.speedup_interval == (part.speedup, part.speedup)
    assert part.methods is not None
    assert part.methods["sgd"]["final_loss_interval"] == (2.0, 2.0)


def test_swapping_the_methods_inverts_the_speedup() -> None:
    rng = np.random.default_rng(1)
    curves = [[[10.0, *(10 * np.exp(-rate * np.arange(1, 9)))] for rate in rng.uniform(0.1, 0.5, 3)] for _ in range(2)]
    one = summarise(made_race({"sgd": {0.1: curves[0]}, "adagrad": {0.1: curves[1]}}))
    other = summarise(made_race({"sgd": {0.1: curves[1]}, "adagrad": {0.1: curves[0]}}))
    assert one.speedup is not None
    assert other.speedup is not None
    assert one.speedup_interval is not None
    assert other.speedup_interval is not None
    assert one.speedup == pytest.approx(1 / other.speedup)
    assert one.speedup_interval[0] == pytest.approx(1 / other.speedup_interval[1])


@pytest.mark.parametrize(
    ("curves", "reason"),
    [
        ({"sgd": {0.1: [LINE]}}, "adagrad did not run"),
        ({"adam": {0.1: [LINE]}}, "sgd and adagrad did not run"),
        ({"sgd": {0.1: [[10.0, None]]}, "adagrad": {0.1: [[10.0, 5.0]]}}, "sgd diverged"),
        ({"sgd": {0.1: [[10.0, 10.0]]}, "adagrad": {0.1: [[10.0, 5.0]]}}, "sgd never ended below the starting loss"),
    ],
)
def test_without_a_speedup_there_is_a_reason(curves: Any, reason: str) -> None:
    part = summarise(made_race(curves))
    assert part.speedup is None
    assert part.speedup_interval is None
    assert reason in part.why["speedup"]
    assert set(part.why) >= {"speedup", "speedup_interval"}


def test_every_null_of_a_method_has_its_reason() -> None:
    cases: list[Any] = [
        {"sgd": {0.1: [[10.0, None]]}, "adagrad": {0.1: [[10.0, 5.0]]}},
        {"sgd": {0.1: [LINE]}, "adam": {0.1: [FAST]}},
        {"sgd": {0.1: [[1.0, 2.0]]}, "adagrad": {0.1: [[1.0, 3.0]]}},
        {"sgd": {0.1: [LINE]}, "adagrad": {0.1: [FAST]}, "adam": {0.1: [[10.0, 9.0, 8.0, 7.0, 6.0]]}},
    ]
    for curves in cases:
        part = summarise(made_race(curves))
        for key in ("target_loss", "speedup", "speedup_interval", "speedup_seeds"):
            assert getattr(part, key) is not None or part.why[key]
        for entry in (part.methods or {}).values():
            for key, value in entry.items():
                assert value is not None or entry["why"][key]


def test_steps_to_target_is_null_where_the_mean_curve_misses() -> None:
    high = [10.0, 9.0, 8.0, 7.0, 6.0]
    part = summarise(made_race({"sgd": {0.1: [LINE]}, "adagrad": {0.1: [FAST]}, "adam": {0.1: [high]}}))
    assert part.methods is not None
    assert part.methods["adam"]["steps_to_target"] is None
    assert "no learning rate met" in part.methods["adam"]["why"]["steps_to_target"]
    assert part.methods["sgd"]["steps_to_target"] == 4


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


def test_adagrads_speedup_over_each_other_method() -> None:
    curves = {"sgd": {0.1: [LINE] * 3}, "adagrad": {0.1: [FAST] * 3}, "adam": {0.1: [[10.0, 2.0, 1.0, 1.0, 0.5]] * 3}}
    part = summarise(made_race(curves))
    methods = part.methods or {}
    assert methods["sgd"]["adagrad_speedup"] == part.speedup
    # Target 1, AdaGrad's best: Adam meets it at step 2, AdaGrad at 4.
    assert methods["adam"]["adagrad_speedup"] == pytest.approx(0.5)
    assert methods["adam"]["adagrad_speedup_interval"] == pytest.approx((0.5, 0.5))
    assert methods["adagrad"]["adagrad_speedup"] is None
    assert methods["adagrad"]["why"]["adagrad_speedup"]


def paced(paces: dict[str, Any]) -> Any:
    """A race of straight curves: a method's speed-up over another is the ratio of their paces, seed by seed."""
    return made_race({name: {1.0: [[10.0, 10.0 - pace] for pace in each]} for name, each in paces.items()})


def test_the_best_other_method_ended_lowest_and_has_a_wider_interval() -> None:
    made = paced({"sgd": [1.0, 1.1, 0.9], "adagrad": [2.0, 2.1, 2.2], "adam": [3.0, 2.5, 2.8], "mine": [2.0, 1.0, 1.5]})
    part = summarise(made)
    assert part.best_other == "adam"
    logs = np.log(np.array([2.0, 2.1, 2.2]) / [3.0, 2.5, 2.8])
    assert part.best_other_speedup == pytest.approx(math.exp(logs.mean()))
    level = 1 - 0.05 / 3
    wide = stats.t.interval(level, 2, loc=logs.mean(), scale=stats.sem(logs))
    assert part.best_other_interval == pytest.approx(tuple(np.exp(wide)))
    low, high = (part.methods or {})["adam"]["adagrad_speedup_interval"]
    assert part.best_other_interval is not None
    assert part.best_other_interval[0] < low < high < part.best_other_interval[1]


def test_a_method_that_is_soon_stuck_is_no_best_other() -> None:
    stuck = [10.0, 6.0, 6.0, 6.0, 6.0]
    part = summarise(
        made_race({"sgd": {0.1: [LINE] * 3}, "adagrad": {0.1: [FAST] * 3}, "sign-sgd": {0.1: [stuck] * 3}})
    )
    assert (part.best_other, part.best_other_speedup) == ("sgd", part.speedup)


def test_with_one_other_method_nothing_was_chosen() -> None:
    part = summarise(paced({"sgd": [1.0, 1.1, 0.9], "adagrad": [2.0, 2.1, 2.2]}))
    assert (part.best_other, part.best_other_speedup) == ("sgd", part.speedup)
    assert part.best_other_interval == part.speedup_interval


def test_a_method_that_failed_is_no_best_other_and_still_widens_the_interval() -> None:
    three = {"sgd": [1.0, 1.1, 0.9], "adagrad": [2.0, 2.1, 2.2], "adam": [1.5, 1.2, 1.3]}
    rising = [-1.0, 1.0, 1.0]  # ends above the start in one seed
    part = summarise(paced({**three, "mine": rising}))
    assert part.best_other == "adam"
    assert part.best_other_interval == summarise(paced({**three, "mine": [1.0, 1.0, 1.0]})).best_other_interval


@pytest.mark.parametrize(
    ("paces", "nulls", "reason"),
    [
        ({"sgd": [1.0] * 3, "adam": [2.0] * 3}, 3, "adagrad did not run"),
        ({"adagrad": [1.0] * 3}, 3, "no other method ran"),
        ({"sgd": [-1.0] * 3, "adagrad": [1.0] * 3}, 2, "sgd never ended below the starting loss"),
        ({"sgd": [1.0, 1.1], "adagrad": [1.0, 2.0], "adam": [2.0, 2.0]}, 1, "3 seeds"),
    ],
)
def test_without_a_best_other_method_there_is_a_reason(paces: Any, nulls: int, reason: str) -> None:
    part = summarise(paced(paces))
    keys = ("best_other", "best_other_speedup", "best_other_interval")
    absent = [key for key in keys if getattr(part, key) is None]
    assert absent == list(keys[3 - nulls :])
    assert all(reason in part.why[key] for key in absent)


@pytest.mark.parametrize("others", [3, 8])
def test_the_interval_over_the_best_other_covers_whichever_it_is(others: int) -> None:
    """Of equal and independent methods, where the choice misleads most; the interval that ignores it fails the band."""
    rng, repeats, seeds, simultaneous, plain = np.random.default_rng(others), 3000, 10, 0, 0
    for _ in range(repeats):
        paces = np.exp(0.3 * rng.standard_normal((others, seeds)))
        made = paced({"adagrad": [2.0] * seeds, **{f"other{k}": pace for k, pace in enumerate(paces)}})
        found, _ = best_other(made, 10.0)
        low, high = found["best_other_interval"]
        simultaneous += low <= 2 <= high
        _, ends, _ = geometric_mean(*seed_speedups(made, 10.0, found["best_other"]))
        plain += ends is not None and ends[0] <= 2 <= ends[1]
    assert_covers(simultaneous, repeats, 0.95)
    assert plain < fewest(repeats, 0.95)


def test_held_out_scores_are_means_over_seeds_at_the_best_rate() -> None:
    made = made_race({"sgd": {0.1: [LINE] * 3}, "adagrad": {0.1: [FAST] * 3}})
    scored = tuple(replace(leg, validation_loss=float(leg.seed), validation_accuracy=leg.seed / 2) for leg in made.legs)
    entry = (summarise(replace(made, legs=scored)).methods or {})["sgd"]
    assert entry["validation_loss"] == 1.0
    assert entry["validation_accuracy"] == 0.5
    assert entry["validation_loss_interval"] == pytest.approx(t_interval([0.0, 1.0, 2.0]))
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
