"""The Hessian's diagonal against the explicit one, and how often its intervals cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

import estimators.diagonal as module
from estimators import InputError, Problem, hessian_diagonal, smoothness
from estimators.diagonal import absolute_sum, mean_interval
from estimators.products import dense_hessian
from tests import oracles
from tests.problems import BY_NAME, SMALL, Case, mlp, orthogonal, quadratic, symmetric
from tests.statistics import ALPHA, assert_calibrated, assert_covers, fewest

REPEATS = 200


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hutchinson on small problems too."""
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)


def _formed(problem: Problem) -> Problem:
    """With its Hessian formed, products cost a matrix product."""
    dense_hessian(problem)
    return problem


# -- exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_exact(case: Case) -> None:
    problem = case.problem()
    result = hessian_diagonal(problem)
    wanted = np.diag(oracles.hessian(case.parts()))
    scale = np.abs(wanted).max()
    for vectors in (result.vectors, result.lower, result.upper):
        np.testing.assert_allclose(problem.flatten(vectors).numpy(), wanted, atol=1e-12 * scale)
    assert float(problem.flatten(result.standard_error).abs().max()) == 0
    assert result.trace == pytest.approx(wanted.sum(), abs=1e-11 * scale)
    assert result.abs_sum == pytest.approx(np.abs(wanted).sum())
    assert result.trace_interval == (result.trace, result.trace)
    assert result.abs_sum_interval == (result.abs_sum, result.abs_sum)
    assert result.exact is True
    assert result.probes is None
    assert result.why["probes"]
    assert result.negative_fraction == pytest.approx((wanted < -1e-15).mean())
    assert result.tensors is not None
    assert [row["name"] for row in result.tensors] == list(problem.names)
    assert sum(row["trace"] for row in result.tensors) == pytest.approx(result.trace, abs=1e-11 * scale)
    assert sum(row["abs_sum"] for row in result.tensors) == pytest.approx(result.abs_sum)


# -- by probes -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_products")
def test_an_axis_aligned_hessian_needs_one_probe() -> None:
    """z * Hz is the diagonal itself: no error to report."""
    case = BY_NAME["axis-aligned"]
    problem = case.problem()
    result = hessian_diagonal(problem, probes=4)
    assert case.hessian is not None
    torch.testing.assert_close(problem.flatten(result.vectors), case.hessian.diagonal(), rtol=1e-13, atol=0)
    assert float(problem.flatten(result.standard_error).abs().max()) < 1e-12
    assert result.abs_sum == pytest.approx(float(case.hessian.diagonal().sum()))
    assert result.exact is False
    assert result.probes == 4
    assert "probes" not in result.why


@pytest.mark.usefixtures("by_products")
def test_the_mean_over_many_probes_is_the_diagonal() -> None:
    problem = _formed(BY_NAME["mlp"].problem())
    wanted = np.diag(oracles.hessian(BY_NAME["mlp"].parts()))
    result = hessian_diagonal(problem, probes=4000)
    error = problem.flatten(result.standard_error).numpy()
    off = np.abs(problem.flatten(result.vectors).numpy() - wanted)
    assert float((off / np.maximum(error, 1e-15)).max()) < 5
    assert error.max() < 0.03


@pytest.mark.usefixtures("by_products")
def test_standard_errors() -> None:
    """Var(z_j (Hz)_j) = sum of H_jk^2 over k != j, for independent signs."""
    matrix = symmetric(12, 7)
    problem = _formed(Problem(*quadratic(matrix)))
    error = problem.flatten(hessian_diagonal(problem, probes=2000).standard_error)
    wanted = ((matrix.square().sum(1) - matrix.diagonal().square()) / 2000).sqrt()
    torch.testing.assert_close(error, wanted, rtol=0.1, atol=0)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("name", ["indefinite", "rotated", "mlp", "cnn-batchnorm"])
def test_coverage(name: str) -> None:
    """Trace and each coordinate as claimed, the sum of absolute values at least."""
    case = BY_NAME[name]
    wanted = np.diag(oracles.hessian(case.parts()))
    problem = _formed(case.problem())
    trace = total = 0
    each = np.zeros(problem.d)
    slack = 1e-12 * np.abs(wanted).max()
    for seed in range(REPEATS):
        result = hessian_diagonal(problem, probes=32, seed=seed)
        assert result.trace_interval is not None
        assert result.abs_sum_interval is not None
        trace += result.trace_interval[0] <= wanted.sum() <= result.trace_interval[1]
        total += result.abs_sum_interval[0] <= np.abs(wanted).sum() <= result.abs_sum_interval[1]
        lower, upper = problem.flatten(result.lower).numpy(), problem.flatten(result.upper).numpy()
        each += (lower <= wanted + slack) & (wanted - slack <= upper)
    assert_calibrated(trace, REPEATS, 0.95)
    assert_covers(total, REPEATS, 0.95)
    # A coordinate that leans on one other takes few values; 90% is what is asked of the worst of d.
    assert each.min() >= binom.ppf(ALPHA / problem.d, REPEATS, 0.9)
    assert_covers(round(float(each.mean())), REPEATS, 0.95)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize(("kind", "probes"), [("rank-one", 16), ("hidden", 16), ("hidden", 64), ("negative", 32)])
