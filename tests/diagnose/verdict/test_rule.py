"""The rule of the verdict on a table of cases, and its words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diagnose.schema import NOT_YET, Evidence, Prediction, Training, Verdict, absent
from diagnose.training.summary import summarise, t_interval
from diagnose.verdict.answers import answer_of
from diagnose.verdict.rule import best_method, decide
from diagnose.verdict.theory import bounds
from estimators.results import Finding, GeneralizedSmoothness, Noise, Smoothness, stored_keys
from tests.diagnose.training.tasks import made_race

NOISE = replace(absent(Noise, "not measured"), density=0.4, l1=14.0, l2=1.7)
SMOOTH = replace(absent(Smoothness, "not measured"), density=0.25, l1_lower=46.0, l1_upper=48.0, sharpness=1.6)
GENERAL = absent(GeneralizedSmoothness, "too narrow a range of gradients")
RANK = {"sgd": -1, "no-difference": 0, "undecided": 0, "adagrad": 1}
NOTHING = absent(Prediction, NOT_YET)


def trained(ratios: Sequence[float], **changes: Any) -> Training:
    logs = [math.log(ratio) for ratio in ratios]
    ends = t_interval(logs)
    method = {"learning_rate": 0.1, "final_loss_interval": None, "steps_to_target": 1.0, "tuning_range": 1.0}
    base = Training(
        steps=100,
        target_loss=2.0,
        target_floored=False,
        initial_loss=10.0,
        speedup=math.exp(float(np.mean(logs))),
        speedup_interval=None if ends is None else (math.exp(ends[0]), math.exp(ends[1])),
        speedup_se=None if ends is None else float(stats.sem(logs)),
        speedup_seeds=list(ratios),
        speedup_by_target=None,
        looks=None,
        decided_by=None,
        best_other=None,
        best_other_speedup=None,
        best_other_interval=None,
        curves_file="runs.csv",
        methods={"sgd": {**method, "final_loss": 2.0}, "adagrad": {**method, "final_loss": 1.0}},
        batch_sizes=None,
        noise_terms=None,
        why={} if ends else {"speedup_interval": "an interval over seeds needs 3 seeds or more"},
    )
    return replace(base, **changes)


def judged(training: Training, noise: Noise = NOISE, smoothness: Smoothness = SMOOTH) -> tuple[Verdict, Any]:
    return decide(noise, smoothness, GENERAL, bounds(noise, smoothness, None), training, NOTHING)


def test_more_evidence_for_adagrad_never_moves_the_answer_towards_sgd() -> None:
    rank = {"sgd": 0, "no-difference": 1, "undecided": 1, "adagrad": 2}
    rng = np.random.default_rng(1)
    for spread in (0.0, 0.02, 0.1, 0.4):
        seeds = spread * rng.standard_normal(4)
        grades = [
            rank[judged(trained(np.exp(seeds + shift).tolist()))[0].answer or ""] for shift in np.linspace(-1, 1, 81)
        ]
        assert grades == sorted(grades)
        assert grades[0] == 0
        assert grades[-1] == 2


def test_the_theory_never_moves_the_answer() -> None:
    for density in (0.01, 0.5, 1.0):
        part, _ = judged(trained([0.5, 0.52, 0.48]), replace(NOISE, density=density), replace(SMOOTH, density=density))
        assert part.answer == "sgd"


def test_seeds_that_ran_alike_leave_nothing_to_chance() -> None:
    part, _ = judged(trained([2.0] * 3))
    assert part.answer == "adagrad"
    assert "ran alike" in (part.confidence_meaning or "")


def test_an_answer_with_its_confidence_says_what_that_covers() -> None:
    for ratios in ([2.0, 2.1, 1.9], [0.5, 0.52, 0.48], [1.0, 1.02, 0.99]):
        part, _ = judged(trained(ratios))
        assert part.answer != "undecided"
        assert part.confidence is not None
        assert 0.95 < part.confidence <= 1
        assert "not another start or other data" in (part.confidence_meaning or "")


def test_undecided_has_no_confidence_but_a_reason() -> None:
    part, _ = judged(trained([1.5, 0.7, 1.1]))
    assert part.answer == "undecided"
    assert part.confidence is None
    assert part.why["confidence"]
    assert "holds 1" in (part.reasons or [""])[0]


def test_fewer_than_three_seeds_are_undecided() -> None:
    part, _ = judged(trained([2.0, 2.1]))
    assert part.answer == "undecided"
    assert "3 seeds" in (part.reasons or [""])[0]


def test_without_training_the_verdict_is_undecided_with_the_reason() -> None:
    part, findings = judged(absent(Training, "training was off (--no-training)"))
    assert part.answer == "undecided"
    assert "training was off" in (part.reasons or [""])[0]
    assert any(NOT_YET in reason for reason in part.reasons or ())
    assert part.best_method is None
    assert "training was off" in part.why["best_method"]
    assert findings == ()


@pytest.mark.parametrize(
    ("finals", "best", "margin"),
    [
        ({"sgd": 2.0, "adagrad": 1.0}, "adagrad", 0.0),
        ({"sgd": 2.0, "adagrad": 1.0, "adam": 0.1}, "adam", 0.9 / 9),
        ({"adam": 1.0}, "adam", None),
        ({"sgd": 12.0, "adam": 1.0}, "adam", None),
        ({"sgd": None, "adagrad": 1.0}, "adagrad", 0.0),
        ({"sgd": None}, None, None),
    ],
)
def test_best_method_and_margin(finals: dict[str, float | None], best: str | None, margin: float | None) -> None:
    methods = {name: {"final_loss": final} for name, final in finals.items()}
    part = trained([1.0] * 3, methods=methods)
    assert best_method(part) == (best, margin if margin is None else pytest.approx(margin))
    verdict, _ = judged(part)
    assert verdict.best_method is not None or verdict.why["best_method"]
    assert verdict.best_margin is not None or verdict.why["best_margin"]


def test_theory_against_race_in_words() -> None:
    agree, _ = judged(trained([2.0, 2.1, 1.9]))
    assert "Theory and race agree." in (agree.reasons or ())
    against, _ = judged(trained([0.5, 0.52, 0.48]))
    assert any("disagree" in reason and "SGD won" in reason for reason in against.reasons or ())
    neither, _ = judged(trained([2.0, 2.1, 1.9]), replace(NOISE, density=0.99), replace(SMOOTH, density=0.9))
    assert any("disagree" in reason and "neither method" in reason for reason in neither.reasons or ())


def test_evidence_has_one_row_for_each_quantity() -> None:
    part, _ = judged(trained([2.0, 2.1, 1.9]))
    rows = part.evidence or ()
    assert [row["side"] for row in rows] == [
        "adagrad",
        "adagrad",
        "unknown",
        "unknown",
        "unknown",
        "unknown",
        "adagrad",
    ]
    assert all(set(row) == set(Evidence.__dataclass_fields__) and row["says"] and row["neutral"] for row in rows)
    by_name = {row["quantity"]: row for row in rows}
    assert by_name["curvature density R_L"]["interval"] == (pytest.approx(0.25 * 46 / 48), 0.25)
    assert by_name["predicted speed-up"]["says"] == NOT_YET
    assert by_name["measured speed-up of AdaGrad over SGD"]["value"] == pytest.approx(2.0, rel=0.01)


def test_everything_null_still_gives_a_verdict_that_can_be_stored() -> None:
    noise, smoothness = absent(Noise, "skipped"), absent(Smoothness, "skipped")
    part, findings = judged(absent(Training, "skipped"), noise, smoothness)
    assert part.answer == "undecided"
    assert findings == ()
    json.dumps({key: getattr(part, key) for key in stored_keys(part)}, allow_nan=False)
    assert all(getattr(part, key) is not None or part.why[key] for key in stored_keys(part))


def test_readings_that_disagree_are_said() -> None:
    race = made_race({"sgd": {1.0: [[10.0, 8.0, 2.0]]}, "adagrad": {1.0: [[10.0, 2.0, 1.0]]}})
    far = replace(race, legs=tuple(replace(one, d_inf=3.0, d_2=3.5) for one in race.legs))
    ratios = bounds(NOISE, SMOOTH, far)
    part, findings = decide(NOISE, SMOOTH, GENERAL, ratios, summarise(far), NOTHING)
    (finding,) = findings
    assert isinstance(finding, Finding)
    assert finding.code == "readings-disagree"
    assert all((finding.found, finding.meaning, finding.action))
    assert "undecided here" in (part.theory or "")
    near = replace(race, legs=tuple(replace(one, d_inf=1.0, d_2=10.0) for one in race.legs))
    assert decide(NOISE, SMOOTH, GENERAL, bounds(NOISE, SMOOTH, near), summarise(near), NOTHING)[1] == ()


def test_numbers_in_the_reasons_are_short() -> None:
    part, _ = judged(trained([2.123456, 2.2345678, 1.9876543]))
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


@given(st.lists(st.floats(0.05, 20), min_size=3, max_size=8), st.floats(1, 100))
def test_faster_seeds_never_move_the_whole_verdict_towards_sgd(ratios: list[float], factor: float) -> None:
    before, _ = judged(trained(ratios))
    after, _ = judged(trained([factor * ratio for ratio in ratios]))
    assert RANK[str(after.answer)] >= RANK[str(before.answer)]


def converged(first: float, second: float, told: float) -> Training:
    """A race whose pair ended at these losses, known to ``told``."""
    rows = trained([1.05, 1.04, 1.06]).methods or {}
    ends = {"sgd": first, "adagrad": second}
    return trained(
        [1.05, 1.04, 1.06],
        methods={name: {**row, "final_loss": ends[name], "loss_resolution": told} for name, row in rows.items()},
    )


def test_where_both_converged_it_is_said() -> None:
    verdict, _ = judged(converged(1.0, 1.0 + 5e-8, 1e-7))
    assert verdict.answer == "no-difference"
    assert "Both converged" in (verdict.reasons or ())[0]
    apart, _ = judged(converged(1.0, 1.0 + 5e-7, 1e-7))
    assert "Both converged" not in (apart.reasons or ())[0]


def test_a_method_that_rounding_alone_puts_first_is_not_the_best() -> None:
    pair = converged(1.0, 1.0 - 5e-8, 1e-7)
    assert best_method(pair) == ("sgd", 0.0)
    row = {**(pair.methods or {})["sgd"], "final_loss": 1.0 - 9e-8}
    assert best_method(replace(pair, methods={"adam": row, **(pair.methods or {})})) == ("sgd", 0.0)
    clear = replace(pair, methods={**(pair.methods or {}), "adam": {**row, "final_loss": 0.9}})
    best, margin = best_method(clear)
    assert best == "adam"
    assert margin == pytest.approx(0.1 / 9)
    nothing = replace(pair, initial_loss=1.0 + 2e-8)
    assert best_method(nothing) == ("sgd", None)
