"""What the advice says, and why theory and race may disagree, on cases made up for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diagnose.schema import Answer, Training, absent
from diagnose.verdict.advice import Raced, advice
from diagnose.verdict.disagreement import curvature_moved, likely_reasons
from diagnose.verdict.theory import Theory, bounds
from estimators.results import Noise, Smoothness
from tests.diagnose.verdict.test_rule import NOISE, SMOOTH, trained

AT_64 = Raced(64)
AGREE = Theory("adagrad", "adagrad", "adagrad", "")
APART = Theory("adagrad", "sgd", "undecided", "")


def method(rate: float, **more: Any) -> dict[str, Any]:
    return {"learning_rate": rate, "final_loss": 1.0, "tuning_range": 0.8, "tuning_range_at_least": False, **more}


def raced(**changes: Any) -> Training:
    return trained(
        [2.0, 2.1, 1.9], methods={"sgd": method(1.78), "adagrad": method(0.32), "adam": method(0.01)}, **changes
    )


def test_which_optimizer_at_which_rate() -> None:
    assert advice("adagrad", raced(), NOISE, None, None, AT_64).startswith(
        "Use AdaGrad at a learning rate near 0.32 in batches of 64; "
        "the rates that end nearly as low span a factor of 6.3."
    )
    assert "Use SGD at a learning rate near 1.78" in advice("sgd", raced(), NOISE, None, None, AT_64)
    either = advice("no-difference", raced(), NOISE, None, None, AT_64)
    assert "SGD at 1.78 or AdaGrad at 0.32" in either


def test_up_to_which_batch_size() -> None:
    scaled = replace(NOISE, noise_scale_l1=240.3, noise_scale_l2=12.2)
    assert "batches of 240 for AdaGrad" in advice("adagrad", raced(), scaled, None, None, AT_64)
    assert "batches of 12 for SGD" in advice("sgd", raced(), scaled, None, None, AT_64)
    swept = raced(noise_terms={"adagrad": {"pays_up_to": 256, "pays_at_least": False}})
    assert "up to 256, by the sweep" in advice("adagrad", swept, scaled, None, None, AT_64)
    assert "batches pay" not in advice("adagrad", raced(), NOISE, None, None, AT_64)


def test_what_beat_both() -> None:
    assert advice("adagrad", raced(), NOISE, "adam", 0.05, AT_64).endswith(
        "Adam at 0.01 ended lower than both: try it."
    )
    assert "Adam" not in advice("adagrad", raced(), NOISE, "adam", 0.001, AT_64)
    assert "lower than both" not in advice("adagrad", raced(), NOISE, "adagrad", 0.0, AT_64)


def test_which_draw_would_bound_what_the_noise_is_blind_to() -> None:
    drawn = replace(NOISE, density_interval=(0.3, 0.5), rare_rows=3.7 / 64)
    answers: tuple[Answer, ...] = ("adagrad", "undecided")
    for answer in answers:
        assert advice(answer, raced(), drawn, None, None, AT_64, 10**6).endswith(
            " The interval of the noise holds unless rows rarer than 1 in 17 carry it: `--samples 370` brings that to "
            "1 in 100."
        )
    assert "`--samples 335`" in advice("adagrad", raced(), drawn, None, None, AT_64, 1797)
    changes: list[dict[str, Any]] = [{"rare_rows": 0.01}, {"rare_rows": None}, {"density_interval": None}]
    for change in changes:
        assert "rarer" not in advice("adagrad", raced(), replace(drawn, **change), None, None, AT_64, 1797)


def test_undecided_says_how_to_decide() -> None:
    off = absent(Training, "training was off")
    assert "Let it train" in advice("undecided", off, NOISE, None, None, AT_64)
    one = trained([1.5], speedup_interval=None)
    assert "`--seeds 3`" in advice("undecided", one, NOISE, None, None, AT_64)
    # half of the interval is 2.5 times the effect: 6.25 times the seeds
    wide = trained([1.0] * 4, speedup=1.2, speedup_interval=(1.2 ** (1 - 2.5), 1.2 ** (1 + 2.5)))
    assert "`--seeds 25`" in advice("undecided", wide, NOISE, None, None, AT_64)
    level = trained([1.0] * 3, speedup=1.001, speedup_interval=(0.7, 1.4))
    assert "too small to matter" in advice("undecided", level, NOISE, None, None, AT_64)


def points(*sharpness: float | None) -> Smoothness:
    return replace(SMOOTH, points=[{"sharpness": value} for value in sharpness])


def test_likely_reasons_follow_from_what_was_measured() -> None:
    ratios = bounds(NOISE, SMOOTH, None)
    quiet: Noise = replace(NOISE, tail_index={"median": 4.2})
    assert likely_reasons(AGREE, quiet, SMOOTH, ratios) == []
    apart = likely_reasons(APART, quiet, SMOOTH, replace(ratios, d_inf=0.5, d_2=2.0))
    assert len(apart) == 1
    assert "4× D∞" in apart[0]
    assert "factor of 5" in likely_reasons(AGREE, quiet, points(1.0, 5.0, None), ratios)[0]
    assert "heavy-tailed" in likely_reasons(AGREE, replace(quiet, tail_index={"median": 2.1}), SMOOTH, ratios)[0]
    assert (
        "heavy-tailed"
        in likely_reasons(AGREE, replace(quiet, l1=None, why={"l1": "tails are too heavy"}), SMOOTH, ratios)[0]
    )
    turned = replace(SMOOTH, density=0.7, density_rotated=0.66)
    assert "random rotation" in likely_reasons(AGREE, quiet, turned, ratios)[0]


def test_curvature_that_stays_is_no_reason() -> None:
    assert curvature_moved(points(1.0, 1.9)) is None
    assert curvature_moved(points(3.0)) is None
    assert curvature_moved(SMOOTH) is None
    assert curvature_moved(points(1.0, 0.4)) == pytest.approx(2.5)


def test_the_advice_names_what_it_holds_for() -> None:
    under = advice("adagrad", raced(), NOISE, None, None, Raced(64, "inverse-sqrt", 0.5))
    assert "in batches of 64, divided by the root of the step, kept within 0.5" in under
    assert "No advice" in advice("adagrad", raced(), NOISE, None, None, Raced(64, rotated=True))


def test_a_small_difference_is_not_promised_to_show() -> None:
    small = trained([1.0] * 3, speedup=1.08, speedup_interval=(0.79, 1.48))
    assert "--seeds" not in advice("undecided", small, NOISE, None, None, AT_64)
