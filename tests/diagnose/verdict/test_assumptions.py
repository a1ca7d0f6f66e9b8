"""What the theory assumes, each supported, not supported or not testable on numbers made up for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from diagnose.verdict.assumptions import assumptions, share_interval
from estimators.results import GeneralizedSmoothness, Noise, Smoothness, Spectrum
from reports.record.diagnosis import Assumption
from tests.diagnose.verdict.cases import GENERAL, NOISE, SMOOTH, SPECTRUM, points


def rows(
    noise: Noise = NOISE,
    smoothness: Smoothness = SMOOTH,
    spectrum: Spectrum = SPECTRUM,
    generalized: GeneralizedSmoothness = GENERAL,
) -> dict[str, Assumption]:
    return {row["assumption"].split(" (")[0]: row for row in assumptions(noise, smoothness, spectrum, generalized)}


def smooth(part: Smoothness) -> Assumption:
    return rows(smoothness=part)["smoothness by coordinate"]


def test_smoothness_is_supported_where_curvature_stays() -> None:
    row = smooth(points((1.0, 0.3), (1.5, 0.3), (1.2, 0.3)))
    assert (row["status"], row["value"], row["n"]) == ("supported", 1.5, 3)
    assert row["says"].endswith("along the runs ‖L‖₁ by 1.5× and λ by 1.5×")
    moved = smooth(points((1.0, 0.3), (0.4, 0.3), (None, None)))
    assert (moved["status"], moved["value"], moved["n"]) == ("not supported", 2.5, 2)


def test_one_point_tests_no_smoothness_but_a_closed_form_does() -> None:
    alone = smooth(points((1.0, 0.3)))
    assert (alone["status"], alone["value"], alone["n"]) == ("not testable here", None, 1)
    closed = smooth(replace(points((1.0, 0.3), (0.1, 0.3)), global_l1=52.0))
    assert closed["status"] == "supported"
    assert "for all w by construction, with ‖L‖₁ = 52" in closed["says"]
    assert closed["value"] == pytest.approx(10)
    off = smooth(replace(SMOOTH, l1_upper=None, why={"l1_upper": "skipped"}))
    assert (off["status"], off["says"], off["n"]) == ("not testable here", "skipped", 0)


@pytest.mark.parametrize(
    ("median", "samples", "status"),
    [
        (4.3, 64, "supported"),
        (2.5, 64, "not testable here"),
        (2.5, 1024, "supported"),
        (1.2, 64, "not supported"),
        (1.9, 64, "not testable here"),
        (1.5, 1024, "not supported"),
    ],
)
def test_noise_has_a_variance_where_the_tail_index_says_so_beyond_its_error(
    median: float, samples: int, status: str
) -> None:
    row = rows(replace(NOISE, tail_index={"median": median, "samples": samples}))["noise of bounded variance"]
    assert (row["status"], row["value"], row["n"]) == (status, median, samples)
    assert row["interval"] is not None
    assert row["interval"][0] < median < row["interval"][1]


def test_what_the_draw_cannot_tell_of_the_noise_is_not_testable() -> None:
    row = rows(NOISE)["noise of bounded variance"]
    assert (row["status"], row["value"], row["says"]) == ("not testable here", None, "not measured")
    heavy = replace(NOISE, l1=None, tail_index={"median": 4.3, "samples": 64}, why={"l1": "tails are too heavy"})
    assert rows(heavy)["noise of bounded variance"]["status"] == "not testable here"


@pytest.mark.parametrize(
    ("failed", "status"), [(0, "supported"), (1, "supported"), (2, "not testable here"), (3, "not supported")]
)
def test_generalized_smoothness_by_the_points_left_out(failed: int, status: str) -> None:
    measured: Any = [{"fitted": k % 2 == 0} for k in range(10)]
    part = replace(GENERAL, coverage=1 - failed / 5, points=measured)
    row = rows(generalized=part)["smoothness that grows with the gradient"]
    assert (row["status"], row["n"]) == (status, 5)
    assert row["value"] == pytest.approx(failed / 5)
    assert f"fails at {failed} of 5 left out" in row["says"]


def test_without_a_fit_its_reason_stands_there() -> None:
    row = rows()["smoothness that grows with the gradient"]
    assert (row["status"], row["value"], row["n"]) == ("not testable here", None, 0)
    assert row["says"] == "too narrow a range of gradients"


@pytest.mark.parametrize(("count", "n"), [(0, 5), (3, 5), (5, 5), (1, 40)])
def test_the_interval_of_a_share_is_that_of_scipy(count: int, n: int) -> None:
    exact = stats.binomtest(count, n).proportion_ci(0.95, "exact")
    assert share_interval(count, n) == pytest.approx((exact.low, exact.high))


def test_convexity_is_spoken_of_only_where_it_can_be() -> None:
    assert "convexity" not in rows()
    assert "convexity" not in rows(spectrum=replace(SPECTRUM, smallest=-1e-7, largest=1.0, rounding=1e-6))
    assert "convexity" not in rows(spectrum=replace(SPECTRUM, smallest=0.1, largest=1.0, rounding=1e-6))
    row = rows(spectrum=replace(SPECTRUM, smallest=-0.2, largest=1.0, rounding=1e-6))["convexity"]
    assert (row["status"], row["value"]) == ("not supported", -0.2)
    linear = rows(smoothness=replace(SMOOTH, global_l1=52.0))["convexity"]
    assert (linear["status"], linear["value"]) == ("supported", None)


def test_brackets_too_wide_to_tell_support_nothing() -> None:
    """Lambda moves by 1.4 to 2.7: which side of 2 that is no bracket says, unless the sharpness does."""
    start = {"sharpness": 1.0, "l1_lower": 9.0, "l1_upper": 13.0, "density": 0.13}
    later = {"sharpness": 1.2, "l1_lower": 18.0, "l1_upper": 24.0, "density": 0.2}
    row = smooth(replace(SMOOTH, points=[start, later]))
    assert (row["status"], row["n"]) == ("not testable here", 2)
    assert row["interval"] == pytest.approx((18 / 13, 24 / 9))
    assert "do not tell whether curvature moves by 2" in row["says"]
    assert row["says"].endswith("along the runs ‖L‖₁ by 1.4× to 2.7× and λ by 1.2×")
    assert smooth(replace(SMOOTH, points=[start, {**later, "sharpness": 2.1}]))["status"] == "not supported"
    assert (
        smooth(replace(SMOOTH, points=[start, {**later, "l1_upper": 17.9, "l1_lower": 17.0}]))["status"] == "supported"
    )
