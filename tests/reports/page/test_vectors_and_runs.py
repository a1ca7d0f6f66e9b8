"""Aggregates of vectors and curves of runs against direct computations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.page import race as race_figures
from reports.page.aggregates import bins, concentration, decades, picture_width, share_holding, signs
from reports.page.curves import Curve, best_curves, tuning
from reports.page.race import along_methods
from tests.reports import made


def test_bins_keep_counts_sums_and_zeros() -> None:
    vector = made.vectors()["noise"]
    flat = np.concatenate([v.ravel() for v in vector.values()])
    binned = bins(vector)
    assert binned.size == flat.size
    assert binned.zeros == np.count_nonzero(flat == 0)
    assert binned.sums.sum() == pytest.approx(flat.sum())
    expected, _ = np.histogram(flat[flat > 0], binned.edges)
    assert np.array_equal(binned.counts, expected)


def test_concentration_equals_the_sorted_shares() -> None:
    vector = made.vectors()["smoothness"]
    flat = np.sort(np.concatenate([v.ravel() for v in vector.values()]))[::-1]
    held = np.cumsum(flat) / flat.sum()
    curve = concentration(bins(vector))
    for mass in (0.25, 0.5, 0.9):
        exact = (np.searchsorted(held, mass) + 1) / flat.size
        assert share_holding(curve, mass) == pytest.approx(exact, abs=0.01)


def test_a_uniform_vector_is_the_diagonal_and_an_empty_one_nothing() -> None:
    share, mass = concentration(bins({"w": np.full(7, 0.3)}))
    assert np.allclose(share, mass)
    assert concentration(bins({"w": np.zeros(7)}))[0].size == 0
    assert concentration(bins({}))[0].size == 0


def test_signs_of_bins() -> None:
    vector = {"w": np.array([[1.0, -2.0, 0.0], [3.0, -4.0, np.nan]])}
    assert (bins(vector, 1).size, bins(vector, -1).size, bins(vector).size) == (2, 2, 5)
    assert decades(bins(vector, 1), 8)[1].sum() == 2
    assert signs({"w": np.array([0.1, -2.0, -1.0])}, {"w": np.array([0.2, -1.0, 1.0])}) == pytest.approx(
        (1 / 3, 1 / 3, 1 / 3)
    )
    assert signs({}, {}) is None


def test_the_best_curve_is_the_mean_over_seeds_at_the_tuned_rate() -> None:
    base = made.finished()
    adagrad, sgd = best_curves(base.runs, base.training.methods)[:2]
    assert (adagrad.method, sgd.method) == ("adagrad", "sgd")
    assert adagrad.values.shape[0] == 3
    mine = [r["loss"] for r in base.runs if r["method"] == "adagrad" and r["learning_rate"] == 0.1 and r["step"] == 500]
    assert adagrad.mean[-1] == pytest.approx(np.mean(mine))


def test_a_curve_ends_where_a_seed_diverges() -> None:
    runs = [dict(r) for r in made.rows(("sgd",))]
    for row in runs:
        if row["learning_rate"] == 1.0 and row["seed"] == 1 and row["step"] > 100:
            row["loss"] = None
    (curve,) = best_curves(runs, {"sgd": {"learning_rate": 1.0}})
    assert curve.steps[-1] == 100


def test_a_diverged_rate_has_no_final_loss() -> None:
    rates = tuning(made.rows())["sgd"]
    assert rates[-1].final_loss is None
    assert rates[-1].diverged == 3
    assert all(r.final_loss is not None for r in rates[:-1])


def test_the_start_begins_every_run() -> None:
    points = [{"method": "start", "step": 0}, {"method": "sgd", "step": 9}, {"method": "adagrad", "step": 5}]
    by_method = along_methods(points)
    assert {m: [p["step"] for p in found] for m, found in by_method.items()} == {"adagrad": [0, 5], "sgd": [0, 9]}
    assert list(along_methods(points[:1])) == ["start"]


def test_a_picture_has_a_few_bars_whatever_the_span() -> None:
    rng = np.random.default_rng(0)
    for spread in (0.01, 0.3, 1.0, 4.0, 10.0):
        binned = bins({"w": np.exp(spread * rng.standard_normal(4000))})
        _, counts = decades(binned, picture_width(binned))
        assert counts.sum() == 4000
        assert counts.size <= 100
    assert picture_width(bins({})) == 1


@pytest.mark.parametrize("spread", [2.0, 1e4])
def test_the_line_of_a_method_is_the_mean_on_either_axis(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders a factor apart: the geometric mean, which a logarithmic axis suggests, would lie far below."""
    steps = np.array([0.0, 1.0, 10.0, 100.0])
    values = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, spread, spread, spread]])
    curve = Curve("sgd", 0.1, steps, values)
    drawn: list[Axes] = []

    def keep(prefix: str, height: float, paint: Any, **_: Any) -> str:
        axes = Figure().subplots()
        paint([axes])
        drawn.append(axes)
        return ""

    monkeypatch.setattr(race_figures, "draw", keep)
    race_figures.race("t", [curve], None)
    (axes,) = drawn
    assert axes.get_yscale() == ("log" if spread > 100 else "linear")
    drawn_lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
    (means,) = (line for line in drawn_lines if line.size == 3)
    np.testing.assert_allclose(means, curve.mean[1:])
