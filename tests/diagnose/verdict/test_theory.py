"""The ratios of the bounds in both readings, and the side of the box reading."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from diagnose.training.runs import Race
from diagnose.verdict.theory import Side, bounds, findings, noise_side, read, smoothness_side
from estimators.results import Noise, Smoothness, absent
from tests.diagnose.training.tasks import leg, settings

RANK: dict[Side, int] = {"neither": 0, "undecided": 1, "adagrad": 2}


def noise(density: float | None = 0.4, l1: float | None = 14.0, l2: float | None = 1.7) -> Noise:
    base = absent(Noise, "not measured in this test")
    return replace(base, density=density, l1=l1, l2=l2)


def smoothness(
    density: float | None = 0.25, l1_upper: float | None = 48.0, sharpness: float | None = 1.6, **more: Any
) -> Smoothness:
    base = absent(Smoothness, "not measured in this test")
    return replace(base, density=density, l1_upper=l1_upper, sharpness=sharpness, **more)


def a_race(**changes: Any) -> Race:
    legs = (
        leg("sgd", 1.0, 0, [9.0, 3.0], d_inf=50.0, d_2=4.0),
        leg("sgd", 1.0, 1, [9.0, 2.0], d_inf=50.0, d_2=5.0),
        leg("sgd", 2.0, 0, [9.0, 1.0], d_inf=50.0, d_2=60.0),
        leg("sgd", 2.0, 1, [9.0, 8.0], d_inf=50.0, d_2=60.0),
        leg("adagrad", 0.1, 0, [9.0, 1.0], d_inf=2.0, d_2=70.0),
        leg("adagrad", 0.1, 1, [9.0, 3.0], d_inf=3.0, d_2=70.0),
    )
    return Race(settings(**({"seeds": 2, "rows": 64} | changes)), legs, {})


def test_distances_come_from_the_lowest_run_at_the_best_rate() -> None:
    part = bounds(noise(), smoothness(), a_race())
    assert (part.d_inf, part.d_2) == (2.0, 5.0)
    assert part.smoothness_ratio == pytest.approx(48 * 2**2 / (1.6 * 5**2))
    assert part.noise_ratio == pytest.approx(14 * 2 / (1.7 * 5))
    assert part.smoothness_ratio_box == 0.25
    assert part.noise_ratio_box == 0.4
    assert part.why == {}


def test_box_distances_give_the_box_ratio() -> None:
    """With d_2 = sqrt(d) d_inf the path ratios are R_L and phi(sigma)."""
    d, d_inf = 9, 1.5
    legs = (
        leg("sgd", 1.0, 0, [9.0, 2.0], d_2=3 * d_inf),
        leg("adagrad", 1.0, 0, [9.0, 1.0], d_inf=d_inf),
    )
    l1_upper, sharpness, l1, l2 = 5.0, 2.0, 6.0, 2.5
    part = bounds(
        noise(l1 / (d**0.5 * l2), l1, l2),
        smoothness(l1_upper / (d * sharpness), l1_upper, sharpness),
        Race(settings(seeds=1, rows=64), legs, {}),
    )
    assert part.smoothness_ratio == pytest.approx(part.smoothness_ratio_box)
    assert part.noise_ratio == pytest.approx(part.noise_ratio_box)


@pytest.mark.parametrize(
    ("race", "key", "reason"),
    [
        (None, "d_inf", "training was off"),
        (a_race(optimizers=("sgd",)), "d_inf", "adagrad did not run"),
        (a_race(optimizers=("adagrad",)), "d_2", "sgd did not run"),
        (a_race(seeds=5), "d_inf", "diverged"),
    ],
)
def test_without_runs_the_path_is_null_with_the_reason(race: Race | None, key: str, reason: str) -> None:
    part = bounds(noise(), smoothness(), race)
    assert getattr(part, key) is None
    assert reason in part.why[key]
    assert part.smoothness_ratio is None
    assert part.noise_ratio is None
    assert set(part.why) >= {"smoothness_ratio", "noise_ratio"}
    assert part.smoothness_ratio_box == 0.25


@pytest.mark.parametrize(
    ("noisy", "curved"),
    [
        (noise(None, None, None), smoothness()),
        (noise(None, 0.0, 0.0), smoothness()),
        (noise(), smoothness(None, None, None)),
        (noise(), smoothness(None, 0.0, 0.0)),
    ],
)
def test_every_null_has_its_reason(noisy: Noise, curved: Smoothness) -> None:
    part = bounds(noisy, curved, a_race())
    nulls = [
        key
        for key in ("smoothness_ratio", "noise_ratio", "smoothness_ratio_box", "noise_ratio_box")
        if getattr(part, key) is None
    ]
    assert len(nulls) == 2
    assert all(part.why[key] for key in nulls)


def test_a_run_that_never_moved_gives_no_ratio() -> None:
    legs = (leg("sgd", 1.0, 0, [9.0, 9.0], d_2=0.0), leg("adagrad", 1.0, 0, [9.0, 1.0]))
    part = bounds(noise(), smoothness(), Race(settings(seeds=1, rows=64), legs, {}))
    assert part.smoothness_ratio is None
    assert "never left" in part.why["smoothness_ratio"]


def test_sides_of_single_readings() -> None:
    assert [noise_side(x) for x in (None, 0.1, 0.5, 0.94, 0.95, 1.0)] == [
        "unknown", "adagrad", "adagrad", "adagrad", "neither", "neither",
    ]  # fmt: skip
    assert [smoothness_side(x, None) for x in (None, 0.05, 0.54, 0.55, 1.0)] == [
        "unknown", "adagrad", "adagrad", "neither", "neither",
    ]  # fmt: skip


def test_curvature_no_lower_than_its_rotated_control_is_no_evidence() -> None:
    assert smoothness_side(0.3, 0.64) == "adagrad"
    assert smoothness_side(0.3, 0.3) == "neither"
    assert smoothness_side(0.3, 0.2) == "neither"


@pytest.mark.parametrize(
    ("phi", "r_l", "side"),
    [
        (0.4, 0.1, "adagrad"),
        (0.97, 0.1, "undecided"),
        (0.4, 0.8, "undecided"),
        (0.97, 0.8, "neither"),
        (None, 0.1, "adagrad"),
        (0.97, None, "neither"),
        (None, None, "unknown"),
    ],
)
def test_table_of_cases(phi: float | None, r_l: float | None, side: Side) -> None:
    theory = read(noise(phi), smoothness(r_l))
    assert theory.side == side
    named = {f.code for f in findings(theory, noise(phi), smoothness(r_l), trained=True)}
    assert named == ({"readings-disagree"} if side == "undecided" else set())
    assert ("the theory is undecided" in theory.sentence) == (side == "undecided")


def test_the_sentence_holds_the_numbers() -> None:
    assert read(noise(0.312), smoothness(0.241)).sentence == (
        "Noise sits in few coordinates (φ 0.31), curvature is partly aligned with the coordinates (R_L 0.24): "
        "the theory favours AdaGrad."
    )
    assert read(noise(None), smoothness(0.05)).sentence == (
        "Noise was not measured, curvature is strongly aligned with the coordinates (R_L 0.050): "
        "the theory favours AdaGrad, as far as it was measured."
    )
    turned = read(noise(0.97), smoothness(0.3, density_rotated=0.28)).sentence
    assert "no better aligned with the coordinates than after a random rotation (R_L 0.30)" in turned
    assert turned.endswith("the theory favours neither method.")


def test_a_reading_alone_in_its_side_is_named() -> None:
    for trained, action in ((True, "the answer rests on the race"), (False, "train both")):
        (finding,) = findings(read(noise(0.4), smoothness(0.8)), noise(0.4), smoothness(0.8), trained)
        assert "only that of noise favours AdaGrad" in finding.meaning
        assert action in finding.action
        assert finding.severity == "note"


def test_the_theory_never_speaks_for_sgd() -> None:
    for phi, r_l in product((0.01, 0.5, 1.0), (0.01, 0.3, 1.0)):
        assert read(noise(phi), smoothness(r_l)).side != "sgd"


def test_more_evidence_for_adagrad_never_moves_the_theory_away_from_it() -> None:
    box = (0.05, 0.3, 0.7, 1.0)
    rank = {values: RANK[read(noise(values[0]), smoothness(values[1])).side] for values in product(box, box)}
    for (phi, r_l), grade in rank.items():
        for lower in box[: box.index(phi)]:
            assert rank[lower, r_l] >= grade
        for lower in box[: box.index(r_l)]:
            assert rank[phi, lower] >= grade
