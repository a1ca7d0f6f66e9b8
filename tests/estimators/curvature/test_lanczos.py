"""Extremal eigenvalues against numpy, and how often the bound beyond them holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from estimators import Problem, spectrum
from estimators.curvature.lanczos import Ritz, edge, extremes, lanczos, rounding_slack
from estimators.numbers.vectors import random_start
from estimators.task.products import Product
from tests import oracles
from tests.markers import marked
from tests.problems import BY_NAME, SMALL, Case, orthogonal, quadratic, symmetric
from tests.statistics import assert_calibrated, assert_covers, fewest

STARTS = 1500
D = 60


def _times(matrix: Tensor) -> Product:
    return lambda block: matrix @ block


def _spectrum(kind: str) -> Tensor:
    """Eigenvalues of D coordinates: the top well apart, in a crowd, or on both sides."""
    if kind == "spike":
        return torch.cat([torch.tensor([5.0]), torch.linspace(0, 1, D - 1)]).double()
    if kind == "crowd":
        return torch.linspace(0, 1, D).double().square()
    return torch.linspace(-1, 1, D).double()


def _runs(kind: str, steps: int, delta: float, local: bool = False) -> list[Ritz]:
    """Lanczos from STARTS starts; the matrix is diagonal, which a uniform start cannot tell from a rotated one."""
    values = _spectrum(kind)
    generator = torch.Generator().manual_seed(0)

    def product(block: Tensor) -> Tensor:
        return values[:, None] * block

    starts = (random_start(D, generator, values) for _ in range(STARTS))
    return [lanczos(product, start, D, steps, delta, generator, local=local) for start in starts]


@pytest.mark.parametrize(
    ("kind", "delta", "local"),
    marked(
        "coverage",
        itertools.product(["spike", "crowd", "symmetric"], [0.3, 0.1], [False, True]),
        [("spike", 0.1, False), ("crowd", 0.3, True)],
    ),
)
def test_the_bound_holds_as_often_as_it_says(kind: str, delta: float, local: bool) -> None:
    values = _spectrum(kind)
    runs = _runs(kind, 8, 2 * delta, local)  # delta on each side
    assert_covers(sum(run.upper >= float(values.max()) for run in runs), STARTS, 1 - delta)
    assert_covers(sum(run.lower <= float(values.min()) for run in runs), STARTS, 1 - delta)
    norm = float(values.abs().max())
    assert_covers(sum(run.norm_bound >= norm for run in runs), STARTS, 1 - 2 * delta)
    # A Ritz value is no bound: the same judgement must refuse it.
    assert sum(run.norm >= norm for run in runs) < fewest(STARTS, 1 - 2 * delta)


@pytest.mark.parametrize("delta", marked("coverage", [0.3, 0.1], [0.3]))
def test_the_bound_is_not_wider_than_it_says(delta: float) -> None:
    """Once the top is resolved the inequality behind the bound is nearly an equality."""
    runs = _runs("spike", 8, 2 * delta)
    assert_calibrated(sum(run.upper >= 5.0 for run in runs), STARTS, 1 - delta)


def test_without_a_basis_eigenvalues_come_again_and_bounds_hold() -> None:
    """60 steps in float32 on eigenvalues that 20 find: copies of them, none beyond the spectrum."""
    values = torch.cat([torch.tensor([8.0, -5.0, 3.0]), torch.linspace(-0.1, 0.1, 4997)])
    copies = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        start = random_start(5000, generator, values)
        run = lanczos(lambda block: values[:, None] * block, start, 5000, 60, 1e-3, generator, local=True)
        assert run.basis is None
        copies += int((run.values > 7.9).sum()) - 1
        # Copies scatter by the rounding of some steps, for which both bounds have a slack.
        assert (run.values[0], run.values[-1]) == pytest.approx((-5, 8), abs=100 * 8 * torch.finfo(torch.float32).eps)
        assert 8 <= run.upper <= 8.001
        assert -5.001 <= run.lower <= -5
    assert copies > 0


def test_without_a_basis_a_run_ends_where_its_space_closes() -> None:
    matrix = torch.diag(torch.tensor([3.0] + [1.0] * 30)).double()
    generator = torch.Generator().manual_seed(0)
    run = lanczos(_times(matrix), random_start(31, generator, matrix), 31, 20, 1e-3, generator, local=True)
    assert run.steps < 6
    assert (run.values[0], run.values[-1]) == pytest.approx((1, 3))
    assert 3 <= run.upper < 3.001
    zero = torch.zeros(9, 9).double()
    run = lanczos(_times(zero), random_start(9, generator, zero), 9, 80, 1e-3, generator, local=True)
    assert (run.lower, run.norm, run.upper) == (0, 0, 0)


def test_the_edge_solves_its_equation() -> None:
    """Two steps by hand: p_1 = (x - a_0)/b_0, p_2 = ((x - a_1) p_1 - b_0)/b_1."""
    alphas, betas, n, delta = [1.0, 0.5], [0.7, 0.2], 30, 0.1
    theta = float(np.linalg.eigvalsh([[1.0, 0.7], [0.7, 0.5]])[-1])
    x = edge(alphas, betas, n, delta, theta)
    first = (x - 1.0) / 0.7
    second = ((x - 0.5) * first - 0.7) / 0.2
    assert x > theta
    assert 1 + first**2 + second**2 == pytest.approx(2 * n / (np.pi * delta**2), rel=1e-9)


def test_the_edge_survives_many_steps() -> None:
    """The polynomials overflow without rescaling."""
    steps = 300
    x = edge([0.0] * steps, [0.5] * steps, 10**8, 1e-3, 1.0)
    assert 1.0 <= x < 1.01
    assert edge([0.0] * 20, [0.5] * 20, 10**8, 1e-3, 1.0) > x  # fewer steps know less


@pytest.mark.parametrize("n", [1, 2, 7])
def test_all_steps_give_all_eigenvalues(n: int) -> None:
    matrix = symmetric(n, 5)
    generator = torch.Generator().manual_seed(0)
    run = lanczos(_times(matrix), random_start(n, generator, matrix), n, 80, 1e-3, generator)
    np.testing.assert_allclose(run.values, np.linalg.eigvalsh(matrix.numpy()), atol=1e-10)
    assert run.upper >= run.values[-1]
    assert run.upper - run.values[-1] < 1e-10 * max(1.0, run.norm)


def test_an_invariant_space_is_left_for_fresh_directions() -> None:
    matrix = torch.diag(torch.tensor([3.0] + [1.0] * 30)).double()
    generator = torch.Generator().manual_seed(0)
    run = lanczos(_times(matrix), random_start(31, generator, matrix), 31, 6, 1e-3, generator)
    assert (run.values[0], run.values[-1]) == pytest.approx((1, 3))
    assert (run.lower, run.upper) == pytest.approx((1, 3))


def _spiked(v: Tensor, size: float) -> Product:
    return lambda block: block + size * (v @ (v.T @ block))


@pytest.mark.parametrize("size", marked("coverage", [1e-4, 3e-4, 1e-3], [3e-4]))
def test_an_eigenvalue_that_rounding_hides_is_still_bounded(size: float) -> None:
    """I + size vv' in float32: the start shows v only below its own rounding."""
    d, missed = 40_000, 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        v = torch.randn(d, 1, generator=generator)
        v /= v.norm()
        start = torch.randn(d, generator=generator)
        run = lanczos(_spiked(v, size), start, d, 40, 1e-3, generator)
        missed += run.upper < 1 + size * (1 - 1e-3)
    assert missed == 0


