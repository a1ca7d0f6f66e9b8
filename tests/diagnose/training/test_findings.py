"""Each warning of the race, produced by a bad case and absent in the clean one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diagnose.training import Race, race
from diagnose.training.findings import findings, sizes_above
from diagnose.training.runs import MemoryStore
from diagnose.training.summary import summarise
from diagnose.training.sweep import settings_of
from estimators.results import Finding
from tests.diagnose.training.tasks import logistic, made_race, quadratic, settings

GOOD = [10.0, 5.0, 3.0]
MIDDLING = [10.0, 6.0, 4.0]
BETTER = [10.0, 4.0, 2.0]
CLEAN: dict[str, Any] = {
    method: {0.1: [MIDDLING] * 3, 1.0: [best] * 3, 10.0: [MIDDLING] * 3}
    for method, best in (("sgd", GOOD), ("adagrad", BETTER))
}


def found(ended: Race) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings(ended, summarise(ended))}


def test_a_clean_race_warns_of_nothing() -> None:
    assert found(made_race(CLEAN)) == {}


def test_every_finding_is_whole() -> None:
    bad: dict[str, Any] = {
        "sgd": {0.1: [[10.0, None]] * 3},
        "adagrad": {0.1: [GOOD] * 3, 1.0: [[10.0, None]] * 3},
    }
    several = found(made_race(bad))
    assert set(several) == {"all-runs-diverged", "lr-at-grid-edge", "run-diverged"}
    for finding in several.values():
        assert finding.stage == "training"
        assert finding.severity in ("note", "warning")
        assert all((finding.found, finding.meaning, finding.action))


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({0.1: [GOOD] * 3, 1.0: [MIDDLING] * 3}, "smallest tried"),
        ({0.1: [MIDDLING] * 3, 1.0: [GOOD] * 3}, "largest tried"),
        ({1.0: [GOOD] * 3}, "only one tried"),
    ],
)
def test_a_best_rate_at_the_edge(rates: Any, said: str) -> None:
    finding = found(made_race({**CLEAN, "sgd": rates}))["lr-at-grid-edge"]
    assert finding.severity == "warning"
    assert said in finding.found
    assert "sgd" in finding.found


def test_the_way_out_of_a_fixed_list_is_another_list() -> None:
    rates: Any = {0.1: [GOOD] * 3, 1.0: [MIDDLING] * 3}
    fixed = found(made_race({**CLEAN, "sgd": rates}, learning_rates=(0.1, 1.0)))["lr-at-grid-edge"]
    grown = found(made_race({**CLEAN, "sgd": rates}))["lr-at-grid-edge"]
    assert "leave it away" in fixed.action
    assert "as far as it may" in grown.action


def test_a_race_with_a_fixed_list_below_the_best_rate_warns() -> None:
    how = settings(learning_rates=(1e-4, 1e-3))
    assert "lr-at-grid-edge" in found(race(logistic(), how, MemoryStore()))
    assert "lr-at-grid-edge" not in found(race(logistic(), settings(), MemoryStore()))


def test_runs_that_diverged_are_counted_and_named() -> None:
    rates: Any = {**CLEAN["sgd"], 100.0: [[10.0, None], [10.0, None], GOOD]}
    finding = found(made_race({**CLEAN, "sgd": rates}))["run-diverged"]
    assert finding.severity == "note"
    assert "2 of 21 runs" in finding.found
    assert "sgd at 100" in finding.found
    assert "adagrad" not in finding.found


def test_a_method_that_always_diverges() -> None:
    ended = race(
        quadratic(torch.ones(3), torch.zeros(3)),
        settings(learning_rates=(10.0, 20.0), optimizers=("sgd",)),
        MemoryStore(),
    )
    several = found(ended)
    assert several["all-runs-diverged"].severity == "warning"
    assert "6 of 6 runs" in several["all-runs-diverged"].found
    assert "run-diverged" not in several


def test_batch_sizes_above_the_sample_set_are_one_and_that_is_said() -> None:
    assert sizes_above((8, 96), 96) == ()
    (one,) = sizes_above((8, 200), 96)
    assert one.found == "200 of `--batch-sizes` is above the 96 rows that runs train on"
    (two,) = sizes_above((3000, 8, 200), 96)
    assert two.found == "200 and 3,000 of `--batch-sizes` are above the 96 rows that runs train on"
    assert (two.code, two.severity, two.stage) == ("batch-sizes-above", "note", "training")
    each = settings_of(settings(), (3000, 8, 200), 96)
    assert [how.batch_size for how in each] == [8, 96]


def test_seeds_that_disagree() -> None:
    fast, slow = [10.0, 2.0, 1.0], [10.0, 6.0, 1.5]
    opposite: Any = {
        "sgd": {0.1: [MIDDLING] * 4, 1.0: [fast, slow, slow, slow], 10.0: [MIDDLING] * 4},
        "adagrad": {0.1: [MIDDLING] * 4, 1.0: [slow, fast, fast, fast], 10.0: [MIDDLING] * 4},
    }
    finding = found(made_race(opposite))["seeds-disagree"]
    assert finding.severity == "warning"
    level: Any = {**CLEAN, "sgd": {**CLEAN["sgd"], 1.0: [GOOD, GOOD, [10.0, 5.0, 3.01]]}}
    assert "seeds-disagree" not in found(made_race(level))


def test_both_end_within_a_hundredth_of_the_decrease() -> None:
    close: Any = {**CLEAN, "sgd": {**CLEAN["sgd"], 1.0: [[10.0, 5.0, 2.01]] * 3}}
    finding = found(made_race(close))["loss-vanishes"]
    assert finding.severity == "note"
    assert "2.08" in finding.found


def test_a_best_rate_that_overshoots() -> None:
    wild = [10.0, 200.0, 1.0]
    only: Any = {**CLEAN, "adagrad": {0.1: [[10.0, 11.0, 12.0]] * 3, 1.0: [wild] * 3, 10.0: [[10.0, 300.0, 9.0]] * 3}}
    finding = found(made_race(only))["overshoot"]
    assert finding.severity == "warning"
    assert "adagrad" in finding.found
    assert "200" in finding.found
    calm: Any = {**CLEAN, "adagrad": {**CLEAN["adagrad"], 10.0: [wild] * 3}}
    assert "overshoot" not in found(made_race(calm))
