"""The density of eigenvalues against exact spectra, its moments against traces, its spread against repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from estimators import InputError, Problem
from estimators.curvature.density import SHIFT, eigenvalue_density, measured
from estimators.curvature.lanczos import DELTA, extremes, lanczos
from estimators.curvature.outliers import outliers
from estimators.curvature.spectral_measure import WIDTH, Measure, Rule, distance, kernel, rule, smoothed
from estimators.numbers.t_intervals import mean_interval
from estimators.numbers.vectors import random_start
from estimators.task.products import dense_hessian
from tests import oracles
from tests.markers import marked
from tests.problems import BY_NAME, SMALL, Case, orthogonal, quadratic
from tests.statistics import assert_covers, fewest

D, WIDE, REPEATS = 80, 400, 300


@cache
def _values() -> Tensor:
    """A bulk near 0 on both sides, a second group and two outliers."""
    generator = torch.Generator().manual_seed(0)
    bulk = 0.5 * torch.randn(D - 22, generator=generator, dtype=torch.float64)
    group = 4 + 0.2 * torch.randn(20, generator=generator, dtype=torch.float64)
    return torch.cat([bulk, group, torch.tensor([9.0, 10.0]).double()])


SHORT = ("dominant", "dominant over a definite bulk", "a few", "one of each sign")
"""Of the spectra: short runs."""


def _marked() -> list[Any]:
    return [
        *marked("coverage", SHORT, ["dominant"]),
        *marked("slow", [name for name in _spectra() if name not in SHORT], []),
    ]


@cache
def _spectra() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(WIDE, generator=generator, dtype=torch.float64)
    ranks = torch.arange(1, WIDE + 1, dtype=torch.float64)

    def with_ends(bulk: Tensor, *ends: float) -> Tensor:
        return torch.cat([torch.tensor(ends, dtype=torch.float64), bulk[len(ends) :]])

    return {
        "dominant": with_ends(0.01 * normal, 50.0),
        "dominant over a definite bulk": with_ends(0.01 * normal.abs(), 4.0),
        "a few": with_ends(1e-6 * normal, *range(1, 11)),
        "one of each sign": with_ends(0.01 * normal, 50.0, -49.0),
        "flat": 1 + 0.1 * normal,
        "indefinite": normal,
        "two clusters": torch.cat([0.3 * normal[: WIDE // 2], 4 + 0.2 * normal[WIDE // 2 :]]),
        "power 1/2": ranks**-0.5,
        "power 1": 1 / ranks,
        "power 2": ranks**-2,
        "geometric": 0.5**ranks,
    }


def _measure(values: Tensor, seed: int, steps: int = 24, apart: bool = True) -> Measure:
    """As the command does it: the spectrum's run, as long as it takes, and three further starts.

    A diagonal matrix, which a uniform start cannot tell from a rotated one.
    """
    d, generator = len(values), torch.Generator().manual_seed(seed)

    def product(block: Tensor) -> Tensor:
        return values[:, None] * block

    run = lanczos(
        product,
        random_start(d, generator, values),
        d,
        80,
        DELTA / 4,
        generator,
        lambda run: run.norm_known and run.ends_known,
        keep=apart,
    )
    return measured(product, run, d, 3, steps, generator, values)


def _rules(seed: int, probes: int, steps: int) -> list[Rule]:
    values = _values()
    generator = torch.Generator().manual_seed(seed)
    starts = (random_start(D, generator, values) for _ in range(probes))
    return [rule(lanczos(lambda block: values[:, None] * block, q, D, steps, DELTA, generator)) for q in starts]


def _exact(values: NDArray[Any], points: Sequence[float] | oracles.Array, width: float) -> oracles.Array:
    grid = np.asarray(points, dtype=np.float64)
    bumps = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return np.asarray(bumps.mean(1))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_where_the_hessian_is_formed(case: Case) -> None:
    values = np.linalg.eigvalsh(oracles.hessian(case.parts()))
    found = eigenvalue_density(case.problem())
    assert found.exact
    wanted = _exact(values, found.grid, found.width)
    np.testing.assert_allclose(np.array(found.density), wanted, atol=1e-6 * max(found.density))
    assert set(found.spread) == {0.0}
    assert found.mean == pytest.approx(values.mean())
    assert found.mean_square == pytest.approx((values**2).mean())
    assert found.mean_interval == (found.mean, found.mean)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
    assert found.lower == found.upper == found.density
    assert found.resolution == 0
    assert set(found.why) == {"probes", "outliers"}


def test_a_rule_has_the_moments_of_its_start() -> None:
    """Gauss: sum w theta^k = q'A^k q for k up to 2 steps - 1."""
    values = _values()
    (found,) = _rules(3, probes=1, steps=6)
    q = torch.randn(D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = (q / q.norm()).square()
    for power in range(12):
        wanted = float((weights * values**power).sum())
        assert (found.weights * found.nodes**power).sum() == pytest.approx(wanted, rel=1e-9)
    wanted = float((weights * values**12).sum())
    assert (found.weights * found.nodes**12).sum() != pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("apart", [True, False], ids=["ends apart", "without a basis"])
@pytest.mark.parametrize("name", _marked())
def test_the_intervals_of_the_moments_cover(name: str, apart: bool) -> None:
    values = _spectra()[name].numpy()
    hits, plain = [0, 0], [0, 0]
    for seed in range(REPEATS):
        found = _measure(_spectra()[name], seed, steps=8, apart=apart)
        for power in (1, 2):
            wanted, (value, (low, high)) = float((values**power).mean()), found.moment(power)
            slack = 1e-12 * abs(wanted)
            hits[power - 1] += low - slack <= wanted <= high + slack
            assert low <= value <= high
            # The control: Student's t over the starts.
            each = [float((r.weights * r.nodes**power).sum()) for r in found.rules]
            t_low, t_high = mean_interval(each)
            plain[power - 1] += t_low <= wanted <= t_high
    for number in hits:
        assert_covers(number, REPEATS, 0.95)
    if name.startswith("dominant") and not apart:
        assert max(plain) < fewest(REPEATS, 0.95)


def test_ends_apart_make_the_intervals_narrow() -> None:
    for name in ("dominant", "a few", "geometric"):
        widths = [np.diff(_measure(_spectra()[name], 0, 8, apart).moment(2)[1]) for apart in (True, False)]
        assert widths[0] < 1e-3 * widths[1]


@pytest.mark.parametrize("name", _marked())
def test_the_band_covers_the_exact_density_at_each_point(name: str) -> None:
    """Places in the bulk, on its flanks, between it and the ends, and on them."""
    values = _spectra()[name].numpy()
    low, high = values.min(), values.max()
    width = WIDTH * (high - low)
    grid = np.unique([*np.quantile(values, [0, 0.01, 0.2, 0.5, 0.8, 0.99, 1]), *np.linspace(low, high, 5)])
    repeats = 100
    hits = np.zeros(len(grid), dtype=int)
    for seed in range(repeats):
        found = _measure(_spectra()[name], seed)
        size = max(width, found.resolution())
        drawn, wanted = found.density(grid, size), _exact(values, grid, size)
        slack = 1e-9 / (width * math.sqrt(2 * math.pi))
        hits += (drawn.lower - slack <= wanted) & (wanted <= drawn.upper + slack)
        assert ((drawn.lower <= drawn.density) & (drawn.density <= drawn.upper)).all()
    for number in hits:
        assert_covers(int(number), repeats, 0.95)


def test_the_mean_density_is_the_exact_one() -> None:
    values, repeats = _values(), 60
    grid = np.linspace(-3, 12, 200)
    drawn = [_measure(values, seed, steps=20).density(grid, 0.3) for seed in range(repeats)]
    curves = [each.density for each in drawn]
    noise = np.std(curves, 0).max() / math.sqrt(repeats)
    np.testing.assert_allclose(np.mean(curves, 0), _exact(values.numpy(), grid, 0.3), atol=5 * noise)
    # The standard error that is said is the scatter over repeats.
    place = int(np.argmin(np.abs(grid - 4)))
    said = math.sqrt(float(np.mean([each.spread[place] ** 2 for each in drawn])))
    assert said == pytest.approx(float(np.std([each.density[place] for each in drawn])), rel=0.4)


def test_the_distance_from_polynomials_is_not_above_what_is_said() -> None:
    """Chebyshev coefficients by their own sums, about several points."""
    angles = (np.arange(2048) + 0.5) * math.pi / 2048
    for width in (0.05, 0.15, 0.3, 0.8):
        for steps in (2, 5, 12, 24):
            said = distance(steps, width)
            for middle in (0.0, 0.01, 0.5, 0.9, 1.1):
                bump = np.exp(-0.5 * ((np.cos(angles) - middle) / width) ** 2)
                left_out = [abs(2 / 2048 * (bump * np.cos(k * angles)).sum()) for k in range(2 * steps, 200)]
                assert sum(left_out) <= said + 1e-10 or said == 1


def test_a_rule_has_the_smoothed_measure_of_its_start_at_the_resolution() -> None:
    """Its bias alone, without the scatter; the kernel of 1% of the range shows the nodes instead."""
    values, steps = torch.linspace(-1, 1, WIDE).double(), 24
    generator = torch.Generator().manual_seed(5)
    q = random_start(WIDE, generator, values)
    run = lanczos(lambda block: values[:, None] * block, q, WIDE, steps, DELTA, generator)
    found = Measure(WIDE, np.zeros(0), np.zeros(0), [rule(run)])
    resolution = found.resolution()
    grid = np.linspace(-1.2, 1.2, 500)
    weights = ((q / q.norm()) ** 2).numpy()
    for width, most in ((resolution, 0.1), (3 * resolution, 1e-9)):
        wanted = kernel(grid, values.numpy(), width) @ weights
        single = 1 / (WIDE * width * math.sqrt(2 * math.pi))
        off = np.abs(smoothed(found.rules[0].nodes, found.rules[0].weights, grid, width) - wanted)
        assert off.max() <= most * single
    wanted = kernel(grid, values.numpy(), 0.02) @ weights
    comb = smoothed(found.rules[0].nodes, found.rules[0].weights, grid, 0.02)
    inside = np.abs(grid) < 0.9
    assert (comb[inside] / wanted[inside]).min() < 0.1
    drawn = found.density(grid, 0.02)
    assert ((drawn.lower <= wanted) & (wanted <= drawn.upper)).all()


def test_eigenvalues_taken_out_are_off_by_no_more_than_is_said() -> None:
    for seed in range(20):
        turn = orthogonal(60, seed)
        values = torch.cat([_values()[: 60 - 3], torch.tensor([6.0, 9.0, -8.0]).double()])
        matrix = turn @ torch.diag(values) @ turn.T
        generator = torch.Generator().manual_seed(seed)
        start = random_start(60, generator, matrix)
        run = lanczos(lambda block, a=matrix: a @ block, start, 60, 9, DELTA, generator, keep=True)  # type: ignore[misc]
        tolerance = SHIFT * WIDTH * float(run.values[-1] - run.values[0])
        found = outliers(run, tolerance)
        assert found is not None
        rest = found.remainder(lambda block, a=matrix: a @ block)(torch.eye(60).double())  # type: ignore[misc]
        inside = np.linalg.eigvalsh(rest.numpy())
        # The complement's own eigenvalues: those of directions that were taken out are 0.
        zeros = np.argsort(np.abs(inside))[: len(found.values)]
        inside = np.delete(inside, zeros)
        both = np.sort(np.concatenate([found.values, inside]))
        off = np.abs(both - np.sort(values.numpy())).max()
        assert off <= found.shift(float(inside.min()), float(inside.max())) + 1e-12
        square = (found.values**2).sum() + 2 * (found.residuals**2).sum() + (inside**2).sum()
        assert square == pytest.approx(float(matrix.square().sum()))


def test_against_the_eigenvalues_of_a_network() -> None:
    """64-28-10 on digits, d = 2,110, by the command's products."""
    problem = _network()
    values = torch.linalg.eigvalsh(dense_hessian(problem)).numpy()
    runs = extremes(problem, seed=7, keep=True)
    found = eigenvalue_density(problem, probes=4, steps=24, run=runs.whole)
    wanted = _exact(values, found.grid, found.width)
    inside = (np.array(found.lower) <= wanted) & (wanted <= np.array(found.upper))
    assert inside.all()
    ratio = np.array(found.density) / wanted
    shown = wanted > 0.1 / (problem.d * found.width * math.sqrt(2 * math.pi))
    assert 0.6 < ratio[shown].min() <= ratio[shown].max() < 1.6
    assert found.width >= found.resolution
    assert found.outliers
    assert found.products == 72
    # With a tenth of the width the band says that nothing is known.
    narrow = eigenvalue_density(problem, probes=4, steps=24, run=runs.whole, width=WIDTH / 10)
    wanted = _exact(values, narrow.grid, narrow.width)
    assert ((np.array(narrow.lower) <= wanted) & (wanted <= np.array(narrow.upper))).mean() > 0.95
    assert narrow.resolution == pytest.approx(found.resolution)
    assert narrow.width < narrow.resolution


def _network() -> Problem:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 28), nn.Tanh(), nn.Linear(28, 10))
    return Problem(model, (torch.tensor(pixels[:256] / 16).float(), torch.tensor(labels[:256])))


