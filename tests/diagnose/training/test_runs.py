"""Legs, races and what is read off them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest

from diagnose.training.runs import Leg, best_rate, evaluation_steps, mean_final, rows
from reports.record.diagnosis import RUN_COLUMNS
from tests.diagnose.training.tasks import leg, made_race


@pytest.mark.parametrize(("steps", "evaluations"), [(1, 40), (2, 3), (60, 12), (187, 40), (2000, 40), (500, 1)])
def test_evaluation_steps_are_log_spaced_with_both_ends(steps: int, evaluations: int) -> None:
    taken = evaluation_steps(steps, evaluations)
    assert taken[0] == 0
    assert taken[-1] == steps
    assert list(taken) == sorted(set(taken))
    assert len(taken) <= evaluations + 1
    gaps = [later / earlier for earlier, later in pairwise(taken) if earlier > 10]
    assert all(gap < 1.1 * steps ** (1 / max(evaluations - 1, 1)) for gap in gaps)


def test_a_leg_survives_json_to_the_bit() -> None:
    one = leg("sgd", 10 ** (1 / 4), 2, [0.1 + 0.2, 1 / 3, None], diverged=True, d_inf=None)
    assert Leg.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one


def test_keys_tell_runs_apart() -> None:
    runs = [leg(m, r, s, [1.0]) for m in ("sgd", "adagrad") for r in (0.1, 10 ** (-3 / 4)) for s in (0, 1)]
    assert len({one.key for one in runs}) == len(runs)


def test_the_last_iterate_counts_and_a_diverged_run_is_infinite() -> None:
    assert leg("sgd", 1.0, 0, [3.0, 1.0, 2.0]).final == 2.0
    assert leg("sgd", 1.0, 0, [3.0, 900.0], diverged=True).final == math.inf
    assert mean_final([leg("sgd", 1.0, 0, [3.0, 1.0]), leg("sgd", 1.0, 1, [3.0, None], diverged=True)]) == math.inf


def test_best_rate() -> None:
    assert best_rate({0.1: 3.0, 1.0: 2.0, 10.0: math.inf}) == 1.0
    assert best_rate({0.1: math.inf}) is None
    # Equal losses: the one nearest the middle, so that a plateau does not pull the grid on.
    assert best_rate({0.01: 1.0, 0.1: 1.0, 1.0: 1.0, 10.0: 5.0, 100.0: 5.0}) == 1.0


def test_the_best_rate_is_that_of_the_mean_over_seeds_among_rates_with_all_seeds() -> None:
    race = made_race({"sgd": {0.1: [[9.0, 1.0]], 1.0: [[9.0, 2.0], [9.0, 4.0]], 10.0: [[9.0, 1.0], [9.0, 6.0]]}})
    assert race.rates("sgd") == [0.1, 1.0, 10.0]
    assert list(race.full("sgd")) == [1.0, 10.0]
    assert {one.learning_rate for one in race.best("sgd")} == {1.0}


def test_no_best_rate_where_each_diverged_in_some_seed() -> None:
    race = made_race({"sgd": {0.1: [[9.0, 1.0], [9.0, None]], 1.0: [[9.0, None], [9.0, 1.0]]}})
    assert race.best("sgd") == ()


def test_rows_of_runs_csv() -> None:
    race = made_race({"sgd": {0.1: [[9.0, 1.0]], 1.0: [[9.0, None]]}})
    table = rows(race)
    assert all(tuple(row) == RUN_COLUMNS for row in table)
    assert [(row["learning_rate"], row["step"], row["loss"], row["diverged"]) for row in table] == [
        (0.1, 0, 9.0, False),
        (0.1, 1, 1.0, False),
        (1.0, 0, 9.0, True),
        (1.0, 1, None, True),
    ]


def test_reading_a_race_loads_no_torch() -> None:
    code = (
        "import sys, diagnose.training, diagnose.training.summary, diagnose.training.findings, diagnose.verdict.rule;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
