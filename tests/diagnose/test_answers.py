"""The rule as a pure function: its mirror, the answer of one run, and how sure an answer is."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from diagnose.answers import answer_of, answer_of_one_run, confidence
from estimators.results import Interval
from reports.record.diagnosis import Answer

MIRROR: dict[Answer, Answer] = {
    "adagrad": "sgd",
    "sgd": "adagrad",
    "no-difference": "no-difference",
    "undecided": "undecided",
}


@pytest.mark.parametrize(
    ("speedup", "interval", "answer"),
    [
        (2.0, (1.5, 2.6), "adagrad"),
        (1.1, (1.05, 1.16), "adagrad"),
        (1.09, (1.05, 1.13), "no-difference"),
        (1.2, (1.0, 1.4), "undecided"),
        (0.5, (0.4, 0.6), "sgd"),
        (1 / 1.1, (0.88, 0.95), "sgd"),
        (0.95, (0.9, 0.99), "no-difference"),
        (1.0, (0.8, 1.25), "no-difference"),
        (1.0, (0.79, 1.25), "undecided"),
        (1.0, (0.8, 1.26), "undecided"),
        (1.0, (1.0, 1.0), "no-difference"),
        (1.3, (1.3, 1.3), "adagrad"),
        (3.0, (0.9, 10.0), "undecided"),
        (3.0, None, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_the_rule(speedup: float | None, interval: Interval | None, answer: Answer) -> None:
    assert answer_of(speedup, interval) == answer


def test_the_rule_is_mirrored() -> None:
    rng = np.random.default_rng(0)
    for center, half in zip(rng.normal(0, 0.3, 200), rng.exponential(0.15, 200), strict=True):
        one = answer_of(math.exp(center), (math.exp(center - half), math.exp(center + half)))
        other = answer_of(math.exp(-center), (math.exp(-center - half), math.exp(-center + half)))
        assert other == MIRROR[one]


@pytest.mark.parametrize(
    ("speedup", "answer"),
    [(None, "undecided"), (1.0, "no-difference"), (1.09, "no-difference"), (1.1, "adagrad"), (7.0, "adagrad")],
)
def test_where_nothing_is_random_the_number_decides(speedup: float | None, answer: Answer) -> None:
    assert answer_of_one_run(speedup) == answer
    assert answer_of_one_run(None if speedup is None else 1 / speedup) == MIRROR[answer]


def test_confidence_is_the_t_probability_of_the_sign() -> None:
    logs = np.log([1.5, 1.2, 1.9, 1.4])
    p = float(stats.ttest_1samp(logs, 0, alternative="greater").pvalue)
    measured = math.exp(logs.mean()), float(stats.sem(logs)), 4
    assert confidence("adagrad", *measured) == pytest.approx(1 - p)
    assert confidence("sgd", *measured) == pytest.approx(p)
    assert confidence("sgd", 1 / measured[0], *measured[1:]) == pytest.approx(1 - p)


def test_confidence_in_no_difference_is_the_probability_of_the_band() -> None:
    posterior = stats.t(2, loc=0.01, scale=0.05)
    assert confidence("no-difference", math.exp(0.01), 0.05, 3) == pytest.approx(
        posterior.cdf(np.log(1.25)) - posterior.cdf(np.log(0.8))
    )


def test_orders_that_ran_alike_leave_nothing_to_chance() -> None:
    assert confidence("adagrad", 2.0, 0.0, 4) == 1
    assert confidence("sgd", 2.0, 0.0, 4) == 0
    assert confidence("no-difference", 1.0, 0.0, 4) == 1


def test_the_rule_loads_neither_race_nor_torch() -> None:
    loaded = (
        "import sys, diagnose.answers;"
        "above = ('diagnose.training', 'reports.words', 'reports.page');"
        "sys.exit(any(name == 'torch' or name.startswith(above) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
