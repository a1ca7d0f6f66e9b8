"""Who is ahead at which loss, and where the race is over, on rows made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from diagnose.verdict.targets import race_is_over, turning
from tests.diagnose.verdict.cases import entry, trained

SGD, ADAGRAD, LEVEL = (0.4, 0.8), (1.2, 1.9), (0.7, 1.4)


def along(*rows: tuple[float, Any]) -> Any:
    """From f(w0) = 1 to a target of 0.01: the middle of the decrease, in log loss, is 0.1."""
    table = [{"loss": loss, "speedup": 1.0, "interval": ends} for loss, ends in rows]
    return trained([1.5] * 4, initial_loss=1.0, target_loss=0.01, speedup_by_target=table)


def test_who_is_ahead_down_to_which_loss() -> None:
    race = along((0.5, SGD), (0.09, LEVEL), (0.045, SGD), (0.02, LEVEL), (0.01, ADAGRAD))
    assert turning("adagrad", race) == "SGD is ahead down to a loss of 0.045, AdaGrad from there on."
    mirrored = along((0.5, LEVEL), (0.045, ADAGRAD), (0.01, SGD))
    assert turning("sgd", mirrored) == "AdaGrad is ahead down to a loss of 0.045, SGD from there on."


def test_rows_come_in_any_order() -> None:
    race = along((0.01, ADAGRAD), (0.045, SGD), (0.5, SGD))
    assert turning("adagrad", race) == "SGD is ahead down to a loss of 0.045, AdaGrad from there on."


def test_a_lead_on_the_way_is_said_as_one() -> None:
    race = along((0.5, ADAGRAD), (0.09, SGD), (0.045, SGD), (0.01, ADAGRAD))
    assert turning("adagrad", race) == "Between losses of 0.090 and 0.045 SGD is ahead, AdaGrad before and after."


@pytest.mark.parametrize(
    "rows",
    [
        ((0.5, SGD), (0.11, SGD), (0.09, LEVEL), (0.01, ADAGRAD)),  # in the first half of the decrease
        ((0.5, ADAGRAD), (0.045, ADAGRAD), (0.01, ADAGRAD)),
        ((0.045, LEVEL), (0.01, ADAGRAD)),  # not told apart
        ((0.045, None), (0.01, ADAGRAD)),
        (),
    ],
)
def test_nothing_is_said_without_a_turn(rows: Any) -> None:
    assert turning("adagrad", along(*rows)) is None


def test_without_a_winner_there_is_no_other() -> None:
    race = along((0.045, SGD), (0.01, ADAGRAD))
    assert turning("undecided", race) is None
    assert turning("no-difference", race) is None


def test_losses_below_zero_have_a_middle_too() -> None:
    table = [{"loss": -2.0, "speedup": 0.5, "interval": SGD}, {"loss": -3.0, "speedup": 2.0, "interval": ADAGRAD}]
    race = trained([1.5] * 4, initial_loss=0.0, target_loss=-3.0, speedup_by_target=table)
    assert turning("adagrad", race) == "SGD is ahead down to a loss of −2, AdaGrad from there on."


def test_where_the_target_was_raised_the_race_is_over_there() -> None:
    both = {"sgd": entry(1e-7), "adagrad": entry(0.05)}
    fitted = trained([1.0] * 4, initial_loss=2.0, target_loss=0.02, target_floored=True, methods=both)
    assert race_is_over(fitted) == "Both fit these data perfectly; the race is over at a loss of 0.02000."
    both = {"sgd": entry(1.001), "adagrad": entry(1.0)}
    converged = trained([1.0] * 4, initial_loss=2.0, target_loss=1.01, target_floored=True, methods=both)
    assert race_is_over(converged) == (
        "Both converge to the same loss to within 1% of the decrease; the race is over at a loss of 1.010."
    )
    assert race_is_over(trained([1.0] * 4)) is None
