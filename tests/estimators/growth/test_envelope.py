"""The line above points: against a linear program, and where its slope counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from estimators.growth.envelope import Array, Cloud, envelope, fit, span


def program(x: Array, y: Array, weights: Array | None) -> float:
    """Least a + b mean(x) over a, b >= 0 with a + b x >= y, by a linear program in units of the points."""
    mean, top = float(np.average(x, None, weights)), float(y.max())
    scale = mean or 1.0
    rows = -np.column_stack([np.ones_like(x), x / scale])
    solution = linprog([1.0, mean / scale], A_ub=rows, b_ub=-y / top)
    assert solution.success
    return float(solution.fun) * top


def clouds(points: int, seed: int) -> tuple[Array, Array]:
    """Forty columns: scales over six decades, heights that grow with x or not; some with ties and zeros."""
    generator = np.random.default_rng(seed)
    shape = (points, 40)
    x = 10 ** generator.uniform(-3, 3, (1, 40)) * generator.uniform(0, 1, shape)
    y = 10 ** generator.uniform(-3, 3, (1, 40)) * (generator.uniform(0, 1, shape) + x / x.max(0) * (np.arange(40) % 2))
    x[:, :10] = np.round(3 * x[:, :10] / x[:, :10].max(0)) / 3
    y[:, 5:15] = np.round(4 * y[:, 5:15] / y[:, 5:15].max(0)) / 4
    return x, y


@pytest.mark.parametrize("points", [1, 2, 3, 6, 15])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_line_is_that_of_a_linear_program(points: int, weighted: bool) -> None:
    x, y = clouds(points, seed=points)
    weights = np.random.default_rng(1).integers(1, 4, x.shape).astype(float) if weighted else None
    a, b = envelope(x, y, weights)
    assert (a >= 0).all()
    assert (b >= 0).all()
    assert (a + b * x >= y * (1 - 1e-12)).all()
    heights = a + b * np.average(x, 0, weights)
    wanted = [program(x[:, j], y[:, j], None if weights is None else weights[:, j]) for j in range(x.shape[1])]
    np.testing.assert_allclose(heights, wanted, rtol=1e-8)


def test_columns_do_not_see_each_other() -> None:
    x, y = clouds(7, seed=0)
    for found, wanted in zip(envelope(x, y, together=3), envelope(x, y), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_envelope_of_a_line_is_the_line() -> None:
    x = np.linspace(0, 5, 9)[:, None]
    a, b = envelope(x, 2 + 3 * x)
    assert (float(a[0]), float(b[0])) == pytest.approx((2, 3))


def test_of_equally_good_lines_the_flat_one() -> None:
    """Where all x are equal any slope gives the same height."""
    a, b = envelope(np.full((4, 1), 0.3), np.array([[1.0], [3.0], [2.0], [0.5]]))
    assert (float(a[0]), float(b[0])) == (3.0, 0.0)
    assert [float(v[0]) for v in envelope(np.zeros((4, 1)), np.zeros((4, 1)))] == [0.0, 0.0]


def test_a_slope_counts_only_beyond_twice_the_slack() -> None:
    """y = 2 + x for x in [0.1, 5]: the mean of the line lies 2.45 below its top."""
    x = np.linspace(0.1, 5, 9)[:, None]
    for slack, wanted in ((1.2, (2.0, 1.0)), (1.25, (7.0, 0.0))):
        lines = fit(Cloud(x, 2 + x, np.full_like(x, slack)))
        assert (float(lines.a[0]), float(lines.b[0])) == pytest.approx(wanted)
        assert bool(lines.helps[0]) == (wanted[1] > 0)
        assert float(lines.gain[0]) == pytest.approx(2.45 if wanted[1] else 0.0)


def test_a_slope_counts_only_over_a_decade() -> None:
    for low, helps in ((0.49, True), (0.51, False)):
        x = np.linspace(low, 5, 9)[:, None]
        lines = fit(Cloud(x, 1 + x, np.zeros_like(x)))
        assert bool(lines.helps[0]) is helps
        assert float(lines.ranges[0]) == pytest.approx(5 / low)


def test_span() -> None:
    np.testing.assert_array_equal(span(np.array([[2.0, 0.0, 0.0], [1.0, 0.0, 1.0], [8.0, 0.0, 1.0]])), [8, 1, np.inf])