@pytest.mark.parametrize("name", ["mlp", "cnn-batchnorm", "unseen-token", "singular"])
def test_by_products_of_a_problem(name: str) -> None:
    case = BY_NAME[name]
    values = np.linalg.eigvalsh(oracles.hessian(case.parts()))
    problem = case.problem(forms_hessian=False)
    said: list[float] = []
    found = eigenvalue_density(problem, probes=20, steps=30, progress=lambda stage, done, total: said.append(done))
    assert not found.exact
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
    wanted, slack = _exact(values, found.grid, found.width), 1e-9 * max(found.density)
    assert ((np.array(found.lower) - slack <= wanted) & (wanted <= np.array(found.upper) + slack)).all()
    assert found.mean == pytest.approx(values.mean(), abs=float(np.diff(found.mean_interval)[0]))
    assert found.cost.passes == pytest.approx(1 + 2 * found.products)
    assert len(found.nodes) == len(found.weights) == 20 - (found.outliers != 0)
    assert found.probes == 20
    assert said == sorted(said)
    assert eigenvalue_density(problem, probes=20, steps=30).density == found.density
    assert eigenvalue_density(problem, probes=20, steps=30, seed=1).density != found.density


def test_without_a_basis_the_rules_say_the_same() -> None:
    """In float32 over 60 steps eigenvalues come again, with weights that add up to what one node had."""
    values = _values().float()

    def rules(local: bool) -> list[Rule]:
        generator = torch.Generator().manual_seed(0)
        starts = (random_start(D, generator, values) for _ in range(8))
        return [
            rule(lanczos(lambda block: values[:, None] * block, q, D, 60, DELTA, generator, local=local))
            for q in starts
        ]

    one, two = rules(False), rules(True)
    grid = np.linspace(-3, 12, 200)
    for mine, other in zip(one, two, strict=True):
        assert (other.nodes > 9.9).sum() > (mine.nodes > 9.9).sum()
        for power in range(5):
            wanted = pytest.approx((mine.weights * mine.nodes**power).sum(), rel=1e-4)
            assert (other.weights * other.nodes**power).sum() == wanted
        curve, again = (smoothed(r.nodes, r.weights, grid, 0.1) for r in (mine, other))
        np.testing.assert_allclose(again, curve, atol=0.01 * curve.max())


