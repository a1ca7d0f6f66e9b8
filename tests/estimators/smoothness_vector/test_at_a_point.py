"""smoothness() on every case against the explicit Hessian and a semidefinite solver."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from estimators import InputError, Problem, smoothness
from estimators.curvature.lanczos import extremes
from estimators.results import Smoothness
from tests import oracles
from tests.markers import marked
from tests.problems import BY_NAME, SMALL, Case, Scores, quadratic, symmetric


@cache
def _known(name: str) -> tuple[oracles.Array, float]:
    """The Hessian and Lambda."""
    matrix = oracles.hessian(BY_NAME[name].parts())
    return matrix, oracles.smallest_diagonal(matrix)


def _check(case: Case, problem: Problem, result: Smoothness, gap: float, rounding: float = 1e-6) -> None:
    matrix, wanted = _known(case.name)
    eigenvalues = np.abs(np.linalg.eigvalsh(matrix))
    assert result.l1_lower is not None
    assert result.l1_upper is not None
    assert result.sharpness is not None
    assert result.sharpness_interval is not None
    assert result.l1_lower <= wanted * (1 + rounding)
    assert result.l1_upper >= wanted * (1 - rounding)
    assert result.l1_lower <= result.l1_upper <= result.l1_lower * (1 + gap) * (1 + 1e-9)
    bound = problem.flatten(result.vectors).double().numpy()
    assert bound.sum() == pytest.approx(result.l1_upper, rel=1e-6)
    alive = np.abs(matrix).max(1) > 0
    assert (bound[~alive] == 0).all()
    part = matrix[np.ix_(alive, alive)] / np.sqrt(np.outer(bound[alive], bound[alive]))
    assert np.abs(np.linalg.eigvalsh(part)).max() <= 1 + rounding
    low, high = result.sharpness_interval
    assert low * (1 - rounding) <= eigenvalues.max() <= high * (1 + rounding)
    assert result.sharpness == pytest.approx(eigenvalues.max(), rel=0.005)
    assert result.density == pytest.approx(result.l1_upper / (problem.d * result.sharpness))
    assert result.samples == problem.n
    assert result.tensors is not None
    assert sum(row["l1"] for row in result.tensors) == pytest.approx(result.l1_upper, rel=1e-6)
    assert [row["parameters"] for row in result.tensors] == problem.sizes


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_where_the_hessian_is_formed(case: Case) -> None:
    matrix, _ = _known(case.name)
    problem = case.problem()
    result = smoothness(problem)
    _check(case, problem, result, 0.01)
    assert result.confidence == 1
    assert result.products == problem.d
    assert result.hessian_11 == pytest.approx(np.abs(matrix).sum())
    assert result.diagonal_sum == pytest.approx(np.abs(np.diag(matrix)).sum())
    assert result.row_norm_sum == pytest.approx(np.linalg.norm(matrix, axis=1).sum())
    assert result.warnings == ()
    for key in ("density_rotated", "points"):
        assert getattr(result, key) is None
        assert result.why[key]


@pytest.mark.parametrize("seed", marked("coverage", range(3), [0]))
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_by_products(case: Case, seed: int) -> None:
    matrix, _ = _known(case.name)
    problem = case.problem(forms_hessian=False)
    result = smoothness(problem, seed=seed)
    _check(case, problem, result, 0.05)
    assert result.confidence == pytest.approx(0.999)
    assert result.row_norm_sum == pytest.approx(np.linalg.norm(matrix, axis=1).sum(), rel=0.35)
    assert result.products is not None
    assert result.products <= 480
    assert result.cost.passes == pytest.approx(1 + 2 * result.products)
    for key in ("hessian_11", "hessian_11_interval", "diagonal_sum"):
        assert getattr(result, key) is None
        assert result.why[key]


@pytest.mark.parametrize("name", ["logistic", "mlp", "unseen-token"])
def test_in_float32(name: str) -> None:
    model, samples, loss = BY_NAME[name].parts()
    problem = Problem(model.float(), samples, loss, forms_hessian=False)
    _check(BY_NAME[name], problem, smoothness(problem), 0.05, rounding=1e-5)


@pytest.mark.parametrize("name", ["mlp", "unseen-token"])
def test_with_the_run_behind_the_spectrum(name: str) -> None:
    """Its steps count as products, and are not taken again."""
    case = BY_NAME[name]
    problem = case.problem(forms_hessian=False)
    run = extremes(problem, seed=3, keep=True).norm
    result = smoothness(problem, run=run)
    assert result.sharpness_interval == run.norm_interval
    assert result.products is not None
    assert result.cost.passes == pytest.approx(1 + 2 * (result.products - run.steps))
    _check(case, problem, result, 0.05)
    _check(case, problem, smoothness(problem, run=extremes(problem, seed=3).norm), 0.05)
    with pytest.raises(InputError, match="of other parameters"):
        smoothness(problem, run=extremes(BY_NAME["softmax"].problem(forms_hessian=False), keep=True).norm)


def test_a_narrow_gap_is_reached() -> None:
    case = BY_NAME["cnn-batchnorm"]
    problem = case.problem(forms_hessian=False)
    _check(case, problem, smoothness(problem, gap=0.002, max_products=2000), 0.002)


def test_a_wide_bracket_is_said() -> None:
    result = smoothness(Problem(*quadratic(symmetric(60, 3)), forms_hessian=False), gap=1e-4, max_products=120)
    (warning,) = result.warnings
    assert warning.code == "bracket-wide"
    assert warning.severity == "warning"
    assert result.l1_lower is not None
    assert result.l1_upper is not None
    assert f"{result.l1_upper / result.l1_lower - 1:.1%}" in warning.found


def test_of_a_language_model() -> None:
    case = BY_NAME["gpt2"]
    problem = case.problem()
    result = smoothness(problem)
    product = oracles.hessian_operator(case.parts())
    start = np.random.default_rng(0).standard_normal(problem.d)

    def largest(scale: oracles.Array) -> float:
        operator = LinearOperator(
            (problem.d, problem.d), matvec=lambda v: scale * product(scale * v.ravel()), dtype=np.float64
        )
        return float(np.abs(eigsh(operator, k=1, which="LM", v0=start, tol=1e-7, return_eigenvectors=False))[0])

    bound = problem.flatten(result.vectors).numpy()
    inverse_root = np.divide(1, np.sqrt(bound), out=np.zeros_like(bound), where=bound > 0)
    assert 0.3 < largest(inverse_root) <= 1
    assert result.sharpness is not None
    assert result.sharpness_interval is not None
    sharpness = largest(np.ones(problem.d))
    assert result.sharpness == pytest.approx(sharpness, rel=0.005)
    assert result.sharpness_interval[1] >= sharpness * (1 - 1e-9)
    positions = result.vectors["transformer.wpe.weight"]
    assert float(positions[6:].abs().max()) == 0  # positions that no sequence reaches
    assert float(positions[:5].min()) > 0
    assert result.l1_lower is not None
    assert result.l1_upper is not None
    assert result.l1_lower <= result.l1_upper <= 1.05 * result.l1_lower


def test_a_zero_hessian() -> None:
    result = smoothness(Problem(*quadratic(torch.zeros(8, 8).double())))
    assert (result.l1_lower, result.l1_upper, result.sharpness) == (0, 0, 0)
    assert result.density is None
    assert result.why["density"] == "the Hessian is zero"
    assert result.warnings == ()


def test_a_zero_hessian_by_products() -> None:
    result = smoothness(Problem(*quadratic(torch.zeros(8, 8).double()), forms_hessian=False))
    assert (result.l1_lower, result.l1_upper, result.sharpness, result.density) == (0, 0, 0, None)
    assert result.warnings == ()


# -- the closed form of linear models --------------------------------------------------------------


@pytest.mark.parametrize("loss", ["logistic", "squared", "cross-entropy"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_closed_form_holds_everywhere(loss: str, bias: bool) -> None:
    torch.manual_seed(5)
    x = torch.randn(30, 4).double()
    targets = {
        "logistic": torch.sign(torch.randn(30)).double(),
        "squared": torch.randn(30, 3).double(),
        "cross-entropy": torch.randint(0, 3, (30,)),
    }[loss]
    model = nn.Linear(4, 1 if loss == "logistic" else 3, bias=bias).double()
    for scale in (0.0, 0.5, 3.0):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(scale * torch.randn_like(parameter))
        result = smoothness(Problem(model, (x, targets), loss))
        wanted = oracles.smallest_diagonal(oracles.hessian((model, (x, targets), loss)))
        assert result.global_l1 is not None
        assert result.global_l1 >= wanted * (1 - 1e-6)
        assert "global_l1" not in result.why


def test_the_closed_form_is_exact_for_features_of_one_sign_at_zero() -> None:
    torch.manual_seed(6)
    model = nn.Linear(6, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    samples = (torch.rand(25, 6).double(), torch.sign(torch.randn(25)).double())
    result = smoothness(Problem(model, samples, "logistic"), gap=1e-4)
    assert result.l1_upper == pytest.approx(result.global_l1, rel=2e-4)


@pytest.mark.parametrize("model", [Scores(8), nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 1))])
def test_no_closed_form_for_other_models(model: nn.Module) -> None:
    _, samples, loss = BY_NAME["logistic"].parts()
    result = smoothness(Problem(model.double(), samples, loss))
    assert result.global_l1 is None
    assert result.why["global_l1"]


def test_progress() -> None:
    calls: list[tuple[str, float, float]] = []
    smoothness(BY_NAME["mlp"].problem(forms_hessian=False), progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"smoothness"}
    assert all(0 < done <= total for _, done, total in calls)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