def test_the_zero_operator() -> None:
    zero = torch.zeros(9, 9).double()
    generator = torch.Generator().manual_seed(0)
    run = lanczos(_times(zero), random_start(9, generator, zero), 9, 80, 1e-3, generator)
    assert (run.lower, run.norm, run.upper) == (0, 0, 0)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_spectrum_of_a_formed_hessian(case: Case) -> None:
    values = np.linalg.eigvalsh(oracles.hessian(case.parts()))
    result = spectrum(case.problem())
    scale = np.abs(values).max()
    assert result.eigenvalues is not None
    np.testing.assert_allclose(result.eigenvalues, values, atol=1e-10 * scale)
    assert (result.largest, result.smallest) == pytest.approx((values[-1], values[0]), abs=1e-10 * scale)
    assert result.rounding == pytest.approx(1e-10 * scale)
    assert (result.largest_lower, result.largest_upper) == pytest.approx(
        (values[-1] - 1e-10 * scale, values[-1] + 1e-10 * scale), rel=1e-8
    )
    assert result.confidence == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_definite_hessian_has_no_eigenvalue_below_the_rounding_of_its_format(dtype: torch.dtype) -> None:
    """Softmax regression on a rank-deficient table: H is positive semidefinite, and half of its eigenvalues are 0."""
    torch.manual_seed(0)
    features = torch.randn(60, 12, dtype=torch.float64) @ torch.randn(12, 40, dtype=torch.float64)
    problem = Problem(nn.Linear(40, 5).to(dtype), (features.to(dtype), torch.randint(0, 5, (60,))))
    result = spectrum(problem)
    assert result.rounding is not None
    assert result.smallest_lower is not None
    assert result.smallest_upper is not None
    assert (result.smallest or 0.0) < 0
    assert result.smallest_lower <= 0 <= result.smallest_upper
    assert not [v for v in result.eigenvalues or () if v < -result.rounding]
    assert sum(v > result.rounding for v in result.eigenvalues or ()) == 4 * 13
    # The products' format, whatever the sums' is.
    assert result.rounding == pytest.approx((2e-5 if dtype == torch.float32 else 1e-10) * (result.largest or 0.0))


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("seed", marked("coverage", range(3), [0]))
def test_spectrum_by_products(case: Case, seed: int) -> None:
    values = np.linalg.eigvalsh(oracles.hessian(case.parts()))
    result = spectrum(case.problem(forms_hessian=False), seed=seed)
    slack = 0.005 * np.abs(values).max()
    assert result.largest is not None
    assert result.smallest is not None
    assert result.largest_upper is not None
    assert result.smallest_lower is not None
    assert result.smallest_lower <= values[0] + 1e-9 <= result.smallest + 2e-9
    assert result.largest - 1e-9 <= values[-1] <= result.largest_upper + 1e-9
    assert result.largest_upper - result.largest <= slack
    assert result.smallest - result.smallest_lower <= slack
    assert result.confidence == pytest.approx(0.999)
    assert result.warnings == ()


