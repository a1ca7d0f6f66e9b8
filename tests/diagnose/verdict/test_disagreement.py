"""Why theory and race may disagree: only what works in the direction of the contradiction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diagnose.verdict.disagreement import likely_reasons
from diagnose.verdict.theory import Side
from estimators.results import Noise
from tests.diagnose.verdict.cases import NOISE, SMOOTH, points


def test_nothing_seen_is_no_reason() -> None:
    sides: tuple[Side, ...] = ("adagrad", "sgd", "neither")
    for side in sides:
        assert likely_reasons(side, NOISE, SMOOTH) == []
        assert likely_reasons(side, NOISE, points((1.0, 0.3), (1.9, 0.2), (None, None))) == []


def test_curvature_that_grows_speaks_for_adagrad_and_one_that_falls_against_it() -> None:
    grows, falls = points((1.0, 0.3), (5.0, 0.3)), points((1.0, 0.3), (0.2, 0.3))
    (reason,) = likely_reasons("adagrad", NOISE, grows)
    assert "grew up to 5 times" in reason
    assert likely_reasons("sgd", NOISE, grows) == []
    (reason,) = likely_reasons("sgd", NOISE, falls)
    assert "fell by up to 5 times" in reason
    assert likely_reasons("adagrad", NOISE, falls) == []


def test_curvature_that_comes_into_line_speaks_for_adagrad() -> None:
    (reason,) = likely_reasons("adagrad", NOISE, points((1.0, 0.8), (1.0, 0.2)))
    assert "better aligned" in reason
    (reason,) = likely_reasons("neither", NOISE, points((1.0, 0.2), (1.0, 0.8)))
    assert "worse aligned" in reason


@pytest.mark.parametrize(
    "noise",
    [replace(NOISE, tail_index={"median": 2.1}), replace(NOISE, l1=None, why={"l1": "tails are too heavy"})],
)
def test_heavy_tails_explain_a_win_of_adagrad_alone(noise: Noise) -> None:
    (reason,) = likely_reasons("adagrad", noise, SMOOTH)
    assert "heavy-tailed" in reason
    assert likely_reasons("sgd", noise, SMOOTH) == []


def test_a_rotated_control_is_no_reason_for_a_win() -> None:
    turned = replace(SMOOTH, density=0.7, density_rotated=0.66)
    assert likely_reasons("adagrad", replace(NOISE, tail_index={"median": 4.2}), turned) == []


def test_a_turn_is_a_reason_only_where_the_brackets_certify_it() -> None:
    def along(low: float, high: float) -> list[str]:
        start = {"sharpness": 1.0, "density": 0.24, "density_interval": (0.15, 0.24)}
        later = {"sharpness": 1.0, "density": high, "density_interval": (low, high)}
        return likely_reasons("sgd", NOISE, replace(SMOOTH, points=[start, later]))

    assert along(0.4, 0.42) == []
    (reason,) = along(0.5, 0.6)
    assert "worse aligned" in reason
    assert "(R_L 2.1× to 4×)" in reason
