"""Where a bracket may end: the sides of R_L at the start, the start at a later point; what the verdict says then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import diagnose
from diagnose.continuation import without
from diagnose.settings import Settings, resolve
from diagnose.stages import generalized_smoothness, points_along_runs
from diagnose.stages.thresholds import at_later_point, at_start, unclear
from diagnose.verdict.changes import change, range_of, times
from diagnose.verdict.theory import smoothness_side
from estimators.results import Smoothness, absent
from estimators.smoothness_vector.stopping import Goal, marks
from reports.page.sections.smoothness import smoothness as section_of
from reports.words.sentences import smoothness_reading
from reports.words.sentences import smoothness_side as words

AUTO = resolve(Settings(), "network", 5000, 100)
START = replace(
    absent(Smoothness, "not measured"),
    l1_lower=9.0,
    l1_upper=12.0,
    density_interval=(0.15, 0.2),
    density=0.2,
    ended_by="thresholds",
)


def row(low: float, high: float, scale: float = 60.0) -> dict[str, Any]:
    return {"density": high, "density_interval": (low, high), "l1_lower": scale * low, "l1_upper": scale * high}


def test_an_explicit_gap_means_it() -> None:
    asked = resolve(Settings(gap=0.01), "network", 5000, 100)
    assert (asked.gap, AUTO.gap) == (0.01, None)
    assert at_start(asked) == at_later_point(asked, START) == ()
    assert at_later_point(AUTO, absent(Smoothness, "left out")) == ()


def test_where_the_start_may_end_its_reading_is_the_same_throughout() -> None:
    for k in range(1, 200):
        lower = 0.005 * k
        upper = Goal(0.05, marks(at_start(AUTO), (1.0, 1.0))).highest(lower)
        if upper > 1.05 * lower * (1 + 1e-9):
            upper = min(upper, 1.0)
            assert smoothness_side(lower, None) == smoothness_side(upper, None)
            assert words(lower) == words(upper)


@pytest.mark.parametrize(
    ("low", "high", "ended"),
    [
        (0.21, 0.29, True),  # above the start, below twice
        (0.21, 0.31, False),  # perhaps twice
        (0.41, 0.9, True),
        (0.11, 0.14, True),
        (0.09, 0.14, False),
        (0.03, 0.07, True),
        (0.16, 0.19, True),  # within: no narrowing tells it from the start
        (0.14, 0.16, False),
    ],
)
def test_a_later_point_is_told_from_the_start_and_from_twice_and_half_of_it(
    low: float, high: float, ended: bool
) -> None:
    goal = Goal(0.05, marks(at_later_point(AUTO, START), (60.0, 60.0)))
    assert goal.cleared(60 * low, 60 * high) == ended


def test_factors_between_brackets() -> None:
    first, second = row(0.1, 0.12), row(0.2, 0.3)
    assert change(first, second, "density") == pytest.approx((0.2 / 0.12, 3.0))
    moved = range_of([first, second], "l1")
    assert moved is not None
    assert moved[0] == pytest.approx((0.2 / 0.12, 3.0))
    assert moved[1] == 2
    assert range_of([first], "l1") is None
    assert times((1.5, 1.5)) == "1.5×"
    assert times((1.4, 1.72)) == "1.4× to 1.7×"
    # Files of older versions hold no intervals.
    assert change({"density": 0.1}, {"density": 0.3}, "density") == pytest.approx((3.0, 3.0))


def test_the_start_is_unclear_where_twice_or_half_of_it_is_within_what_later_points_may_be() -> None:
    assert unclear([row(0.15, 0.2), row(0.3, 0.32)])
    assert unclear([row(0.15, 0.2), row(0.09, 0.095)])
    assert not unclear([row(0.15, 0.2), row(0.16, 0.19), row(0.41, 0.43), row(0.05, 0.06)])
    assert unclear([row(0.15, 0.2), row(0.16, 0.19), row(0.38, 0.41)])


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand parameters count as many: curvature is measured at the start and at the end alone."""
    monkeypatch.setattr(points_along_runs, "LARGE_NETWORK", 1000)
    monkeypatch.setattr(generalized_smoothness, "LARGE_NETWORK", 1000)


def network(**settings: Any) -> diagnose.Diagnosis:
    torch.manual_seed(0)
    x = torch.randn(48, 30)
    model = nn.Sequential(nn.Linear(30, 60), nn.Tanh(), nn.Linear(60, 8))
    how: dict[str, Any] = {
        "steps": 6,
        "batch_size": 16,
        "seeds": 1,
        "optimizers": ("sgd", "adagrad"),
        "learning_rates": (0.1,),
    }
    return diagnose.run(model, (x, torch.randint(0, 8, (48,))), "cross-entropy", **how, **settings)


@pytest.mark.usefixtures("large")
def test_from_end_to_end() -> None:
    """Wide brackets are certified and read as narrow ones; an explicit gap is kept at both points."""
    auto, narrow = network(), network(gap=0.02)
    for found in (auto, narrow):
        assert found.smoothness.points is not None
        assert [point["step"] for point in found.smoothness.points] == [0, 6]
    part, close = auto.smoothness, narrow.smoothness
    assert (part.ended_by, part.gap_wanted, close.ended_by, close.gap_wanted) == ("thresholds", 0.05, "gap", 0.02)
    assert part.l1_upper is not None
    assert part.l1_lower is not None
    assert close.l1_lower is not None
    assert close.l1_upper is not None
    assert part.l1_upper > 1.05 * part.l1_lower
    assert close.l1_upper <= 1.02 * close.l1_lower
    assert part.l1_lower <= close.l1_upper
    assert close.l1_lower <= part.l1_upper
    assert part.products is not None
    assert close.products is not None
    assert part.products < close.products
    assert smoothness_side(part.density, None) == smoothness_side(close.density, None)
    for one, other in zip(part.points or (), close.points or (), strict=True):
        assert one["l1_lower"] <= other["l1_upper"]
        assert other["l1_lower"] <= one["l1_upper"]
        assert other["l1_upper"] <= 1.02 * other["l1_lower"] * (1 + 1e-9)
    assert not unclear(part.points or ())
    section = section_of(auto)
    assert "lies between" in section.finding
    assert "The bracket ended there, since the reading is the same anywhere within." in section.finding
    assert "ended there" not in section_of(narrow).finding
    assert " to " in smoothness_reading(part)
    assert " to " not in smoothness_reading(close)


@pytest.mark.usefixtures("large")
def test_the_start_is_narrowed_where_a_later_point_may_be_twice_as_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row along the runs alone: what has been printed and read of the start stays."""
    monkeypatch.setattr(generalized_smoothness, "unclear", lambda rows: True)
    diagnosis = network()
    found = diagnosis.smoothness
    assert found.points is not None
    start = found.points[0]
    assert (found.ended_by, start["ended_by"]) == ("thresholds", "gap")
    assert start["l1_upper"] <= 1.05 * start["l1_lower"] * (1 + 1e-9)
    assert start["l1_lower"] >= (found.l1_lower or 0) * 0.999
    # A run that goes on without the later points has the start as it was measured.
    (again,) = without("generalized_smoothness", diagnosis).smoothness.points or ()
    assert (again["l1_lower"], again["l1_upper"], again["ended_by"]) == (found.l1_lower, found.l1_upper, "thresholds")
