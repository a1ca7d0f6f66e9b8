"""The two readings of the bounds and the side each is on."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from diagnose.schema import Bounds
from diagnose.training.legs import Race
from diagnose.verdict.theory import OFF, Side, bounds, findings, noise_side, path_side, read, smoothness_side
from estimators.results import Noise, Smoothness, absent
from tests.diagnose.training.tasks import leg, settings

RANK: dict[Side, int] = {"sgd": 0, "neither": 1, "undecided": 1, "unknown": 1, "adagrad": 2}


def noise(density: float | None = 0.4, l1: float | None = 14.0, l2: float | None = 1.7) -> Noise:
    base = absent(Noise, "not measured in this test")
    return replace(base, density=density, l1=l1, l2=l2)


def smoothness(
    density: float | None = 0.25, l1_upper: float | None = 48.0, sharpness: float | None = 1.6, **more: Any
) -> Smoothness:
    base = absent(Smoothness, "not measured in this test")
    return replace(base, density=density, l1_upper=l1_upper, sharpness=sharpness, **more)


def ratios(curvature: float | None, noisy: float | None) -> Bounds:
    why = {} if curvature is not None and noisy is not None else dict.fromkeys(("smoothness_ratio", "noise_ratio"), OFF)
    return Bounds(
        d_inf=1.0,
        d_2=1.0,
        smoothness_ratio=curvature,
        noise_ratio=noisy,
        smoothness_ratio_box=0.25,
        noise_ratio_box=0.4,
        why=why,
    )


def a_race(**changes: Any) -> Race:
    legs = (
        leg("sgd", 1.0, 0, [9.0, 3.0], d_inf=50.0, d_2=4.0),
        leg("sgd", 1.0, 1, [9.0, 2.0], d_inf=50.0, d_2=5.0),
        leg("sgd", 2.0, 0, [9.0, 1.0], d_inf=50.0, d_2=60.0),
        leg("sgd", 2.0, 1, [9.0, 8.0], d_inf=50.0, d_2=60.0),
        leg("adagrad", 0.1, 0, [9.0, 1.0], d_inf=2.0, d_2=70.0),
        leg("adagrad", 0.1, 1, [9.0, 3.0], d_inf=3.0, d_2=70.0),
    )
    return Race(settings(**({"seeds": 2} | changes)), legs, {})


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
        Race(settings(seeds=1), legs, {}),
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
    part = bounds(noise(), smoothness(), Race(settings(seeds=1), legs, {}))
    assert part.smoothness_ratio is None
    assert "never left" in part.why["smoothness_ratio"]


def test_sides_of_single_readings() -> None:
    assert [noise_side(x) for x in (None, 0.1, 0.5, 0.94, 0.95, 1.0)] == [
        "unknown", "adagrad", "adagrad", "adagrad", "neither", "neither",
    ]  # fmt: skip
    assert [smoothness_side(x, None) for x in (None, 0.05, 0.54, 0.55, 1.0)] == [
        "unknown", "adagrad", "adagrad", "neither", "neither",
    ]  # fmt: skip
    assert [path_side(x) for x in (None, 0.5, 1.0, 1.5)] == ["unknown", "adagrad", "neither", "sgd"]


def test_curvature_no_lower_than_its_rotated_control_is_no_evidence() -> None:
    assert smoothness_side(0.3, 0.64) == "adagrad"
    assert smoothness_side(0.3, 0.3) == "neither"
    assert smoothness_side(0.3, 0.2) == "neither"


@pytest.mark.parametrize(
    ("phi", "r_l", "path_curvature", "path_noise", "side"),
    [
        (0.4, 0.1, 0.5, 0.5, "adagrad"),
        (0.4, 0.1, None, None, "adagrad"),
        (0.97, 0.1, None, None, "neither"),
        (0.4, 0.8, None, None, "neither"),
        (0.97, 0.8, None, None, "neither"),
        (0.97, 0.8, 2.0, 2.0, "sgd"),
        (0.97, 0.8, 1.0, 1.0, "neither"),
        (0.4, 0.1, 2.0, 2.0, "undecided"),
        (0.4, 0.1, 0.5, 2.0, "undecided"),
        (0.97, 0.8, 0.5, 0.5, "undecided"),
        (0.97, 0.8, 0.5, 2.0, "undecided"),
        (None, 0.1, None, None, "adagrad"),
        (None, None, None, None, "unknown"),
        (None, None, 2.0, None, "sgd"),
    ],
)
def test_table_of_cases(
    phi: float | None, r_l: float | None, path_curvature: float | None, path_noise: float | None, side: Side
) -> None:
    part = ratios(path_curvature, path_noise)
    theory = read(noise(phi), smoothness(r_l), part)
    assert theory.side == side
    named = {f.code for f in findings(theory, part)}
    assert named == ({"readings-disagree"} if side == "undecided" else set())
    assert ("the theory is undecided here" in theory.sentence.lower()) == (side == "undecided")


def test_the_box_never_speaks_for_sgd() -> None:
    for phi, r_l in product((0.01, 0.5, 1.0), (0.01, 0.3, 1.0)):
        assert read(noise(phi), smoothness(r_l), ratios(None, None)).side != "sgd"


def test_more_evidence_for_adagrad_never_moves_the_theory_towards_sgd() -> None:
    box, path = (0.05, 0.3, 0.7, 1.0), (0.2, 1.0, 5.0)
    rank: dict[tuple[float, ...], int] = {
        values: RANK[read(noise(values[0]), smoothness(values[1]), ratios(values[2], values[3])).side]
        for values in product(box, box, path, path)
    }
    for values, grade in rank.items():
        for i, levels in enumerate((box, box, path, path)):
            for lower in levels[: levels.index(values[i])]:
                assert rank[(*values[:i], lower, *values[i + 1 :])] >= grade