def _known_in_float32(size: float) -> tuple[Problem, np.ndarray]:
    """A quadratic in float32 with ends that stand out, and the eigenvalues of its matrix."""
    values = torch.cat([size * torch.tensor([1.0, -0.7]).double(), torch.linspace(-0.3, 0.3, D - 2).double()])
    q = orthogonal(D, 3)
    matrix = ((q * values) @ q.T).float()
    model, samples, loss = quadratic(matrix.double())
    assert isinstance(samples, tuple)
    problem = Problem(model.float(), (samples[0].float(), samples[1].float()), loss, forms_hessian=False)
    return problem, np.linalg.eigvalsh(((matrix + matrix.T) / 2).double().numpy())


@pytest.mark.parametrize("size", [1e-6, 1.0, 100.0])
def test_the_intervals_allow_for_the_rounding_of_float32(size: float) -> None:
    """Ritz values lie beyond the spectrum by rounding; the intervals hold its ends all the same, and lambda."""
    problem, values = _known_in_float32(size)
    beyond = 0
    for seed in range(20):
        run = extremes(problem, seed=seed).whole
        result = spectrum(problem, run=run)
        beyond += run.values[-1] > values[-1] or run.values[0] < values[0]
        assert (result.largest_lower, result.largest_upper) == run.largest_interval
        assert (result.smallest_lower, result.smallest_upper) == run.smallest_interval
        for (low, high), exact in (
            (run.largest_interval, values[-1]),
            (run.smallest_interval, values[0]),
            (run.norm_interval, np.abs(values).max()),
        ):
            assert low <= exact <= high
            assert high - low < 0.011 * np.abs(values).max()
    assert beyond > 0


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 2e-5)])
def test_the_slack_for_rounding_is_never_less_in_a_coarser_format(dtype: torch.dtype, slack: float) -> None:
    assert rounding_slack(dtype) == slack


def test_the_slack_is_a_share_of_the_norm_and_lambda_is_never_below_0() -> None:
    run = Ritz([], [], np.array([-3.0, 1.0]), -3.1, 1.2, rounding=0.5)
    assert run.norm_interval == pytest.approx((1.5, 4.6))
    assert run.largest_interval == pytest.approx((-0.5, 2.7))
    assert run.smallest_interval == pytest.approx((-4.6, -1.5))
    assert Ritz([], [], np.array([-3.0, 1.0]), -3.1, 1.2, rounding=1.5).norm_interval[0] == 0


