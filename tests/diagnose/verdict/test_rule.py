"""The verdict as a whole on a table of cases, and its words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.answers import answer_of
from diagnose.verdict.advice import UNSAID, Raced
from diagnose.verdict.rule import decide
from diagnose.verdict.theory import bounds
from estimators.results import Noise, Smoothness, stored_keys
from reports.record.diagnosis import Evidence, Training, Verdict, absent
from tests.diagnose.verdict.cases import GENERAL, NOISE, NOTHING, OFF, SMOOTH, SPECTRUM, entry, points, trained

RANK = {"sgd": -1, "no-difference": 0, "undecided": 0, "adagrad": 1}
WON, LOST, LEVEL, OPEN = [2.0, 2.1, 1.9, 2.0], [0.5, 0.52, 0.48, 0.5], [1.0, 1.02, 0.99, 1.01], [1.5, 0.7, 1.1, 2.2]
FULL = Raced(100, rows=100, deterministic=True)


def judged(
    training: Training, noise: Noise = NOISE, smoothness: Smoothness = SMOOTH, raced: Raced = UNSAID
) -> tuple[Verdict, Any]:
    return decide(noise, smoothness, SPECTRUM, GENERAL, bounds(noise, smoothness, None), training, NOTHING, raced)


def one_run(speedup: float | None) -> Training:
    """Full batches: one deterministic run, without an interval."""
    same = "a batch is all rows, so every order of the batches is the same run"
    why = dict.fromkeys(("speedup_interval", "speedup_se", "looks", "decided_by"), same)
    return trained(
        [1.0] * 4, speedup=speedup, speedup_interval=None, speedup_se=None, looks=None, decided_by=None, why=why
    )


def test_more_evidence_for_adagrad_never_moves_the_answer_towards_sgd() -> None:
    rng = np.random.default_rng(1)
    for spread in (0.0, 0.02, 0.1, 0.4):
        seeds = spread * rng.standard_normal(4)
        grades = [
            RANK[judged(trained(np.exp(seeds + shift).tolist()))[0].answer or ""] for shift in np.linspace(-2, 2, 81)
        ]
        assert grades == sorted(grades)
        assert grades[0] == -1
        assert grades[-1] == 1


@given(st.lists(st.floats(0.05, 20), min_size=4, max_size=8), st.floats(1, 100))
def test_faster_orders_never_move_the_whole_verdict_towards_sgd(ratios: list[float], factor: float) -> None:
    before, _ = judged(trained(ratios))
    after, _ = judged(trained([factor * ratio for ratio in ratios]))
    assert RANK[str(after.answer)] >= RANK[str(before.answer)]


def test_the_theory_never_moves_the_answer() -> None:
    for density in (0.01, 0.5, 1.0):
        part, _ = judged(trained(LOST), replace(NOISE, density=density), replace(SMOOTH, density=density))
        assert part.answer == "sgd"


def test_an_answer_with_its_confidence_says_what_that_covers() -> None:
    for ratios in (WON, LOST, LEVEL):
        part, _ = judged(trained(ratios))
        assert part.answer != "undecided"
        assert part.confidence is not None
        assert 0.95 < part.confidence <= 1
        assert "over 4 orders of the batches; it covers that randomness only, not another start" in (
            part.confidence_meaning or ""
        )


def test_confidence_needs_the_standard_error_and_the_orders_of_the_last_look() -> None:
    sure = judged(trained(WON, looks=[{"orders": 32}]))[0]
    less = judged(trained(WON, looks=[{"orders": 4}, {"orders": 4}]))[0]
    assert sure.confidence is not None
    assert less.confidence is not None
    assert sure.confidence > less.confidence
    lacking = judged(trained(WON, speedup_se=None, why={"speedup_se": "not in this file"}))[0]
    assert lacking.confidence is None
    assert lacking.why["confidence"] == "not in this file"


def test_orders_that_ran_alike_leave_nothing_to_chance() -> None:
    part, _ = judged(trained([2.0] * 4))
    assert part.answer == "adagrad"
    assert part.confidence == 1
    assert "ran alike" in (part.confidence_meaning or "")


def test_undecided_has_no_confidence_but_a_reason() -> None:
    part, _ = judged(trained(OPEN))
    assert part.answer == "undecided"
    assert part.confidence is None
    assert part.why["confidence"] == "the race was not decided"
    assert "holds 1" in (part.reasons or [""])[0]


def test_few_orders_are_undecided() -> None:
    part, _ = judged(trained([2.0, 2.1]))
    assert part.answer == "undecided"
    assert "4 orders" in (part.reasons or [""])[0]


@pytest.mark.parametrize(("speedup", "answer"), [(1.9, "adagrad"), (0.5, "sgd"), (1.05, "no-difference")])
def test_full_batches_follow_the_number(speedup: float, answer: str) -> None:
    part, _ = judged(one_run(speedup), raced=FULL)
    assert part.answer == answer
    assert part.confidence is None
    assert "grid of rates" in part.why["confidence"]
    first = (part.reasons or [""])[0]
    assert "nothing is left to chance; only the grid of rates, a quarter of a decade, is uncertain" in first
    assert judged(one_run(speedup))[0].answer == "undecided"  # the same without full batches


def test_full_batches_without_a_speedup_are_undecided() -> None:
    training = replace(one_run(None), why={"speedup": "sgd never ended below the starting loss"})
    part, _ = judged(training, raced=FULL)
    assert part.answer == "undecided"
    assert "never ended below" in (part.reasons or [""])[0]


def test_without_training_the_verdict_is_undecided_with_the_reason() -> None:
    part, findings = judged(OFF)
    assert part.answer == "undecided"
    assert part.reasons == ["Nothing was trained: training was off (--no-training)."]
    assert part.best_method is None
    assert "training was off" in part.why["best_method"]
    assert part.why["confidence"] == "nothing was trained"
    assert (part.advice or "").startswith("Train both")
    assert findings == ()


def test_nothing_speaks_of_what_this_version_lacks() -> None:
    for training in (trained(WON), OFF):
        part, _ = judged(training)
        assert "version" not in json.dumps([part.reasons, part.evidence, part.theory, part.advice, part.assumptions])


def test_theory_against_race_in_words() -> None:
    agree, _ = judged(trained(WON))
    assert "Theory and race agree." in (agree.reasons or ())
    against, _ = judged(trained(LOST), smoothness=points((1.0, 0.25), (0.1, 0.25)))
    (contrast,) = (reason for reason in against.reasons or () if "disagree" in reason)
    assert contrast.startswith(
        "Theory and race disagree: the theory favours AdaGrad, and SGD won the race. The answer "
    )
    assert "fell by up to 10 times" in contrast
    neither, _ = judged(trained(WON), replace(NOISE, density=0.99), replace(SMOOTH, density=0.9))
    (contrast,) = (reason for reason in neither.reasons or () if "disagree" in reason)
    assert "the theory favours neither method, and AdaGrad won the race" in contrast
    assert contrast.endswith("The bounds leave out constants.")


def test_theory_of_two_minds_is_a_note_and_contradicts_nothing() -> None:
    part, (finding,) = judged(trained(WON), replace(NOISE, density=0.99))
    assert finding.code == "readings-disagree"
    assert not any("Theory and race" in reason for reason in part.reasons or ())
    assert judged(trained(WON))[1] == ()


def test_evidence_has_one_row_for_each_quantity_that_says_something() -> None:
    part, _ = judged(trained(WON))
    rows = part.evidence or ()
    assert [row["side"] for row in rows] == ["adagrad", "adagrad", "adagrad"]
    assert all(set(row) == set(Evidence.__annotations__) and row["says"] and row["neutral"] for row in rows)
    by_name = {row["quantity"]: row for row in rows}
    assert by_name["curvature density R_L"]["interval"] == (pytest.approx(0.25 * 46 / 48), 0.25)
    assert by_name["measured speed-up of AdaGrad over SGD"]["value"] == pytest.approx(2.0, rel=0.01)


def test_path_readings_and_generalized_smoothness_take_no_side() -> None:
    ratios = replace(bounds(NOISE, SMOOTH, None), smoothness_ratio=40.0, noise_ratio=3.0, why={})
    fitted = replace(GENERAL, helps_fraction=0.6, coverage=0.8)
    part, findings = decide(NOISE, SMOOTH, SPECTRUM, fitted, ratios, trained(WON), NOTHING)
    sides = [(row["quantity"], row["side"]) for row in part.evidence or () if row["side"] == "none"]
    assert len(sides) == 3
    assert findings == ()
    assert "Theory and race agree." in (part.reasons or ())


def test_a_prediction_is_a_row_once_there_is_one() -> None:
    ratios = bounds(NOISE, SMOOTH, None)
    for interval, side in (((1.2, 3.0), "adagrad"), ((0.9, 3.0), "undecided"), ((0.2, 0.9), "sgd")):
        told = replace(NOTHING, speedup=1.7, interval=interval)
        part, _ = decide(NOISE, SMOOTH, SPECTRUM, GENERAL, ratios, OFF, told)
        (row,) = (row for row in part.evidence or () if row["quantity"] == "predicted speed-up")
        assert row["side"] == side


def test_everything_null_still_gives_a_verdict_that_can_be_stored() -> None:
    noise, smoothness = absent(Noise, "skipped"), absent(Smoothness, "skipped")
    part, findings = judged(absent(Training, "skipped"), noise, smoothness)
    assert part.answer == "undecided"
    assert findings == ()
    assert [row["status"] for row in part.assumptions or ()] == ["not testable here"] * 3
    json.dumps({key: getattr(part, key) for key in stored_keys(part)}, allow_nan=False)
    assert all(getattr(part, key) is not None or part.why[key] for key in stored_keys(part))


def test_every_null_of_every_verdict_has_its_reason() -> None:
    above = {name: entry(12.0) for name in ("sgd", "adagrad")}
    for training in (trained(WON), trained(OPEN), trained([2.0]), trained(WON, methods=above), one_run(2.0)):
        for raced in (UNSAID, FULL):
            part, _ = judged(training, raced=raced)
            assert all(getattr(part, key) is not None or part.why[key] for key in stored_keys(part))


def test_where_each_is_ahead_and_where_the_race_is_over_are_reasons() -> None:
    rows = [
        {"loss": 3.0, "speedup": 0.5, "interval": (0.4, 0.6)},
        {"loss": 2.0, "speedup": 2.0, "interval": (1.5, 2.5)},
    ]
    part, _ = judged(trained(WON, speedup_by_target=rows, target_floored=True))
    assert (part.reasons or ())[1] == "SGD is ahead down to a loss of 3, AdaGrad from there on."
    assert (part.reasons or ())[2].endswith("the race is over at a loss of 2.")


def test_the_best_of_all_is_the_last_reason() -> None:
    methods = {"sgd": entry(2.0), "adagrad": entry(1.0), "adam": entry(0.85)}
    part, _ = judged(trained(WON, methods=methods))
    assert (part.best_method, part.best_by, part.best_tied) == ("adam", "training", ())
    assert (part.reasons or ())[-1] == (
        "Adam ends lowest of the 3 methods: its lowest final loss is 15% below AdaGrad's."
    )


def test_numbers_in_the_reasons_are_short() -> None:
    part, _ = judged(trained([2.123456, 2.2345678, 1.9876543, 2.0123456]))
    text = " ".join(part.reasons or ())
    assert "2.1×" in text
    assert not any(len(word.strip("[],.×:%").replace(".", "")) > 4 for word in text.split() if word[:1].isdigit())


def test_the_table_of_cases() -> None:
    text = (Path(__file__).parents[3] / "docs" / "verdict.md").read_text()
    cases = re.findall(r"^\| ([\d.]+|none) \| (?:([\d.]+) to ([\d.]+)|none) \| `([a-z-]+)` \|$", text, re.MULTILINE)
    assert len(cases) == 12
    for speedup, low, high, answer in cases:
        interval = (float(low), float(high)) if low else None
        assert answer_of(None if speedup == "none" else float(speedup), interval) == answer
