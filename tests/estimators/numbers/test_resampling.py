"""Blocks, permutations, intervals: which points a replicate holds, and how often the intervals hold the true pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from estimators.growth.envelope import RANGE, Array, Cloud, Lines, fit, span
from estimators.growth.fits import Levels, Points, fit_levels, intervals, levels, permutation_test, summary
from estimators.numbers.resampling import Index, block_samples, members, permutation_p, symmetric
from tests.statistics import assert_covers


def test_members_in_the_order_of_appearance() -> None:
    found = members(["b", "a", "b", "b"])
    assert list(found) == ["b", "a"]
    assert found["b"].tolist() == [0, 2, 3]


def test_blocks_are_runs_of_a_group_and_keep_its_size() -> None:
    groups = ["a"] * 8 + ["b"] * 3 + ["c"]
    seen = set()
    for counts in block_samples(groups, 200, seed=0):
        for label, own in members(groups).items():
            assert counts[own].sum() == len(own), label
        inside = set(np.flatnonzero(counts[:8]).tolist())
        # Blocks of two: no point of "a" without a neighbour.
        assert all({k - 1, k + 1} & inside for k in inside)
        seen |= inside
    assert seen == set(range(8))


def test_the_same_seed_gives_the_same_blocks() -> None:
    first, second = (block_samples(["a"] * 9, 5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_permutation_p_of_all_orders() -> None:
    """Five points: of 120 orders, the share in which the first two values sum to at least as much."""
    values = np.array([4.0, 5.0, 1.0, 2.0, 3.0])
    wanted = np.mean([values[list(order)][:2].sum() >= 9 for order in permutations(range(5))])
    assert permutation_p(lambda orders: values[orders][:, :2].sum(1), 5, 499, seed=0) == pytest.approx(wanted)


def _product(x: Array, y: Array, orders: Index) -> Array:
    return np.asarray(x[orders] @ y)


def test_permutation_p_of_random_orders_is_uniform_where_nothing_depends() -> None:
    generator = np.random.default_rng(0)
    found = []
    for seed in range(300):
        x, y = generator.normal(size=(2, 12))
        found.append(permutation_p(partial(_product, x, y), 12, 99, seed))
    assert min(found) >= 1 / 100
    for level in (0.1, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 300))


def test_symmetric_reaches_as_far_as_the_replicates_on_either_side() -> None:
    replicates = np.linspace(1, 4, 1001)
    assert symmetric(2.0, 2.0, replicates) == pytest.approx((2 - 1.925, 2 + 1.925))
    assert symmetric(10.0, 2.0, replicates) == pytest.approx((10 - 1.925, 10 + 1.925))
    assert symmetric(1.0, 1.0, np.linspace(1, 4, 1001))[0] == 0
    assert symmetric(5.0, 5.0, np.full(9, 5.0)) == (5, 5)


# -- pairs that are known --------------------------------------------------------------------------

L0, L1 = 2.0, 1.0


def drawn(points: int, fits: int, correlation: float, heights: Callable[[Array], Array], seed: int) -> Cloud:
    """Points below the line L0 + L1 x, x over a factor of 50; along a run (correlation > 0) x falls."""
    generator = np.random.default_rng(seed)
    x = 10 ** generator.uniform(-0.5, 1.2, (points, fits))
    z = generator.normal(size=(points, fits))
    if correlation:
        x = np.sort(x, 0)[::-1]
        for t in range(1, points):
            z[t] = correlation * z[t - 1] + np.sqrt(1 - correlation**2) * z[t]
    y = (L0 + L1 * x) * heights(norm.cdf(z))
    return Cloud(x, y, np.zeros_like(y))


def fit_again(cloud: Cloud, counts: Array, spanned: NDArray[np.bool_]) -> Lines:
    """To the points of one replicate alone."""
    index = np.flatnonzero(counts)
    weights = np.broadcast_to(counts[index, None], (len(index), cloud.x.shape[1]))
    return fit(cloud.rows(index), weights, spanned)


def replicates(cloud: Cloud, seed: int) -> tuple[Lines, Array, Array]:
    """The lines, and those of 200 replicates: L0 and L1, (200, fits)."""
    spanned = span(cloud.x) >= RANGE
    lines = [fit_again(cloud, counts, spanned) for counts in block_samples(["run"] * len(cloud.x), 200, seed)]
    return fit(cloud), np.array([line.a for line in lines]), np.array([line.b for line in lines])


@pytest.mark.parametrize("correlation", [0.0, 0.7])
@pytest.mark.parametrize("points", [10, 20, 40])
def test_intervals_hold_the_known_pair_as_often_as_documented(points: int, correlation: float) -> None:
    """docs/generalized-smoothness.md promises 80% and more from 10 fitted points on, where a slope is found."""
    cloud = drawn(points, 300, correlation, lambda u: 0.5 + 0.5 * u, seed=points)
    lines, *drawn_again = replicates(cloud, seed=0)
    for own, again, truth in zip((lines.a, lines.b), drawn_again, (L0, L1), strict=True):
        ends = [symmetric(float(own[k]), float(own[k]), again[:, k]) for k in np.flatnonzero(lines.helps)]
        hits = sum(low <= truth <= high for low, high in ends)
        assert_covers(hits, len(ends), 0.8)


def test_plain_quantiles_would_miss_l1_a_third_of_the_time() -> None:
    """Why the interval is symmetric: an envelope's replicates lie below the true slope."""
    lines, _, again = replicates(drawn(20, 300, 0.0, lambda u: 0.5 + 0.5 * u, seed=1), seed=0)
    low, high = np.percentile(again, (2.5, 97.5), axis=0)
    plain = float(np.mean((low <= L1) & (high >= L1)))
    ends = [symmetric(float(own), float(own), column) for own, column in zip(lines.b, again.T, strict=True)]
    assert plain < 0.7 < 0.8 < float(np.mean([a <= L1 <= b for a, b in ends]))