def test_spectrum_of_a_language_model() -> None:
    case = BY_NAME["gpt2"]
    problem = case.problem()
    result = spectrum(problem)
    product = oracles.hessian_operator(case.parts())
    operator = LinearOperator((problem.d, problem.d), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(problem.d)
    low, high = np.sort(eigsh(operator, k=2, which="BE", v0=start, tol=1e-6, return_eigenvectors=False))
    assert result.largest_upper is not None
    assert result.smallest_lower is not None
    assert result.largest == pytest.approx(high, rel=0.005)
    assert result.smallest == pytest.approx(low, abs=0.005 * max(high, -low))
    assert result.largest_upper >= high * (1 - 1e-9)
    assert result.smallest_lower <= low * (1 - 1e-9)


def test_too_few_steps_are_said() -> None:
    matrix = symmetric(200, 6)
    problem = Problem(*quadratic(matrix), forms_hessian=False)
    result = spectrum(problem, steps=8)
    (warning,) = result.warnings
    assert warning.code == "not-converged"
    assert result.steps == 8
    values = np.linalg.eigvalsh(matrix.numpy())
    assert result.largest_upper is not None
    assert result.largest_upper >= values[-1] > (result.largest or 0.0)


def test_a_run_that_is_late_ends_with_bounds_that_hold() -> None:
    matrix = symmetric(200, 6)
    problem = Problem(*quadratic(matrix), forms_hessian=False)
    asked: list[None] = []

    def late() -> bool:
        asked.append(None)
        return len(asked) == 3

    run = extremes(problem, late=late).whole
    values = np.linalg.eigvalsh(matrix.numpy())
    assert run.steps < extremes(problem).whole.steps
    assert run.lower <= values[0]
    assert run.upper >= values[-1]
    result = spectrum(problem, run=run)
    (warning,) = result.warnings
    assert warning.code == "not-converged"
    assert f"after {run.steps} Lanczos steps" in warning.found


def test_progress_and_cost() -> None:
    problem = BY_NAME["mlp"].problem(forms_hessian=False)
    calls: list[tuple[str, float, float]] = []
    result = spectrum(problem, progress=lambda *call: calls.append(call))
    assert calls
    assert {stage for stage, _, _ in calls} == {"spectrum"}
    assert all(done <= total for _, done, total in calls)
    assert result.steps is not None
    assert result.cost.passes == pytest.approx(1 + 2 * result.steps)


@pytest.mark.parametrize("rank", [None, 5])
def test_the_kept_basis_gives_the_products(rank: int | None) -> None:
    """A Q' = Q' T + r e_m', also where Krylov spaces were closed on the way (rank 5)."""
    g = torch.Generator().manual_seed(3)
    a = torch.randn(60, 60 if rank is None else rank, generator=g, dtype=torch.float64)
    matrix = a + a.T if rank is None else a @ a.T
    start = random_start(60, g, matrix)
    run = lanczos(lambda block: matrix @ block, start, 60, 12, 1e-3, g, keep=True)
    assert run.basis is not None
    assert run.residual is not None
    q = run.basis.T
    wanted = q @ torch.from_numpy(run.tridiagonal())
    wanted[:, -1] += run.residual
    torch.testing.assert_close(q.T @ q, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(matrix @ q, wanted, rtol=0, atol=1e-8 * float(matrix.abs().max()))
    assert lanczos(lambda block: matrix @ block, start, 60, 12, 1e-3, g).basis is None


def test_the_first_part_of_a_run_knows_the_norm() -> None:
    """The same vectors and products, ended where max|eig H| is known; both bounds hold."""
    matrix = torch.diag(torch.cat([torch.tensor([9.0]), torch.linspace(-3, 3, 299)])).double()
    problem = Problem(*quadratic(matrix))
    found = extremes(problem, keep=True)
    part, whole = found.norm, found.whole
    assert part.steps < whole.steps
    assert part.norm_known
    assert not part.ends_known
    assert whole.ends_known
    assert whole.alphas[: part.steps] == part.alphas
    assert part.norm <= 9 <= part.norm_bound
    assert whole.lower <= -3 <= whole.values[0]
    assert part.basis is not None
    assert part.residual is not None
    q = part.basis.T
    wanted = q @ torch.from_numpy(part.tridiagonal())
    wanted[:, -1] += part.residual
    torch.testing.assert_close(matrix @ q, wanted, rtol=0, atol=1e-10)
