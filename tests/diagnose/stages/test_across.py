"""What a part holds of another stage's measurement follows that one wherever it is made, changed or taken away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diagnose.continuation import without
from diagnose.stages.across import BRACKET, NOT_REACHED, along, completed, derived
from estimators.results import HessianDiagonal, Smoothness, Spectrum, absent
from reports.record.diagnosis import Diagnosis
from tests.reports import made


def known(**smoothness: Any) -> Diagnosis:
    """By products, with a Hessian diagonal whose sizes add up to 7."""
    start = {"method": "start", "step": 0, **dict.fromkeys(BRACKET, "wide")}
    whole = made.finished()
    values = {"sharpness_wanted": 0.05, "diagonal_sum": None, "points": [start, {"method": "sgd"}]} | smoothness
    part = replace(whole.smoothness, **values)
    return replace(whole, smoothness=part, hessian_diagonal=replace(whole.hessian_diagonal, abs_sum=7.0))


def test_the_sum_of_the_diagonal_is_that_of_its_stage() -> None:
    there = derived(known())
    assert there.smoothness.diagonal_sum == 7.0
    assert "diagonal_sum" not in there.smoothness.why
    gone = without("hessian_diagonal", there)
    assert (gone.smoothness.diagonal_sum, gone.smoothness.why["diagonal_sum"]) == (None, NOT_REACHED)
    skipped = derived(replace(known(), hessian_diagonal=absent(HessianDiagonal, "skipped")))
    assert skipped.smoothness.why["diagonal_sum"] == "skipped"


@pytest.mark.parametrize("confidence", [1.0, None])
def test_the_sum_of_a_formed_hessian_stays(confidence: float | None) -> None:
    """Also in bfloat16, where the bracket claims no confidence."""
    formed = known(sharpness_wanted=0.0, diagonal_sum=3.0, confidence=confidence)
    assert without("hessian_diagonal", formed).smoothness.diagonal_sum == 3.0


def test_smoothness_that_was_left_out_keeps_its_reason() -> None:
    part = absent(Smoothness, "skipped")
    assert derived(replace(known(), smoothness=part)).smoothness == part
    assert along(part, [{"method": "sgd"}]) == part


def test_the_orders_are_those_of_the_last_look() -> None:
    looked = replace(known().training, looks=[{"orders": 4}, {"orders": 8}])
    there = derived(replace(known(), training=looked, stages=("training",)))
    assert (there.task.seeds, "seeds" in there.task.why) == (8, False)
    untrained = derived(replace(there, training=replace(looked, looks=None)))
    assert (untrained.task.seeds, untrained.task.why["seeds"]) == (None, "nothing was trained")
    gone = without("training", there)
    assert (gone.task.seeds, gone.task.why["seeds"]) == (None, NOT_REACHED)


def test_points_along_the_runs_take_the_place_of_others_behind_the_start() -> None:
    part = known().smoothness
    rows = [{"method": "adagrad"}, {"method": "sgd"}]
    points = along(part, rows).points or ()
    assert [row["method"] for row in points] == ["start", "adagrad", "sgd"]
    assert points[0]["l1_lower"] == part.l1_lower
    narrow = along(part, rows, {**dict.fromkeys(BRACKET, "narrow"), "method": "other"}).points or ()
    assert (narrow[0]["l1_lower"], narrow[0]["method"]) == ("narrow", "start")


def test_a_reason_stands_as_long_as_its_value_is_null() -> None:
    part = absent(Spectrum, "not measured")
    filled = completed(part, {"kinks": [], "largest": None}, {"largest": "the Hessian is zero", "kinks": "none"})
    assert filled.kinks == []
    assert "kinks" not in filled.why
    assert (filled.why["largest"], filled.why["smallest"]) == ("the Hessian is zero", "not measured")