def test_intervals_are_those_of_the_replicates() -> None:
    cloud = drawn(12, 1, 0.0, lambda u: 0.5 + 0.5 * u, seed=2)
    lines, a, b = replicates(cloud, seed=5)
    clouds = Levels(cloud, cloud, cloud, cloud)
    found = intervals(clouds, ["run"] * 12, summary(lines, lines), seed=5, count=200)
    assert lines.helps[0]
    for own, column, ends in (
        (lines.a, a, (found.l0_l1, found.isotropic_l0)),
        (lines.b, b, (found.l1_median, found.isotropic_l1)),
    ):
        wanted = symmetric(float(own[0]), float(own[0]), column[:, 0])
        assert all(each == pytest.approx(wanted) for each in ends)


def test_replicates_and_orders_that_are_fitted_together_are_those_fitted_one_by_one() -> None:
    """Also where single points are left, or a point is at (0, 0)."""
    cloud = drawn(9, 4, 0.0, lambda u: 0.5 + 0.5 * u, seed=3)
    cloud.x[0, 0] = cloud.y[0, 0] = cloud.x[1, 1] = 0.0
    cloud = Cloud(cloud.x, cloud.y, 0.02 * cloud.y)
    spanned = span(cloud.x) >= RANGE
    counts = np.concatenate([block_samples(["run"] * 9, 50, seed=1), np.eye(9)])
    together = fit(cloud.held(counts), np.repeat(counts.T, 4, 1), np.tile(spanned, len(counts)))
    apart = [fit_again(cloud, own, spanned) for own in counts]
    orders = np.array([np.random.default_rng(seed).permutation(9) for seed in range(50)])
    ordered = fit(cloud.reordered(orders))
    alone = [fit(Cloud(cloud.x[order], cloud.y, cloud.slack)) for order in orders]
    assert any(line.helps.any() for line in apart)
    assert any(line.helps.any() for line in alone)
    for key in ("a", "b", "gain"):
        for found, wanted in ((together, apart), (ordered, alone)):
            np.testing.assert_allclose(
                getattr(found, key), np.concatenate([getattr(w, key) for w in wanted]), atol=1e-12
            )


# -- levels ----------------------------------------------------------------------------------------


def made(points: int, d: int, seed: int = 0) -> Points:
    generator = np.random.default_rng(seed)
    x = 10 ** generator.uniform(-2, 1, (points, d))
    y = (1 + x) * generator.uniform(0.9, 1, (points, d))
    return Points(
        gradients=x,
        bounds=y,
        gaps=0.01 * y.sum(1),
        norms=y.max(1),
        norm_gaps=np.zeros(points),
        exact=np.zeros((points, d), dtype=bool),
    )


def test_levels_sum_over_tensors_and_the_whole() -> None:
    points = made(6, 5)
    found = levels(points, [2, 3], 0.05, np.zeros(5))
    np.testing.assert_allclose(found.tensors.x[:, 1], points.gradients[:, 2:].sum(1))
    np.testing.assert_allclose(found.tensors.y[:, 0], points.bounds[:, :2].sum(1))
    np.testing.assert_allclose(found.whole.x[:, 0], points.gradients.sum(1))
    np.testing.assert_allclose(found.isotropic.x[:, 0], np.linalg.norm(points.gradients, axis=1))
    np.testing.assert_array_equal(found.isotropic.y[:, 0], points.norms)
    # A bracket's width, here its goal of 5%, is shared by factor and floor: together twice over all coordinates.
    np.testing.assert_allclose(found.coordinates.slack.sum(1), 2 * 0.05 * points.bounds.sum(1))


def test_intervals_of_many_coordinates_come_from_a_subset() -> None:
    """Of 400 coordinates that behave alike a quarter tells nearly the same."""
    clouds = levels(made(12, 400), [400], 0.01, np.zeros(400))
    lines = fit_levels(clouds)
    found = summary(lines.coordinates, lines.isotropic)
    whole = intervals(clouds, ["a"] * 12, found, seed=0)
    part = intervals(clouds, ["a"] * 12, found, seed=0, most=100)
    assert part.isotropic_l1 == whole.isotropic_l1
    for own, other in ((part.l0_l1, whole.l0_l1), (part.l1_median, whole.l1_median)):
        assert own != other
        np.testing.assert_allclose(own, other, rtol=0.15)
    np.testing.assert_allclose(sum(part.l0_l1) / 2, found.l0_l1)


def test_permuted_gradients_explain_nothing_where_curvature_grows_with_them() -> None:
    points = made(10, 30)
    by_coordinate, isotropic = permutation_test(levels(points, [30], 0.01, np.zeros(30)), seed=0)
    assert by_coordinate == pytest.approx(1 / 500)
    assert isotropic == 1  # ||g||_2 of 30 coordinates spans no decade here: no slope to explain
    shuffled = Points(
        points.gradients[::-1],
        *(getattr(points, key) for key in ("bounds", "gaps", "norms")),
        *(getattr(points, key) for key in ("norm_gaps", "exact")),
    )
    assert permutation_test(levels(shuffled, [30], 0.01, np.zeros(30)), seed=0)[0] > 0.05