def test_a_run_given_is_one_of_the_starts() -> None:
    problem = BY_NAME["mlp"].problem(forms_hessian=False)
    run = extremes(problem, seed=5).whole
    alone = eigenvalue_density(problem, probes=3, steps=10)
    found = eigenvalue_density(problem, probes=4, steps=10, run=run)
    assert (found.products, alone.products) == (30, 30)
    np.testing.assert_allclose(found.nodes[0], run.values, atol=1e-12 * run.norm)
    # tr H / d by the start's own measure: the first coefficient of Lanczos is q'Hq.
    assert np.dot(found.nodes[0], found.weights[0]) == pytest.approx(run.alphas[0])
    assert found.outliers == 0
    kept = extremes(problem, seed=5, keep=True).whole
    apart = eigenvalue_density(problem, probes=4, steps=10, run=kept)
    assert (apart.products, len(apart.nodes)) == (30, 3)
    assert apart.outliers
    for nodes, weights in zip(apart.nodes, apart.weights, strict=True):
        np.testing.assert_allclose(weights[: apart.outliers], 1 / problem.d)
        assert set(np.round(nodes[: apart.outliers], 12)) <= set(np.round(kept.values, 12))


def test_scaling_moves_the_grid_alone() -> None:
    matrix = torch.diag(torch.linspace(-1, 2, 10)).double()
    one, ten = (eigenvalue_density(Problem(*quadratic(c * matrix))) for c in (1.0, 10.0))
    np.testing.assert_allclose(np.array(ten.grid), 10 * np.array(one.grid))
    np.testing.assert_allclose(10 * np.array(ten.density), np.array(one.density), atol=1e-12)


@pytest.mark.parametrize("size", [0.0, -3.0])
def test_a_single_eigenvalue(size: float) -> None:
    for formed in (True, False):
        problem = Problem(*quadratic(size * torch.eye(10).double()), forms_hessian=formed)
        found = eigenvalue_density(problem, steps=5)
        assert found.grid[int(np.argmax(found.density))] == pytest.approx(size, abs=found.width)
        assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)
        assert found.mean == pytest.approx(size)


def test_a_narrow_kernel_still_has_points_on_it() -> None:
    found = eigenvalue_density(BY_NAME["mlp"].problem(), width=0.001)
    assert np.diff(found.grid).max() < found.width / 2
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_used_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    for arguments, word in (({"probes": 1}, "spread"), ({"steps": 1}, "density"), ({"width": 0.0}, "width")):
        with pytest.raises(InputError, match=word):
            eigenvalue_density(problem, **arguments)