def test_coverage_of_the_absolute_sum_where_noise_hides_it(kind: str, probes: int) -> None:
    d = 150
    a = torch.randn(d, 1, generator=torch.Generator().manual_seed(8)).double()
    if kind == "rank-one":
        matrix = a @ a.T
    elif kind == "negative":
        matrix = -(a @ a.T)
    else:  # off-diagonal mass a hundred times the diagonal's, of both signs
        matrix = symmetric(d, 9)
        matrix.diagonal().mul_(0.01)
    problem = Problem(*quadratic(matrix))
    problem._dense = matrix
    wanted = float(matrix.diagonal().abs().sum())
    hits = naive = 0
    for seed in range(REPEATS):
        result = hessian_diagonal(problem, probes=probes, seed=seed)
        assert result.abs_sum_interval is not None
        assert result.abs_sum is not None
        hits += result.abs_sum_interval[0] <= wanted <= result.abs_sum_interval[1]
        assert result.abs_sum_interval[0] <= result.abs_sum <= result.abs_sum_interval[1]
        # The control: the spread of the noisy sum around itself, which forgets its bias.
        raw = float(problem.flatten(result.vectors).abs().sum())
        half = 2 * float(problem.flatten(result.standard_error).norm())
        naive += raw - half <= wanted <= raw + half
    assert_covers(hits, REPEATS, 0.95)
    if kind == "hidden":
        assert naive < fewest(REPEATS, 0.95)


def test_mean_interval_is_calibrated() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        _, (low, high) = mean_interval([float(v) for v in generator.normal(3, 2, 8)])
        hits += low <= 3 <= high
    assert_calibrated(hits, 2000, 0.95)


def test_sums_do_not_cancel() -> None:
    """Probes that differ in the ninth digit: squares about the first one keep the difference."""
    sums = module._Sums(3, torch.device("cpu"))
    deviations = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    for row in deviations:
        sums.add(1e9 + row)
    torch.testing.assert_close(sums.standard_error, deviations.std(0) / 40**0.5, rtol=1e-5, atol=0)
    value, (low, high) = absolute_sum(sums)
    assert low <= value <= high


# -- bounds cut by the smoothness vector -----------------------------------------------------------


@pytest.mark.usefixtures("by_products")
def test_bounds_are_cut_to_the_smoothness_vector() -> None:
    problem = _formed(BY_NAME["mlp"].problem())
    bound = smoothness(problem)
    limit = problem.flatten(bound.vectors)
    plain = hessian_diagonal(problem, probes=8)
    cut = hessian_diagonal(problem, probes=8, smoothness=bound)
    low, high, value = (problem.flatten(v) for v in (cut.lower, cut.upper, cut.vectors))
    assert bool((problem.flatten(plain.upper) > limit).any())  # there was something to cut
    assert bool(((-limit <= low) & (low <= value) & (value <= high) & (high <= limit)).all())
    assert torch.equal(high, problem.flatten(plain.upper).clamp(-limit, limit))
    assert torch.equal(low, problem.flatten(plain.lower).clamp(-limit, limit))
    assert cut.abs_sum_interval is not None
    assert bound.l1_upper is not None
    assert cut.abs_sum_interval[1] <= bound.l1_upper


@pytest.mark.usefixtures("by_products")
def test_an_interval_beyond_the_smoothness_vector_becomes_its_nearer_end() -> None:
    problem = _formed(BY_NAME["axis-aligned"].problem())
    bound = smoothness(problem)
    tiny = {name: 0.001 * v for name, v in bound.vectors.items()}
    cut = hessian_diagonal(problem, probes=4, smoothness=replace(bound, vectors=tiny))
    for vectors in (cut.lower, cut.upper, cut.vectors):
        torch.testing.assert_close(problem.flatten(vectors), problem.flatten(tiny))


def test_a_smoothness_result_of_other_samples_is_refused() -> None:
    problem = BY_NAME["mlp"].problem()
    other = smoothness(problem.subset(torch.arange(5)))
    with pytest.raises(InputError, match="another problem"):
        hessian_diagonal(problem, smoothness=other)
    with pytest.raises(InputError, match="another problem"):
        hessian_diagonal(problem, smoothness=smoothness(BY_NAME["softmax"].problem()))


# -- edges -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_products")
def test_too_few_probes_are_refused() -> None:
    with pytest.raises(InputError, match="3 probes are too few"):
        hessian_diagonal(BY_NAME["mlp"].problem(), probes=3)


@pytest.mark.usefixtures("by_products")
def test_a_zero_hessian() -> None:
    result = hessian_diagonal(Problem(*quadratic(torch.zeros(8, 8).double())), probes=4)
    assert (result.trace, result.abs_sum, result.trace_interval, result.abs_sum_interval) == (0, 0, (0, 0), (0, 0))


@pytest.mark.usefixtures("by_products")
def test_float32_keeps_the_value_between_its_bounds() -> None:
    model, samples, loss = mlp()
    problem = Problem(model.float(), samples, loss)
    result = hessian_diagonal(problem, probes=8)
    low, value, high = (problem.flatten(v) for v in (result.lower, result.vectors, result.upper))
    assert low.dtype == torch.float32
    assert bool(((low <= value) & (value <= high)).all())


@pytest.mark.usefixtures("by_products")
def test_progress_and_cost() -> None:
    matrix = orthogonal(8)
    problem = Problem(*quadratic(matrix + matrix.T))
    calls: list[tuple[str, float, float]] = []
    result = hessian_diagonal(problem, probes=6, progress=lambda *call: calls.append(call))
    assert calls == [("hessian_diagonal", done, 6) for done in range(1, 7)]
    assert result.cost.passes == pytest.approx(1 + 2 * 6)
