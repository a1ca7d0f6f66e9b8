"""generalized_smoothness(): no L1 where H is constant, the true one where it is known, null where it cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import estimators.growth.generalized
import estimators.growth.left_out
import estimators.growth.points
import estimators.smoothness_vector.at_a_point
from estimators import InputError, Problem, generalized_smoothness, smoothness, sphere
from estimators.growth.envelope import envelope
from estimators.growth.frozen_quadratic import spread
from estimators.growth.points import Measured
from estimators.results import GeneralizedSmoothness, Smoothness, stored_keys
from estimators.task.products import dense_hessian
from tests import oracles
from tests.diagnose.training.tasks import Shift
from tests.markers import marked
from tests.problems import BY_NAME, Parts, mlp, orthogonal, quadratic, symmetric, value


@pytest.fixture(params=[True, False], ids=["formed", "products"])
def formed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Pieces(nn.Module):
    """1/2 w'Hw with w in ten tensors."""

    matrix: Tensor

    def __init__(self, matrix: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.pieces = nn.ParameterList([nn.Parameter(piece.clone()) for piece in start.chunk(10)])

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat(list(self.pieces))
        output: Tensor = 0.5 * (w @ self.matrix @ w) + x
        return output


class CoshAndSquare(nn.Module):
    """sum c_j cosh(u_j) + 1/2 sum v_j^2: h = c cosh(u) <= c + |g| with g = c sinh(u), and h = 1."""

    c: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor([1.0, 0.9, 1.1, 0.8]))
        self.v = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.register_buffer("c", torch.tensor([1.0, 2.0, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = (self.c * torch.cosh(self.u)).sum() + 0.5 * self.v.square().sum() + x
        return output


def _cosh() -> Parts:
    return CoshAndSquare().double(), (torch.zeros(2).double(), torch.zeros(2).double()), value


def _radial(problem: Problem, scales: Any) -> list[dict[str, Tensor]]:
    return [{name: float(s) * p for name, p in problem.parameters.items()} for s in scales]


def _descent(problem: Problem, rate: float, steps: int, every: int) -> list[dict[str, Tensor]]:
    points, here = [], problem
    for step in range(steps):
        if step % every == 0:
            points.append(here.parameters)
        gradient = here.gradient()
        here = here.at({name: p - rate * gradient[name] for name, p in here.parameters.items()})
    return points


def _slopes(result: GeneralizedSmoothness) -> list[float]:
    assert result.tensors is not None
    return [row["l1"] for row in result.tensors]


# -- the control: a constant Hessian ---------------------------------------------------------------


def _constant(kind: str, seed: int, d: int = 50) -> Tensor:
    root = torch.logspace(-2, 1, d).double()
    if kind == "indefinite":
        return symmetric(d, seed)
    if kind == "graded":
        return root[:, None] * symmetric(d, seed) * root
    q = orthogonal(d, seed)
    matrix = q @ torch.diag(torch.logspace(-3, 1, d).double()) @ q.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("kind", ["indefinite", "graded", "rotated"])
@pytest.mark.parametrize("seed", marked("coverage", range(3), [0]))
def test_a_quadratic_has_no_l1(kind: str, seed: int, formed: bool) -> None:
    matrix = _constant(kind, seed)
    start = torch.randn(50, generator=torch.Generator().manual_seed(seed)).double()
    problem = Problem(
        Pieces(matrix, start), (torch.zeros(2).double(), torch.zeros(2).double()), value, forms_hessian=formed
    )
    _no_l1(generalized_smoothness(problem, _radial(problem, np.logspace(0, -1.5, 10)), seed=seed))


@pytest.mark.parametrize(("d", "seed"), marked("coverage", [(12, 0), (12, 1), (130, 0)], [(12, 0)]))
def test_a_quadratic_has_no_l1_in_any_group_or_interval(d: int, seed: int, formed: bool) -> None:
    """Points of two runs and of a sphere, as many as intervals need."""
    matrix = _constant("rotated", seed, d)
    start = torch.randn(d, generator=torch.Generator().manual_seed(seed)).double()
    problem = Problem(
        Pieces(matrix, start), (torch.zeros(2).double(), torch.zeros(2).double()), value, forms_hessian=formed
    )
    runs = [_radial(problem, np.logspace(0, -1.5, 8)), _descent(problem, 0.1, 320, 40)]
    ball = sphere(problem, 0.5 * float(start.norm()), 4, seed)
    groups = ["radial"] * 8 + ["descent"] * 8 + ["sphere"] * 4
    result = generalized_smoothness(problem, [*runs[0], *runs[1], *ball], groups=groups, seed=seed)
    _no_l1(result)
    assert max(result.l1_median_interval or (1.0,)) == 0
    assert result.isotropic is not None
    assert result.isotropic["l1_interval"] == (0, 0)
    assert result.l1_by_group is not None
    for row in result.l1_by_group:
        assert row["isotropic_l1"] in (0, None)
        assert row["l1_median"] in (0, None)
    assert result.warnings == ()


def _no_l1(result: GeneralizedSmoothness) -> None:
    assert set(_slopes(result)) == {0.0}
    assert result.l1_median == 0
    assert result.helps_fraction == 0
    assert all(float(part.abs().max()) == 0 for part in result.l1.values())
    assert result.permutation_p == 1
    assert result.whole is not None
    assert result.whole["l1"] == 0
    assert result.isotropic is not None
    assert result.isotropic["l1"] == 0
    assert result.isotropic["permutation_p"] == 1
    assert result.control is not None
    assert set(result.control.values()) == {0.0}


@pytest.mark.parametrize("rate", [0.02, 0.08])
def test_descent_on_a_quadratic_shows_no_l1(rate: float) -> None:
    """Descent removes sharp directions first: curvature along the path falls with the gradient, H does not."""
    matrix = _constant("rotated", 1)
    problem = Problem(*quadratic(matrix, n=3, noise=0.01), forms_hessian=False)
    result = generalized_smoothness(problem, _descent(problem, rate, 400, 40))
    assert set(_slopes(result)) == {0.0}
    assert result.isotropic is not None
    assert result.isotropic["l1"] == 0
    # What a fit of secants would have said, for the same path.
    points = [problem.flatten(p) for p in _descent(problem, rate, 400, 40)]
    gradients = [problem.flatten(problem.at(problem.unflatten(p)).gradient()) for p in points]
    secants = [
        float((gradients[i + 1] - gradients[i]).norm() / (points[i + 1] - points[i]).norm())
        for i in range(len(points) - 1)
    ]
    norms = [float(g.norm()) for g in gradients[:-1]]
    assert np.corrcoef(secants, norms)[0, 1] > 0.9


@pytest.mark.parametrize("seed", marked("coverage", range(4), [0]))
def test_brackets_that_missed_their_goal_show_no_l1(seed: int) -> None:
    """With few products L differs by tens of per cent from point to point; that is no slope."""
    d = 150
    q = orthogonal(d, seed)
    matrix = q @ torch.diag(torch.logspace(-3, 1, d).double()) @ q.T
    start = torch.randn(d, generator=torch.Generator().manual_seed(seed)).double()
    problem = Problem(
        Pieces(matrix, start), (torch.zeros(2).double(), torch.zeros(2).double()), value, forms_hessian=False
    )
    problem.formed_hessian = (matrix + matrix.T) / 2
    points = _radial(problem, np.logspace(0, -2, 12))
    assert set(_slopes(generalized_smoothness(problem, points, seed=seed, max_products=100))) == {0.0}


# -- a known L1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "points"), [(4.0, 9), (5.0, 15)])
def test_cosh_has_an_l1(top: float, points: int, formed: bool) -> None:
    """h <= c + |g| holds everywhere, and far out h/|g| tends to 1: neither reach nor spacing moves L1."""
    problem = Problem(*_cosh(), forms_hessian=formed)
    result = generalized_smoothness(problem, _radial(problem, np.linspace(0.1, top, points)))
    assert _slopes(result)[0] == pytest.approx(1.0, abs=0.1)
    assert (result.helps_fraction or 0.0) >= 4 / 7 - 1e-9
    if formed:
        assert _slopes(result)[1] == 0
    assert result.coverage == 1
    assert result.isotropic is not None
    assert result.isotropic["l1"] > 0.5
    assert result.isotropic["coverage"] == 1
    assert result.control is not None
    assert result.control["l1_median"] == 0


def test_the_tensor_of_constant_curvature_gets_no_l1_beside_one_that_has_it() -> None:
    problem = Problem(*_cosh(), forms_hessian=False)
    for top, points in ((4.0, 9), (5.0, 15)):
        result = generalized_smoothness(problem, _radial(problem, np.linspace(0.1, top, points)))
        assert _slopes(result)[1] == 0
        assert result.helps_fraction == pytest.approx(4 / 7)


@pytest.mark.parametrize("name", ["cosh", "mlp"])
def test_the_pair_is_feasible_at_every_fitted_point(name: str, formed: bool) -> None:
    """|H| <= diag(L0 + L1 |g|) by an eigenvalue solver; held-out points give the coverage."""
    problem = Problem(*(_cosh() if name == "cosh" else mlp()), forms_hessian=formed)
    trajectory = _radial(problem, np.linspace(0.1, 5, 11))
    if name == "mlp":
        trajectory = _descent(problem, 2.0, 440, 40)
    result = generalized_smoothness(problem, trajectory)
    l0, l1 = problem.flatten(result.l0).numpy(), problem.flatten(result.l1).numpy()
    held = []
    for number, parameters in enumerate(trajectory):
        point = problem.at(parameters)
        scaling = l0 + l1 * np.abs(problem.flatten(point.gradient()).numpy())
        matrix = dense_hessian(point).numpy()
        excess = float(np.abs(np.linalg.eigvalsh(matrix / np.sqrt(np.outer(scaling, scaling)))).max()) - 1
        if number % 2 == 0:
            assert excess <= 1e-9
        else:
            held.append(excess <= 1e-9)
    if formed:
        assert result.coverage == pytest.approx(sum(held) / len(held))
    else:  # certified, so never more than true
        assert (result.coverage or 0.0) <= sum(held) / len(held) + 1e-12


def test_the_numbers_of_a_result() -> None:
    problem = Problem(*_cosh())
    trajectory = _radial(problem, np.linspace(0.1, 4, 16))
    calls: list[tuple[str, float, float]] = []
    result = generalized_smoothness(problem, trajectory, groups=["a"] * 16, progress=lambda *call: calls.append(call))
    assert result.points is not None
    assert [row["fitted"] for row in result.points] == [True, False] * 8
    for row, parameters in zip(result.points, trajectory, strict=True):
        model, samples, loss = _cosh()
        model.load_state_dict({**model.state_dict(), **parameters})
        matrix = oracles.hessian((model, samples, loss))
        gradient = oracles.gradient((model, samples, loss))
        assert row["sharpness"] == pytest.approx(np.abs(np.linalg.eigvalsh(matrix)).max())
        assert row["gradient_l1"] == pytest.approx(np.abs(gradient).sum())
        assert row["gradient_l2"] == pytest.approx(np.linalg.norm(gradient))
        assert row["l1_lower"] <= np.abs(np.diag(matrix)).sum() * (1 + 1e-9) <= row["l1_upper"] * (1 + 1e-9)
    assert result.l0_l1 == pytest.approx(float(problem.flatten(result.l0).sum()))
    assert result.l1_median == pytest.approx(float(np.median(problem.flatten(result.l1))))
    assert result.helps_fraction == pytest.approx(float((problem.flatten(result.l1) > 0).double().mean()))
    assert result.tensors is not None
    assert sum(row["l0_l1"] for row in result.tensors) == pytest.approx(result.l0_l1)
    for row in result.tensors:
        assert row["l1_median"] == pytest.approx(float(np.median(result.l1[row["name"]])))
    for interval, own in ((result.l0_l1_interval, result.l0_l1), (result.l1_median_interval, result.l1_median)):
        assert interval is not None
        assert own is not None
        assert 0 <= interval[0] <= own <= interval[1]
    assert calls[-1][1] == calls[-1][2]
    assert {stage for stage, _, _ in calls} == {"generalized_smoothness"}
    assert all(getattr(result, key) is not None for key in stored_keys(result))


# -- known answers ---------------------------------------------------------------------------------

SHARP = (0.5, 1.0, 2.0, 3.0)


def _of_w(loss: Callable[[Tensor], Tensor], d: int = 4, formed: bool = True) -> Problem:
    """f(w) = loss(w), the same for each of two samples."""
    samples = (torch.zeros(2, d).double(), torch.zeros(2).double())
    return Problem(Shift(d).double(), samples, lambda output, _: loss(output), forms_hessian=formed)


def _separable(of: Callable[[Tensor], Tensor], formed: bool = True) -> Problem:
    """f(w) = sum_j of(a_j w_j)."""
    a = torch.tensor(SHARP, dtype=torch.float64)
    return _of_w(lambda w: of(a * w).sum(-1), formed=formed)


def _points(rows: Any) -> list[dict[str, Tensor]]:
    return [{"w": torch.tensor(row)} for row in np.asarray(rows, dtype=np.float64)]


def _by_coordinate(result: GeneralizedSmoothness) -> tuple[Any, Any]:
    return np.asarray(result.l0["w"]), np.asarray(result.l1["w"])


def test_sum_of_cosh_has_the_rates_as_l1() -> None:
    """h_j = a^2 cosh(a w) and |g_j| = a |sinh(a w)|: L0 <= a^2, and the chord up to G has slope a (1 - a/G) or more."""
    problem = _separable(torch.cosh)
    reach = np.linspace(0.05, 4, 16)
    result = generalized_smoothness(problem, _points(np.outer(reach, 1 / np.array(SHARP))))
    l0, l1 = _by_coordinate(result)
    a, last = np.array(SHARP), reach[14]  # the furthest fitted point
    assert (l0 <= a**2 * 1.01).all()
    assert (l1 <= a).all()
    assert (l1 >= a * (1 - 1 / np.sinh(last))).all()
    assert result.permutation_p is not None
    assert result.permutation_p < 0.01


def test_sum_of_exponentials_has_no_l0_and_the_rates_as_l1() -> None:
    """h_j = a |g_j|, with curvatures that span six decades over coordinates and points."""
    result = generalized_smoothness(_separable(torch.exp), _points(np.outer(np.linspace(-3, 3, 16), np.ones(4))))
    l0, l1 = _by_coordinate(result)
    np.testing.assert_allclose(l1, SHARP, rtol=1e-9)
    np.testing.assert_allclose(l0, 0, atol=1e-9)
    assert result.coverage == 1
    assert result.tightness == pytest.approx(1)
    assert result.l1_median_interval == pytest.approx((1.5, 1.5))


def test_without_the_formed_hessian_small_coordinates_keep_the_floor_in_l0() -> None:
    """The steepest coordinate is found; beside it the smallest show L0 alone, never an L1 of their own."""
    problem = _separable(torch.exp, formed=False)
    result = generalized_smoothness(problem, _points(np.outer(np.linspace(-3, 3, 16), np.ones(4))))
    l0, l1 = _by_coordinate(result)
    assert l1[3] == pytest.approx(3, rel=0.02)
    assert l1[2] == pytest.approx(2, rel=0.1)
    assert (l1[:2] == 0).all()
    assert (l0[:2] > 0).all()


def test_matrix_factorisation_in_one_dimension() -> None:
    """f = 1/2 (uv - 1)^2 along u = v = s: H = [[s^2, 2 s^2 - 1], [2 s^2 - 1, s^2]], so the least L is 3 s^2 - 1."""
    problem = _of_w(lambda w: 0.5 * (w[..., 0] * w[..., 1] - 1) ** 2, d=2)
    s = np.linspace(1.05, 4, 16)
    result = generalized_smoothness(problem, _points(np.outer(s, [1.0, 1.0])))
    own = s[::2, None]
    wanted = envelope(own * (own**2 - 1), 3 * own**2 - 1)
    l0, l1 = _by_coordinate(result)
    np.testing.assert_allclose(l0, float(wanted[0][0]), rtol=0.02)
    np.testing.assert_allclose(l1, float(wanted[1][0]), rtol=0.02)
    assert result.isotropic is not None
    # ||H|| = 3 s^2 - 1 as well, and ||g||_2 = sqrt(2) s (s^2 - 1).
    assert result.isotropic["l1"] == pytest.approx(float(wanted[1][0]) / np.sqrt(2), rel=0.02)
    assert result.tighter is not None
    assert result.tighter["assumption"] == "neither"
    assert result.tighter["factor"] == pytest.approx(1, abs=0.01)


def test_logistic_losses_of_one_feature_each() -> None:
    """h = a^2 s(1 - s) and |g| = a (1 - s): at most a |g|, and the fit is the envelope of these points."""
    problem = _separable(lambda m: torch.nn.functional.softplus(-m))
    margins = np.linspace(-1, 6, 16)
    result = generalized_smoothness(problem, _points(np.outer(margins, 1 / np.array(SHARP))))
    s = 1 / (1 + np.exp(-margins[::2, None]))
    a = np.array(SHARP)
    l0, l1 = envelope(a * (1 - s), a**2 * s * (1 - s))
    np.testing.assert_allclose(_by_coordinate(result)[0], l0, rtol=1e-6)
    np.testing.assert_allclose(_by_coordinate(result)[1], l1, rtol=1e-6)
    assert (l1 <= a).all()


def test_the_tighter_assumption_is_named_with_its_factor() -> None:
    """Coordinates that grow at different points: their own lines are close everywhere, one line for ||H|| is not."""
    problem = _separable(torch.exp)
    generator = np.random.default_rng(0)
    result = generalized_smoothness(problem, _points(generator.uniform(-3, 3, (24, 4)) / np.array(SHARP)))
    assert result.tightness == pytest.approx(1)
    assert result.tighter is not None
    assert result.isotropic is not None
    if result.coverage == result.isotropic["coverage"]:
        assert result.tighter["assumption"] == "coordinate-wise"
        assert result.tighter["factor"] == pytest.approx(result.isotropic["tightness"] / result.tightness)
        assert result.tighter["factor"] > 1.1
    else:
        assert result.tighter["assumption"] is None
        assert "held-out points" in result.tighter["why"]["assumption"]


# -- groups ----------------------------------------------------------------------------------------


def _two_sided(formed: bool = True) -> Problem:
    """exp(w) + exp(-3 w) for each of two coordinates: L1 is 1 far to the right and 3 far to the left."""
    return _of_w(lambda w: (torch.exp(w) + torch.exp(-3 * w)).sum(-1), d=2, formed=formed)


def test_an_l1_that_moves_between_groups_is_found() -> None:
    right, left = np.linspace(0.6, 6, 12), -np.linspace(0.2, 2, 12)
    rows = np.outer(np.concatenate([right, left]), [1.0, 1.0])
    result = generalized_smoothness(_two_sided(), _points(rows), groups=["right"] * 12 + ["left"] * 12)
    assert result.l1_by_group is not None
    rows_by = {row["group"]: row for row in result.l1_by_group}
    for group, slope in (("right", 1), ("left", 3)):
        assert rows_by[group]["l1_median"] == pytest.approx(slope, abs=0.1)
        # Of two equal coordinates ||g||_2 is sqrt(2) |g_j|.
        assert rows_by[group]["isotropic_l1"] == pytest.approx(slope / np.sqrt(2), abs=0.1)
    assert {finding.code for finding in result.warnings} == {"l1-moves"}
    assert "group right" in result.warnings[0].found


def test_a_fit_that_fails_at_the_points_left_out_is_warned_of() -> None:
    """Fitted to the right, where L1 is 1, and held against the left, where it is 3; the control to the right alone."""
    right, left = np.linspace(0.6, 6, 12), -np.linspace(0.2, 2, 12)
    result = generalized_smoothness(_two_sided(), _points(np.outer(np.stack([right, left], 1).ravel(), [1.0, 1.0])))
    assert result.coverage == 0
    (finding,) = (one for one in result.warnings if one.code == "fit-fails")
    assert finding.severity == "warning"
    assert "fails at 12 of 12 points" in finding.found
    clean = generalized_smoothness(_two_sided(), _points(np.outer(np.linspace(0.6, 6, 24), [1.0, 1.0])))
    assert clean.coverage is not None
    assert clean.coverage >= 0.5
    assert clean.warnings == ()


def test_groups_over_the_same_points_show_no_movement() -> None:
    rows = np.outer(np.linspace(-2, 6, 24), [1.0, 1.0])
    result = generalized_smoothness(_two_sided(), _points(rows), groups=["even", "odd"] * 12)
    assert result.l1_by_group is not None
    assert [row["points"] for row in result.l1_by_group] == [12, 12]
    assert result.warnings == ()
    assert result.points is not None
    for group in ("even", "odd"):
        assert [row["fitted"] for row in result.points if row["group"] == group] == [True, False] * 6


def test_groups_that_say_nothing_are_null_with_the_reason() -> None:
    scales = [*np.linspace(0.2, 4, 12), *np.linspace(3, 3.2, 8), 1.0, 2.0]
    groups = ["wide"] * 12 + ["narrow"] * 8 + ["few"] * 2
    result = generalized_smoothness(_two_sided(), _points(np.outer(scales, [1.0, 1.0])), groups=groups)
    assert result.l1_by_group is not None
    wide, narrow, few = result.l1_by_group
    assert wide["isotropic_l1_interval"] is not None
    assert "span a factor of" in narrow["why"]["isotropic_l1"]
    assert "2 points" in few["why"]["l1_median"]
    assert narrow["isotropic_l1"] is few["l1_median"] is None


def test_labels_must_fit_the_points() -> None:
    problem = _two_sided()
    with pytest.raises(InputError, match="3 labels for 8 points"):
        generalized_smoothness(problem, _points(np.ones((8, 2))), groups=["a"] * 3)


def test_few_fitted_points_have_no_interval() -> None:
    result = generalized_smoothness(_two_sided(), _points(np.outer(np.linspace(0.2, 4, 14), [1.0, 1.0])))
    assert result.l0_l1_interval is result.l1_median_interval is None
    assert "7 fitted points" in result.why["l1_median_interval"]
    assert result.isotropic is not None
    assert "7 fitted points" in result.isotropic["why"]["l1_interval"]


def test_one_bracket_for_each_point_and_one_or_three_for_the_control(
    formed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By products the sweeps of a point start from those of the one before, of a group from those of the first point;
    the control's at random."""
    starts = []

    def counted(problem: Problem, start: Smoothness | None = None, **kind: Any) -> Smoothness:
        starts.append(start)
        found.append(smoothness(problem, start=start, **kind))
        return found[-1]

    found: list[Smoothness] = []
    monkeypatch.setattr(estimators.growth.points, "smoothness", counted)
    points = _points(np.outer(np.linspace(0.2, 4, 10), [1.0, 1.0]))
    generalized_smoothness(_two_sided(formed), points, groups=["a"] * 5 + ["b"] * 5)
    if formed:
        assert starts == [None] * 13
        return
    rows = [None if start is None else start.rows for start in starts]
    assert rows == [None, *(one.rows for one in found[:4]), found[0].rows, *(one.rows for one in found[5:9]), None]


def test_the_freedom_at_the_first_point_from_two_starts_is_that_from_four() -> None:
    """Median over many coordinates of independent draws; the tenth of them that agree by chance have the median too."""
    bounds = 1000 + torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0)).double()
    problem = _two_sided()
    first, *again = (Measured(problem, bound, smoothness(problem), bound, bound > 0) for bound in bounds)
    two, four = spread(first, again[:1]), spread(first, again)
    np.testing.assert_allclose(np.median(two), np.median(four), rtol=0.02)
    assert np.quantile(two, 0.1) > 0.9 * np.median(two)


# -- where it cannot be told -----------------------------------------------------------------------


def _null_but_points(result: GeneralizedSmoothness, reason: str, points: int) -> None:
    for key in stored_keys(result):
        if key == "points":
            continue
        assert getattr(result, key) is None
        assert reason in result.why[key]
    assert result.points is not None
    assert len(result.points) == points
    assert "points" not in result.why
    assert dict(result.l0) == {}
    assert dict(result.l1) == {}


def test_a_narrow_range_of_gradients_is_null_with_the_reason() -> None:
    problem = Problem(*_cosh())
    result = generalized_smoothness(problem, _radial(problem, np.linspace(1, 2, 8)))
    _null_but_points(result, "less than the factor of 10", 8)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_points_are_null_with_the_reason(count: int) -> None:
    problem = Problem(*_cosh())
    result = generalized_smoothness(problem, _radial(problem, np.linspace(0.1, 4, count)))
    _null_but_points(result, f"{count} points along the runs", count)


def test_a_tensor_whose_own_gradient_hardly_moves_gets_no_slope() -> None:
    problem = Problem(*_cosh())
    points = [{"u": s * problem.parameters["u"], "v": problem.parameters["v"]} for s in np.linspace(0.1, 4, 9)]
    result = generalized_smoothness(problem, points)
    assert result.tensors is not None
    u, v = result.tensors
    assert u["l1"] > 0.8
    assert v["gradient_range"] == pytest.approx(1)
    assert v["l1"] == 0


def test_the_problem_is_left_at_its_point() -> None:
    problem = BY_NAME["mlp"].problem()
    before = problem.flatten(problem.parameters).clone()
    generalized_smoothness(problem, _radial(problem, np.linspace(0.1, 4, 6)))
    assert torch.equal(problem.flatten(problem.parameters), before)
